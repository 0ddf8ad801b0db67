"""A study: what is tried first, what is chosen, what is trained then. Training has a stand-in."""

import csv
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from sfl.cli.compare import show_comparison
from sfl.comparison.command_list import commands
from sfl.comparison.grid import missing, run_grid
from sfl.comparison.table import to_csv
from sfl.config.grid import Grid, load_grid
from sfl.config.load import load
from sfl.config.schema import Config
from sfl.errors import DIVERGED, Exit, UserError
from sfl.jobs.job import AtOnce
from sfl.returned import Compared
from sfl.runs import store
from sfl.runs.directory import Run, lock
from tests.conftest import ENVIRONMENT
from tests.stand_ins import configs, images, trained

__all__ = ["configs", "images", "trained"]
ROOT = Path(__file__).parent.parent.parent
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
    wanted = [f"{cell}-s{seed}" for seed in (0, 1) for cell in BEST]
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
    run_grid(study, runs_dir)
    for run in store.list_runs(runs_dir):
        finished = json.loads((run.path / "result.json").read_text())
        accuracy = {"local-fa": 0.25, "conv-backprop": 0.75}.get(run.name.rpartition("-")[0], 0.5)
        run.write_json("result.json", finished | {"accuracy": accuracy})
        labels = np.load(run.path / "labels.npy")
        right = np.arange(len(labels)) < accuracy * len(labels)
        np.save(run.path / "predictions.npy", np.where(right, labels, 1 - labels))
    comparison, _ = run_grid(study, runs_dir)
    assert comparison.grid is not None
    assert [cell.gaps for cell in comparison.grid.cells] == [
        {"sharing": 0, "learning": 0},
        {"sharing": 0, "learning": -0.25},
        {"sharing": 0.25, "learning": 0},
    ]


