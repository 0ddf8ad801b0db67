"""Tables and lines as a person reads them; numbers by hand."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from sfl.cli import tables
from sfl.nn.summary import LayerSummary, ModelSummary


def text(made: Table) -> list[str]:
    """The rows, with one blank between words."""
    written = io.StringIO()
    Console(file=written, width=160, markup=False, emoji=False).print(made)
    return [" ".join(line.split()) for line in written.getvalue().rstrip("\n").split("\n")]


RESULT = {
    "accuracy": 0.5273,
    "accuracy_interval": [0.5175, 0.5371],
    "loss": 1.34567,
    "n": 10_000,
    "per_class": {"cat": 0.75, "[dog]": 1.0, "eel": None},
    "confusion": [[3, 1, 0], [0, 4, 0], [0, 0, 0]],
}


def test_the_result_in_one_line() -> None:
    assert tables.result_line(RESULT) == (
        "test accuracy 52.73% (95 % interval 51.75% to 53.71%, 10,000 images)  loss 1.346"
    )


def test_the_evaluation_by_class() -> None:
    title, head, *rows = text(tables.evaluation_table(RESULT))
    assert title == "columns: predicted class"
    assert head.split() == ["true", "class", "accuracy", "1", "2", "3"]
    assert [row.split() for row in rows] == [
        ["1", "cat", "75.0%", "3", "1", "0"],
        ["2", "[dog]", "100.0%", "0", "4", "0"],
        ["3", "eel", "0", "0", "0"],  # no test image of this class: no accuracy
    ]


def test_names_are_never_taken_for_markup_or_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    made = tables.table("run")
    made.add_row("[red]a[/red] :cat: x")
    tables.stdout().print(made)
    assert "[red]a[/red] :cat: x" in capsys.readouterr().out


def test_the_layers_of_a_model_and_their_sum() -> None:
    layers = (
        LayerSummary(
            "features.0", "Conv2d", (5, 30, 30), 140, 560, 1000, 3000, "each at 900 places"
        ),
        LayerSummary("features.1", "ReLU", (5, 30, 30), 0, 0, None, 0, ""),
        LayerSummary("classifier", "Linear", (10,), 60, 240, 60, 200, "none"),
    )
    head, first, relu, linear, total = text(tables.summary_table(ModelSummary(layers, 100)))
    assert head.split()[:3] == ["layer", "output", "weights"]
    assert first == ("features.0 Conv2d 5×30×30 140 560 B 1,000 3.0 k each at 900 places")
    assert relu.split() == ["features.1", "ReLU", "5×30×30"]
    assert linear == "classifier Linear 10 60 240 B 60 200 none"
    assert total == "all 200 800 B 1,060 3.2 k"


def test_runs_with_and_without_an_accuracy() -> None:
    empty = dict.fromkeys(("epochs_done", "epochs", "accuracy", "accuracy_of"))
    done = {"epochs_done": 5, "epochs": 5, "accuracy": 0.5, "accuracy_of": "test"}
    rows = [{"run": "a", "status": "finished", **done}, {"run": "b", "status": "damaged", **empty}]
    made = tables.runs_table([row | {"age_seconds": 61, "bytes": 1500} for row in rows])
    _, first, second = text(made)
    assert first.split() == ["a", "finished", "5/5", "test", "50.00%", "1", "min", "1.5", "kB"]
    assert second.split() == ["b", "damaged", "1", "min", "1.5", "kB"]


def test_data_in_words() -> None:
    rows = text(tables.data_table({"source": "shapes", "classes": ["disk", "ring"], "n": 64}))
    assert [row.split(maxsplit=1) for row in rows[1:]] == [
        ["source", "shapes"],
        ["classes", "disk, ring"],
        ["n", "64"],
    ]


def test_no_row_is_broken_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    made = tables.table("run", "status")
    made.add_row("x" * 120, "finished")
    tables.stdout().print(made)
    assert len(capsys.readouterr().out.rstrip("\n").split("\n")) == 2
