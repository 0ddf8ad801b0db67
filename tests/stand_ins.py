"""What takes the place of training and of images, for tests of what is trained when."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfl.config.load import load
from sfl.config.schema import Config
from sfl.runs.directory import Run
from tests.conftest import make_run

MadeRun = Callable[..., Path]


TINY = """
model: {name: SimpleModel}
data: {source: shapes, shapes: {train: 20, test: 20}}
train: {epochs: 2, device: cpu}
"""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """configs/one.yaml and two.yaml, which differ in the layer, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "one.yaml").write_text(TINY)
    (folder / "two.yaml").write_text(TINY.replace("SimpleModel", "SimpleModel, layer: conv"))
    return folder


def stand_in(config: Config) -> Any:
    """Stands for a Setup."""
    import torch

    summary = SimpleNamespace(bytes=4, learning_bytes=4, activations=1, feedback=None)
    return SimpleNamespace(
        config=config, summary=summary, precision="float32", dataset=SimpleNamespace(splits={}),
        device=torch.device("cpu"),
    )  # fmt: skip


class Images:
    """Stand-ins for data sets, told apart by their root; `read` counts what was read.

    A root whose name has "val" in it has validation images.
    """

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, config: Config, *, need_train: bool = True) -> Any:
        self.read.append(config.data.root)
        data = config.data
        drawn = ("aa", "bb") if data.source == "shapes" else (data.root, "t")  # as make_run has it
        provenance = dict(zip(("source", "train", "test"), (data.source, *drawn), strict=True))
        validation = "images" if "val" in config.data.root else None
        return SimpleNamespace(provenance=lambda: provenance, validation=validation)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    made = Images()
    monkeypatch.setattr("sfl.training.images.load_images", made)
    return made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, images: Images) -> list[tuple[str, Config]]:
    """Takes training's place: notes (run, config) and leaves a finished run behind."""
    done: list[tuple[str, Config]] = []

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        done.append((run.name, setup.config))
        assert run.status == "running", "fit() is called with the lock held"
        made = make_run(run.path.parent / "made", setup.config.to_yaml())
        for file in made.iterdir():
            shutil.copy(file, run.path)
        shutil.rmtree(made)
        result = json.loads((run.path / "result.json").read_text())
        run.write_json("result.json", result | {"run": run.name})
        return {"run": run.name}

    monkeypatch.setattr("sfl.training.start.fit", fit)
    for module in ("start", "setup"):
        name = f"sfl.training.{module}.set_up"
        monkeypatch.setattr(name, lambda config, *_, **__: stand_in(config))
    return done


@pytest.fixture
def fails(
    monkeypatch: pytest.MonkeyPatch, trained: list[tuple[str, Config]]
) -> Callable[[str, Exception], None]:
    """`fails("one-s0", error)`: that run's training raises it."""
    import sfl.training.start

    def fail(name: str, error: Exception) -> None:
        fit = vars(sfl.training.start)["fit"]

        def failing(setup: Any, run: Run) -> dict[str, Any]:
            if run.name == name:
                raise error
            return dict(fit(setup, run))

        monkeypatch.setattr("sfl.training.start.fit", failing)

    return fail


def planted(path: Path, config: str, *overrides: str, finished: bool = True) -> Run:
    """A made-up run of a config."""
    run = Run(make_run(path, load(config, overrides).to_yaml()))
    if not finished:
        (path / "result.json").unlink()
    return run


def made(made_run: MadeRun, path: Path, *arguments: str, finished: bool = True) -> Run:
    return planted(path, *arguments, finished=finished)