def test_the_commands_train_the_same(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    jobs = missing(study, runs_dir, known=True)
    for line, job in zip(commands(jobs, study, runs_dir), jobs, strict=True):
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


def test_the_commands_leave_out_what_is_being_trained(study: Grid, runs_dir: Path) -> None:
    first = missing(study, runs_dir)[0]
    run = Run(runs_dir / first.name)
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(first.config.to_yaml())
    (run.path / "environment.json").write_text("{}")
    with lock(run):
        jobs = missing(study, runs_dir)
        assert len(jobs) == 9 + 6 and jobs[0].name == first.name
        lines = commands(jobs, study, runs_dir)
        assert len(lines) == 9 + 5 and not any(f"{first.name} " in line for line in lines)


def test_a_damaged_run_is_refused_before_others_are_trained(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    run_grid(study, runs_dir)
    trained.clear()
    shutil.rmtree(runs_dir / "local-backprop-lr=0.1-s0")  # a trial, before all runs of cells
    for name in ("metrics.jsonl", "predictions.npy", "result.json"):
        path = runs_dir / "local-fa-s0" / name
        there = path.read_bytes()
        path.write_text("?")
        with pytest.raises(UserError, match=name) as caught:
            run_grid(study, runs_dir)
        assert caught.value.exit_code is Exit.RUN and trained == []
        path.write_bytes(there)


def test_runs_that_do_not_fit_are_refused_before_the_trials(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.host_memory.available_bytes", lambda: 10**10)
    monkeypatch.setattr("sfl.jobs.check.PROCESS", 10**9)  # nine fit, as many as are tried
    with pytest.raises(UserError, match="at most --jobs 9") as caught:
        run_grid(load_grid("study.yaml", seeds=9), runs_dir, at_once=AtOnce(12))
    assert caught.value.exit_code is Exit.RESOURCES and trained == []


def test_a_name_that_no_disk_takes_is_refused(study: Grid, runs_dir: Path) -> None:
    Path("study.yaml").write_text(STUDY.replace("local", "l" * 220))
    with pytest.raises(UserError, match="up to 200 letters"):
        missing(load_grid("study.yaml"), runs_dir)


def test_the_commands_name_runs_beside_others_of_their_names(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    run_grid(study, runs_dir)
    other = load_grid("study.yaml", ["data.batch_size=3"])
    lines = commands(missing(other, runs_dir), other, runs_dir)
    assert f"--name local-backprop-lr=0.1-s0-2 --runs {runs_dir}" in lines[0]


def test_the_commands_name_runs_beside_those_of_other_images(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    folder = load_grid("study.yaml", ["data.source=folder", "data.root=here"])
    first = missing(folder, runs_dir)[0]
    run = Run(runs_dir / first.name)
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(first.config.to_yaml())
    data = {"source": "folder", "train": "there", "test": "t"}
    run.write_json("environment.json", ENVIRONMENT | {"data": data})
    lines = commands(missing(folder, runs_dir), folder, runs_dir)
    assert f"--name {first.name}-2 " in lines[0]


def test_cells_that_differ_in_epochs_alone_have_their_trials_in_common(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    axis = "  epochs: {local-backprop: {}, local-backprop-long: {train.epochs: 5}}"
    text = STUDY.replace(STUDY[STUDY.index("  sharing") : STUDY.index("seeds")], f"{axis}\n")
    Path("study.yaml").write_text(text.replace("leave_out", "# "))
    comparison, _ = run_grid(load_grid("study.yaml"), runs_dir)
    names = [name for name, _ in trained]
    assert names[:3] == [f"local-backprop-lr={rate}-s0" for rate in (0.1, 0.2, 0.3)]
    assert len(names) == 3 + 2 * 2
    assert comparison.grid is not None
    assert [cell.chosen for cell in comparison.grid.cells] == [{"optimizer.lr": 0.2}] * 2


def test_a_notebook_shows_its_tables_and_the_report_is_in_the_schema(
    study: Grid, runs_dir: Path
) -> None:
    comparison, _ = run_grid(study, runs_dir)
    shown = Compared(**dict(comparison))
    html = shown._repr_html_()
    titles = ("sharing × learning", "what each cell tried")
    for text in (
        *titles,
        "scope=col>fa</th>",
        "scope=row>local</th>",
        "<td>lr = 0.3; the highest tried</td>",
    ):
        assert text in html
    assert html.count("<table>") == 2
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(json.dumps(shown.to_dict())), schema)


def test_of_one_axis_what_was_tried_is_printed_too(
    study: Grid, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = "\n".join(line for line in STUDY.splitlines() if "fa" not in line)
    one = one.replace("  learning:\n    backprop: {}\n", "")
    Path("study.yaml").write_text(
        one.replace("local:", "local-fa:").replace("conv:", "conv-backprop:")
    )
    show_comparison(*run_grid(load_grid("study.yaml"), runs_dir), None, "")
    printed = capsys.readouterr().out
    assert "test accuracy" in printed and "what each cell tried" in printed
    assert "lr = 0.3" in printed


def test_cells_of_one_axis_stand_by_their_label_with_what_is_theirs(
    configs: Path, trained: object, monkeypatch: pytest.MonkeyPatch, runs_dir: Path
) -> None:
    import sfl.training.start

    stand_in = vars(sfl.training.start)["fit"]

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        result: dict[str, Any] = stand_in(setup, run)
        label = "shared" if setup.config.model.layer == "conv" else "pure"
        written = json.loads((run.path / "result.json").read_text())
        run.write_json("result.json", written | {"label": label})
        return result

    monkeypatch.setattr("sfl.training.start.fit", fit)
    variants = "a: {}\n    b: {model.layer: conv}\n    c: {learn.rule: fa}"
    Path("study.yaml").write_text(f"base: one\naxes:\n  net:\n    {variants}\n")
    comparison, models = run_grid(load_grid("study.yaml"), runs_dir)
    assert comparison.grid
    assert [model.name for model in models] == ["a", "c", "b"]
    assert [model.name for model in comparison.models] == ["a", "c", "b"]
    assert [cell.model for cell in comparison.grid.cells] == ["a", "c", "b"]
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [(line["name"], line["variant.net"]) for line in lines] == [(n, n) for n in "acb"]


def test_a_trial_that_diverges_is_the_worst(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sfl.training.start

    stand_in = vars(sfl.training.start)["fit"]
    too_large = 0.2  # otherwise the best of local-backprop

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        if setup.config.optimizer.lr >= too_large and run.name.startswith("local-backprop"):
            trained.append((run.name, setup.config))
            (run.path / "config.yaml").write_text(setup.config.to_yaml())
            error = UserError(f"{DIVERGED}: by the test", exit_code=Exit.DIVERGED)
            run.write_failure(error)
            raise error
        result: dict[str, Any] = stand_in(setup, run)
        return result

    monkeypatch.setattr("sfl.training.start.fit", fit)
    comparison, _ = run_grid(study, runs_dir)
    assert comparison.grid is not None
    cell = comparison.grid.cells[0]
    assert [trial.accuracy for trial in cell.trials] == [pytest.approx(0.9), None, None]
    assert cell.chosen == {"optimizer.lr": 0.1}
    trained.clear()
    again, _ = run_grid(study, runs_dir, training=False)
    assert (trained, again, missing(study, runs_dir)) == ([], comparison, [])
    too_large = 0.0
    with pytest.raises(UserError, match=r"1 run failed: local-backprop .*optimizer\.lr") as e:
        run_grid(study, runs_dir / "others")  # nothing to compare the others with
    assert not any(name.endswith("-s1") for name, _ in trained)
    assert e.value.exit_code is Exit.DIVERGED


def test_a_cell_that_fails_does_not_keep_the_others_from_being_told(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trials of one diverge, and one run of another is killed."""
    import sfl.training.start

    stand_in = vars(sfl.training.start)["fit"]

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        (run.path / "config.yaml").write_text(setup.config.to_yaml())
        if run.name.startswith("conv-backprop"):
            run.write_failure(UserError(DIVERGED, exit_code=Exit.DIVERGED))
            raise UserError(DIVERGED, exit_code=Exit.DIVERGED)
        if run.name == "local-fa-s1":
            raise UserError("no memory", exit_code=Exit.RESOURCES)
        result: dict[str, Any] = stand_in(setup, run)
        return result

    monkeypatch.setattr("sfl.training.start.fit", fit)
    comparison, _ = run_grid(study, runs_dir)
    assert [(model.name, model.runs) for model in comparison.models] == [
        ("local-backprop", ["local-backprop-s0", "local-backprop-s1"]),
        ("local-fa", ["local-fa-s0"]),
    ]
    assert [(failed.run, failed.exit_code) for failed in comparison.failed] == [
        ("conv-backprop", 5),
        ("local-fa-s1", 6),
    ]
    assert comparison.grid is not None
    assert [cell.model for cell in comparison.grid.cells] == ["local-backprop", "local-fa"]
    assert "conv-backprop failed, and is not counted" in Compared(**dict(comparison))._repr_html_()
    assert [job.name for job in missing(study, runs_dir)] == ["local-fa-s1"]


def test_without_training_a_study_is_told_as_far_as_it_has_come(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(UserError, match=r"no finished run of local-backprop-lr") as caught:
        run_grid(study, runs_dir, training=False)
    assert caught.value.exit_code is Exit.RUN
    run_grid(study, runs_dir)
    trained.clear()
    shutil.rmtree(runs_dir / "local-fa-s1")
    shutil.rmtree(runs_dir / "conv-backprop-lr=0.2-s0")  # so that its rate isn't chosen yet
    capsys.readouterr()
    comparison, _ = run_grid(study, runs_dir, training=False)
    assert [len(model.runs) for model in comparison.models] == [2, 1]
    assert "no finished run of conv-backprop-lr=0.2-s0, local-fa-s1" in capsys.readouterr().err
    assert trained == [] and comparison.failed == []


def test_a_run_of_another_version_is_told_before_anything_is_trained(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    run_grid(study, runs_dir)
    trained.clear()
    with (runs_dir / "local-fa-s1" / "config.yaml").open("a") as file:
        file.write("future: 1\n")
    with pytest.raises(UserError, match=r"local-fa-s1: .*unknown key future.*another version") as e:
        run_grid(study, runs_dir)
    assert e.value.exit_code is Exit.RUN and trained == []


def test_a_trial_as_long_as_a_run_is_trained_once(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    Path("study.yaml").write_text(STUDY.replace("epochs: 1", "epochs: 2"))
    lacking = missing(load_grid("study.yaml"), runs_dir)
    run_grid(load_grid("study.yaml"), runs_dir)
    assert len(lacking) == len(trained) == 9 + 3


def test_the_last_epoch_chooses_and_of_equal_trials_the_first(
    study: Grid, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sfl.training.start

    stand_in = vars(sfl.training.start)["fit"]
    accuracies = {0.1: (0.9, 0.3), 0.2: (0.5, 0.6), 0.3: (0.4, 0.6)}

    def fit(setup: Any, run: Run) -> dict[str, Any]:
        result: dict[str, Any] = stand_in(setup, run)
        line, found = run.metrics[-1], accuracies[setup.config.optimizer.lr]
        epochs = enumerate(found, 1)
        run.write_metrics([{**line, "epoch": n, "validation_accuracy": a} for n, a in epochs])
        return result

    monkeypatch.setattr("sfl.training.start.fit", fit)
    Path("study.yaml").write_text(STUDY.replace("epochs: 1", "epochs: 2"))
    comparison, _ = run_grid(load_grid("study.yaml"), runs_dir)
    assert comparison.grid is not None
    assert {cell.chosen["optimizer.lr"] for cell in comparison.grid.cells} == {0.2}


def test_what_cannot_be_tuned_is_refused_first(
    study: Grid, trained: list[tuple[str, Config]], runs_dir: Path
) -> None:
    for change, said in {
        ("set: {data.validation: 5}", "set: {}"): "no validation images to choose by",
        ("optimizer.lr: [", "optimizer.rate: ["): r":\d+: tune: unknown key optimizer.rate",
        ("0.3]", "0.1]"): "a value is there twice",
    }.items():
        Path("study.yaml").write_text(STUDY.replace(*change))
        with pytest.raises(UserError, match=said) as caught:
            run_grid(load_grid("study.yaml"), runs_dir)
        assert caught.value.exit_code is Exit.USAGE
    assert trained == []
