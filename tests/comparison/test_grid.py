"""A study: what is tried first, what is chosen, what is trained then. Training has a stand-in."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from sfl.comparison.grid import commands, missing, run_grid
from sfl.config.grid import Grid, load_grid
from sfl.config.load import load
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from tests.stand_ins import configs, images, trained

__all__ = ["configs", "images", "trained"]
STUDY = """\
base: one
set: {data.validation: 5}
axes:
  sharing:
    local: {}
    conv: {model.layer: conv}
  learning:
    backprop: {}
    fa: {learn.rule: fa}
seeds: 2
tune: {optimizer.lr: [0.1, 0.2, 0.3], epochs: 1}
leave_out: [{sharing: conv, learning: fa}]
"""
BEST = {"local-backprop": 0.2, "local-fa": 0.3, "conv-backprop": 0.1}


@pytest.fixture
def study(configs: Path, trained: object, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Its runs' validation accuracy is 1 with BEST's rate, and lower with others."""
    import sfl.training.start

    stand_in = vars(sfl.training.start)["fit"]

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        result: dict[str, Any] = stand_in(setup, run)
        best = next(rate for cell, rate in BEST.items() if run.name.startswith(cell))
        accuracy = 1 - abs(setup.config.optimizer.lr - best)
        run.write_metrics([{**line, "validation_accuracy": accuracy} for line in run.metrics])
        return result

    monkeypatch.setattr("sfl.training.start.fit", fit)
    Path("study.yaml").write_text(STUDY)
    return load_grid("study.yaml")


def test_trials_first_then_the_cells_with_what_was_best(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    comparison, _ = run_grid(study, runs_dir)
    tried = [f"{cell}-lr={rate}-s0" for cell in BEST for rate in (0.1, 0.2, 0.3)]
    wanted = [f"{cell}-s{seed}" for cell in BEST for seed in (0, 1)]
    assert [name for name, _ in trained] == tried + wanted
    assert {config.train.epochs for name, config in trained if name in tried} == {1}
    for name, config in trained:
        if name in wanted:
            assert (config.optimizer.lr, config.train.epochs) == (BEST[name[:-3]], 2)
    assert [model.name for model in comparison.models] == list(BEST)
    assert comparison.grid is not None
    assert [cell.chosen["optimizer.lr"] for cell in comparison.grid.cells] == list(BEST.values())
    assert [trial.run for cell in comparison.grid.cells for trial in cell.trials] == tried
    trained.clear()
    again, _ = run_grid(study, runs_dir)
    assert (trained, again) == ([], comparison)


def test_gaps_are_to_the_first_variant_of_each_axis(study: Grid, runs_dir: Path) -> None:
    comparison, _ = run_grid(study, runs_dir)
    assert comparison.grid is not None
    accuracy = {model.name: model.accuracy for model in comparison.models}
    first, fa, conv = (cell.gaps for cell in comparison.grid.cells)
    assert first == {"sharing": 0, "learning": 0}
    reference = accuracy["local-backprop"]
    assert fa == {"sharing": 0, "learning": accuracy["local-fa"] - reference}
    assert conv == {"sharing": accuracy["conv-backprop"] - reference, "learning": 0}


def test_the_commands_train_the_same(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    jobs = missing(study, runs_dir, known=True)
    for line, job in zip(commands(jobs, study.base, runs_dir), jobs, strict=True):
        _, train, *words = shlex.split(line)
        options = dict(zip(words[::2], words[1::2], strict=True))
        overrides = [word for given, word in zip(words[::2], words[1::2], strict=True)
                     if given == "--set"]  # fmt: skip
        assert (train, options["--name"], options["--runs"]) == ("train", job.name, str(runs_dir))
        assert load(options["--config"], overrides) == job.config
    assert len(jobs) == 9  # the trials; what depends on them isn't known yet
    assert len(missing(study, runs_dir)) == 9 + 6
    run_grid(study, runs_dir)
    assert missing(study, runs_dir, known=True) == []


def test_what_cannot_be_tuned_is_refused_first(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    for change, said in {
        ("set: {data.validation: 5}", "set: {}"): "no validation images to choose by",
        ("optimizer.lr: [0.1", "optimizer.rate: [0.1"): "tune: .*unknown key optimizer.rate",
        ("0.3]", "0.1]"): "is named twice",
    }.items():
        Path("study.yaml").write_text(STUDY.replace(*change))
        with pytest.raises(UserError, match=said) as caught:
            run_grid(load_grid("study.yaml"), runs_dir)
        assert caught.value.exit_code is Exit.USAGE
    assert trained == []
