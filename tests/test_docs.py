"""The documents can't rot: commands of the README run, tables come from what they are made of."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from sfl.config import load
from sfl.config.grid import load_grid
from sfl.runs.directory import Run
from sfl.training.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# One epoch on a few embedded images, put behind the README's own options.
SMALL = (
    "data.source=shapes", "train.epochs=1", "data.shapes.train=128", "data.shapes.test=64",
    "train.device=cpu",
)  # fmt: skip
TAKES_SET = ("train", "compare", "evaluate", "data")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def console_blocks(text: str) -> list[str]:
    return re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [
        line for page in PAGES for b in console_blocks(page.read_text()) for line in b.split("\n")
    ]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


def test_console_blocks_hold_commands_of_ours() -> None:
    assert len(commands()) >= 6
    assert all(command[0] == "scripts/sfl" for command in commands())


def test_every_console_command_of_the_documents_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the README, because `evaluate` needs what `train` left."""
    from sfl.cli.main import main

    monkeypatch.chdir(tmp_path)
    for _, *arguments in commands():
        if arguments[0] in TAKES_SET:
            arguments += [word for setting in SMALL for word in ("--set", setting)]
        monkeypatch.setattr("sys.argv", ["sfl", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert exit_.value.code == 0, f"sfl {' '.join(arguments)}: {captured.err}"
        assert captured.out, f"sfl {' '.join(arguments)} printed nothing"


def test_readme_is_short() -> None:
    assert README.count("\n") < 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_config_reference_is_up_to_date() -> None:
    made = script("config_reference")
    assert (ROOT / "docs" / "config.md").read_text() == made.reference()
    page = (ROOT / "docs" / "run-directory.md").read_text()
    assert page == made.run_directory(page)
    assert (ROOT / "docs" / "config.schema.json").read_text() == made.schema()
    assert (ROOT / "docs" / "compare.schema.json").read_text() == made.schema(made.Comparison)


def test_the_results_table_comes_from_docs_results() -> None:
    made = script("reproduce_results")
    assert made.BEGIN in README and made.END in README
    assert README.split(made.BEGIN)[1].split(made.END)[0].strip() == made.table().strip()


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "docs" / "results").glob("*/")), ids=lambda p: p.name
)
def test_kept_results_are_whole_and_of_the_config_they_name(folder: Path) -> None:
    made = script("reproduce_results")
    row = next(row for row in made.ROWS if row.name == folder.name)
    assert sorted(file.name for file in folder.iterdir()) == sorted(made.KEPT)
    run = Run(folder)
    assert run.result is not None
    assert len(run.metrics) == run.result.epochs
    kept = load.from_text(run.config_text, folder.name)
    named = load.load(row.config, [*row.overrides, "data.source=folder"])
    assert kept.identity() == named.identity()
    accuracy = f"{100 * run.result.accuracy:.2f} % test accuracy after {len(run.metrics)} epochs"
    assert accuracy in load.find(row.config).read_text(encoding="utf-8")


def test_published_weights_are_what_their_card_says() -> None:
    (path,) = (ROOT / "docs" / "weights").glob("*.safetensors")
    kept = read_checkpoint(path)  # compares the hash of what is in it
    said = kept.published
    assert said is not None
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"before rounding {100 * said['accuracy']:.2f} %" in card
    assert f"Label: {said['label']}" in card
    assert f"{path.stat().st_size / 1e6:.1f} MB" in card
    config = load.from_text(kept.config, path.name)
    cells = load_grid("grids/long-twins", ["data.source=folder"]).cells
    (cell,) = [cell for cell in cells if cell.name == "local"]
    assert config.identity() == cell.config.identity()


@pytest.mark.parametrize("name", load.named_configs())
def test_every_named_config_loads_and_opens_with_its_command(name: str) -> None:
    text = load.named_configs()[name].read_text(encoding="utf-8")
    assert re.match(rf"# sfl train --config (configs/)?{name}(\.yaml)?\n# ", text)
    said, read = yaml.safe_load(text), load.load(name)
    assert "extends" in said or said["model"]["name"] == read.model.name


def test_the_readme_names_every_config() -> None:
    for name in load.named_configs():
        assert f"`{name}`" in README


def test_python_blocks_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    from sfl.cli.main import main

    monkeypatch.chdir(tmp_path)
    small = [word for setting in SMALL for word in ("--set", setting)]
    monkeypatch.setattr("sys.argv", ["sfl", "train", "--config", "quickstart", *small])
    with pytest.raises(SystemExit):
        main()
    namespace: dict[str, object] = {}
    exec(first, namespace)
    exec(second, namespace)
    assert namespace["y"].shape == (64, 10, 30, 30)  # type: ignore[attr-defined]
    assert namespace["distance"] == pytest.approx(0, abs=1e-6)


def test_the_speed_table_comes_from_docs_speed() -> None:
    made = script("speed_table")
    assert README.split(made.BEGIN)[1].split(made.END)[0].strip() == made.table().strip()


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "docs" / "twins").glob("*Net/")), ids=lambda p: p.name
)
def test_the_twins_reports_are_of_their_numbers_and_quoted_as_they_are(folder: Path) -> None:
    from sfl.comparison.markdown import to_markdown
    from sfl.comparison.schema import Comparison
    from sfl.comparison.table import to_csv

    text = (folder / "comparison.json").read_text(encoding="utf-8")
    comparison = Comparison.model_validate_json(text)
    assert to_markdown(comparison).strip() in (folder / "report.md").read_text(encoding="utf-8")
    assert to_csv(comparison) == (folder / "comparison.csv").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "twins" / "README.md").read_text(encoding="utf-8")
    assert " ".join(comparison.conclusion) in " ".join(page.split())


def test_the_readme_opens_with_the_twins() -> None:
    """Its first picture is of their report, its words are the report's."""
    from sfl.comparison.schema import Comparison

    folder = ROOT / "docs" / "twins" / "SpatialDenseNet"
    assert re.findall(r"!\[.*?\]\((.*?)\)", README)[0] == "docs/twins/SpatialDenseNet/accuracy.svg"
    comparison = Comparison.model_validate_json((folder / "comparison.json").read_text())
    assert comparison.conclusion[0] in " ".join(README.split())


def test_every_promise_names_tests_that_there_are() -> None:
    named = re.findall(
        r"`(tests/\S+?\.py)(?:::(\w+))?`", (ROOT / "docs" / "reliability.md").read_text()
    )
    assert named
    for path, test in named:
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
