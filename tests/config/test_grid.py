"""A study's file: its cells, and what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest

from sfl.config.grid import as_override, load_grid
from sfl.config.load import load, named_grids, override
from sfl.errors import Exit, UserError

ROOT = Path(__file__).parent.parent.parent
STUDY = """\
base: one
set: {train.epochs: 3}
axes:
  sharing:
    local: {}
    conv: {model: {layer: conv}}
  learning:
    backprop: {}
    fa: {learn.rule: fa}
    frozen:
      learn.route: frozen
leave_out:
  - {sharing: conv, learning: [fa, frozen]}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.yaml").write_text("model: {name: SimpleModel}\n")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_cells_are_the_combinations_in_the_files_order(study: Path) -> None:
    grid = load_grid("study.yaml", ["train.seed=4"])
    assert grid.name == "study"
    assert [cell.name for cell in grid.cells] == [
        "local-backprop", "local-fa", "local-frozen", "conv-backprop",
    ]  # fmt: skip
    local, fa, frozen, conv = (cell.config for cell in grid.cells)
    assert (local.model.layer, conv.model.layer) == ("spatial", "conv")
    assert (local.learn.rule, fa.learn.rule, frozen.learn.route) == ("backprop", "fa", "frozen")
    assert {cell.config.train.epochs for cell in grid.cells} == {3}
    assert {cell.config.train.seed for cell in grid.cells} == {4}


def test_a_base_may_lie_beside_the_study(study: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "base.yaml").write_text("model: {name: SimpleModel}\ntrain: {seed: 7}\n")
    (inner / "study.yaml").write_text("base: base.yaml\naxes: {a: {x: {}, y: {train.epochs: 2}}}\n")
    assert load_grid("inner/study.yaml").cells[0].config.train.seed == 7


MISTAKES = {
    ("base: one", "base: two"): "study.yaml:1: base: two: no such config",
    ("base: one\n", ""): "base is missing",
    ("    conv: {model", "    local: {model"): "study.yaml:6: local is given twice",
    ("learn.rule: fa", "learn.rul: fa"): "study.yaml:9: unknown key learn.rul: did you mean",
    ("learn.rule: fa", "learn.rule: fb"): 'study.yaml:9: learn.rule: expected backprop, fa',
    ("train.epochs: 3", "train.epochs: 0"): "study.yaml:2: train.epochs: must be at least 1",
    ("conv, learning: [", "cnv, learning: ["): "leave_out: [0]: no sharing 'cnv'; local, conv",
    ("{sharing: conv", "{shared: conv"): "leave_out: [0]: no axis 'shared'; there is sharing",
    ("sharing: conv, learning: [fa, ", "learning: [backprop, "): "leaves out local-backprop",
    ("  learning:", "  a: {x: {}}\n  learning:"): "axes: expected at most 2 entries",
    ("    fa:", "    f/a:"): "axes: 'f/a' can't be part of a run's name",
    ("base: one\n", "base: one\nseeds: 0\n"): "study.yaml:2: seeds: must be at least 1, not 0",
    ("base: one\n", "base: one\ntune: {epochs: 1}\n"): "study.yaml:2: tune: names no setting",
    ("base: one\n", "base: one\ntune: {optimizer.lr: [1e-3], epochs: 1}\n"): "at least 2 entries",
    ("base: one\n", "base: one\ntune: {optimizer.lr: [1, 2]}\n"): "tune.epochs is missing",
    ("base: one\n", "base: one\ntune: {optimizer.lr: [1, 2, 1.0], epochs: 1}\n"):
        "study.yaml:2: tune: optimizer.lr: a value is there twice",
    ("base: one\n", "base: one\ntune: {data.validation: [1, 2], epochs: 1}\n"):
        "study.yaml:2: tune: data.validation: can't be tuned: all trials have the same",
    ("base: one\n", "base: one\ntune: {optimizer.lr: [1, 2], epochs: 1, on: test}\n"):
        'study.yaml:2: tune.on: expected validation, not "test"',
    ("set: {", "tune: {optimizer: {lr: [1, 2]}, epochs: 1}\nset: {optimizer.lr: 1, "):
        "study.yaml:3: optimizer.lr is tuned (take it out here, or out of tune:)",
    ("    frozen:\n      learn.route: frozen", "    frozen: 3"):
        "axes.learning.frozen: expected keys and values, not 3",
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MISTAKES.items())
def test_mistakes_are_told_in_a_line(study: Path, change: tuple[str, str], said: str) -> None:
    before, after = change
    assert before in STUDY
    study.write_text(STUDY.replace(before, after))
    with pytest.raises(UserError) as caught:
        load_grid("study.yaml")
    assert said in str(caught.value)
    assert caught.value.exit_code is Exit.USAGE


def test_one_cell_is_no_study(study: Path) -> None:
    study.write_text("base: one\naxes: {a: {x: {}}}\n")
    with pytest.raises(UserError, match="one cell alone"):
        load_grid("study.yaml")


def test_two_cells_of_one_name_are_refused(study: Path) -> None:
    axes = "{a: {x: {}, x-y: {train.epochs: 2}}, b: {y-z: {}, z: {train.epochs: 3}}}"
    study.write_text(f"base: one\naxes: {axes}\n")
    with pytest.raises(UserError, match="two cells are called x-y-z"):
        load_grid("study.yaml")
    study.write_text("base: one\naxes: {a: {x: {}, X: {train.epochs: 2}}}\n")
    with pytest.raises(UserError, match="two cells are called x"):  # one folder on many a disk
        load_grid("study.yaml")


def test_an_override_is_read_as_it_was_meant(study: Path) -> None:
    config = load_grid("study.yaml").cells[0].config
    for key, value in {
        "optimizer.lr": 0.003, "optimizer.clip_norm": None, "train.device": "cpu",
        "data.root": "images #2", "data.augment.flip": False, "model.channels": [2, 3],
    }.items():  # fmt: skip
        found: Any = override(config, [as_override(key, value)]).model_dump()
        for part in key.split("."):
            found = found[part]
        assert found == value


def test_the_studies_that_ship_can_be_read() -> None:
    assert {"grids/small", "grids/sharing-by-learning"} <= set(named_grids())
    for name in named_grids():
        assert len(load_grid(name).cells) >= 2


def test_a_config_is_no_study_and_a_study_no_config(study: Path) -> None:
    with pytest.raises(UserError, match=r"one\.yaml: a config, not a study") as config:
        load_grid("configs/one.yaml")
    with pytest.raises(UserError, match=r"local\.yaml: a config, not a study"):
        load_grid(str(ROOT / "configs" / "board" / "local.yaml"))  # which extends another
    with pytest.raises(UserError, match=r"study\.yaml: a study, not a config") as other:
        load(str(study))
    assert (config.value.hint, other.value.hint) == ("give it to sfl train", "give it to sfl grid")
