"""What those who carry on are told is true: paths exist, versions are named once or agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\S*\)", text) if "://" not in target]
    named = re.findall(r"`((?:sfl|scripts|tests|docs|\.github)/[\w./]*)", text)
    assert len(targets) + len(named) > 3
    for path in (*targets, *named):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_changelog_knows_this_version() -> None:
    versions = re.findall(r"^## (\S+)", PAGES[1].read_text(encoding="utf-8"), flags=re.MULTILINE)
    versions = [version for version in versions if version != "Unreleased"]
    assert PROJECT["version"] in versions
    assert versions == sorted(versions, key=lambda v: [*map(int, v.split("."))], reverse=True)


def test_pre_commit_takes_the_programs_of_the_venv() -> None:
    """So that it cannot have another version than the dev extra."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert [hook["name"] for hook in hooks] == ["ruff check", "ruff format"]
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(f".venv/bin/{hook['name']}")


def test_github_runs_scripts_test_on_what_the_project_supports() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    *_, last = job["steps"]
    assert last["run"] == "scripts/test" and "PYTHON" in last["env"]
    assert workflow["permissions"] == {"contents": "read"}
    found = {name.rpartition(" :: ")[2] for name in PROJECT["classifiers"]}
    pythons = {name for name in found if re.fullmatch(r"3\.\d+", name)}
    assert set(job["strategy"]["matrix"]["python"]) == pythons
    systems = {"ubuntu-latest": "Linux", "macos-latest": "MacOS"}
    assert {systems[name] for name in job["strategy"]["matrix"]["os"]} == found & {"Linux", "MacOS"}
