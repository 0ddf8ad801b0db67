"""The wheel: what travels in it, and that it works away from the repository."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def run_python(code: str, folder: Path, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install .` fills it. Built in a copy: a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("sfl", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run_python("from setuptools.build_meta import build_wheel; build_wheel('dist')", source)
    (wheel,) = (source / "dist").glob("*.whl")
    installed = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def files(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


def test_the_wheel_holds_every_module_and_every_config(site: Path) -> None:
    for pattern in ("*.py", "*.cpp", "*.h"):
        assert files(site / "sfl", pattern) == files(ROOT / "sfl", pattern) != set()
    assert files(site / "sfl", "*.html") == {"comparison/report.html"}
    configs = files(ROOT / "configs", "*.yaml")
    assert files(site / "sfl" / "configs", "*.yaml") == configs
    assert {"conv.yaml", "notebook/simple.yaml"} <= configs


def test_the_wheel_brings_nothing_else(site: Path) -> None:
    assert {path.name for path in site.iterdir()} == {"sfl", "sfl-0.2.0.dist-info"}
    licence = site / "sfl-0.2.0.dist-info" / "licenses" / "LICENSE"
    assert licence.read_text().startswith("MIT License")


def test_the_wheel_finds_the_named_configs_from_any_folder(site: Path, tmp_path: Path) -> None:
    code = (
        "import json, sfl.config.load as c; found = c.named_configs() | c.named_grids();"
        "print(json.dumps([c.__file__, {k: str(v) for k, v in found.items()}]))"
    )
    module, found = json.loads(run_python(code, tmp_path, PYTHONPATH=str(site)))
    assert Path(module).is_relative_to(site)
    names = {path.removesuffix(".yaml") for path in files(ROOT / "configs", "*.yaml")}
    assert set(found) == names
    assert all(Path(path).is_relative_to(site / "sfl") for path in found.values())


def test_the_wheel_makes_the_command(site: Path) -> None:
    entry_points = (site / "sfl-0.2.0.dist-info" / "entry_points.txt").read_text()
    assert "sfl = sfl.cli.main:main" in entry_points


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
