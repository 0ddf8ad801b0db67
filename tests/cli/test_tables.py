"""Tables and lines as a person reads them; numbers by hand."""

import io
import json
import sys
from dataclasses import replace

import pytest

from sfl.cli import exits, layout, tables
from sfl.cli.layout import Table
from sfl.nn.audit import Audit, LayerAudit
from sfl.nn.feedback.attach import FeedbackSummary
from sfl.nn.summary import LayerSummary, ModelSummary
from sfl.progress import wrapped
from sfl.runs import records


def text(made: Table, width: int = 160) -> list[str]:
    """The lines, with one blank between words."""
    return [" ".join(line.plain.split()) for line in made.lines(width)]


def lines(made: Table, width: int) -> list[str]:
    return [line.plain for line in made.lines(width)]


RESULT = {
    "accuracy": 0.5273,
    "accuracy_interval": [0.5175, 0.5371],
    "loss": 1.34567,
    "n": 10_000,
    "per_class": {"cat": 0.75, "[dog]": 1.0, "eel": None},
    "confusion": [[3, 1, 0], [0, 4, 0], [0, 0, 0]],
}


def test_the_result_in_one_line() -> None:
    line, _ = tables.result_lines(RESULT)
    assert line == (
        "test accuracy 52.73% (95 % interval 51.75% to 53.71%, 10,000 images)  loss 1.346"
    )


def test_the_evaluation_by_class() -> None:
    (made,) = tables.evaluation_tables(RESULT, 80)
    title, *rows = text(made)
    assert title == "columns on the right: predicted class"
    assert [row.split() for row in rows] == [
        ["true", "class", "images", "accuracy", "cat", "[dog]", "eel"],
        ["cat", "4", "75.0%", "3", "1", "0"],
        ["[dog]", "4", "100.0%", "0", "4", "0"],
        ["eel", "0", "0", "0", "0"],  # no test image of this class: no accuracy
    ]


def result_of(count: int, name: str = "class") -> dict[str, object]:
    """Each class has ten images: eight right, two taken for the next class."""
    confusion = [[0] * count for _ in range(count)]
    for place in range(count):
        confusion[place][place] = 8
        confusion[place][(place + 1) % count] += 2
    names = [f"{name} {place}" for place in range(count)]
    return {"per_class": dict.fromkeys(names, 0.8), "confusion": confusion}


def test_letters_head_the_columns_where_names_are_too_long() -> None:
    (made,) = tables.evaluation_tables(result_of(10), 80)
    _, head, first, *_ = text(made)
    assert head.split() == ["true", "class", "images", "accuracy", *"ABCDEFGHIJ"]
    assert first.split() == ["A", "class", "0", "10", "80.0%", "8", "2", *"00000000"]


def test_classes_whose_names_are_digits_head_their_own_columns() -> None:
    result = result_of(10)
    result["per_class"] = dict.fromkeys("0123456789", 0.8)
    (made,) = tables.evaluation_tables(result, 80)
    assert text(made)[1].split()[4:] == list("0123456789")
    assert text(made)[2].split() == ["0", "10", "80.0%", "8", "2", *"00000000"]


@pytest.mark.parametrize("count", [2, 20, 100, 1000])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_each_class_has_a_line_at_every_width(count: int, width: int) -> None:
    made = tables.evaluation_tables(result_of(count), width)
    printed = [line for each in made for line in lines(each, width)]
    assert all(len(line) <= width for line in printed)
    for place in range(count):
        (_,) = [line for line in printed if f"class {place} " in line and "80.0%" in line]
    assert len(made) == (1 if count == 2 or (count, width) == (20, 120) else 2)


def test_where_the_matrix_does_not_fit_the_worst_confusions_are_listed() -> None:
    result = result_of(100)
    result["confusion"][7][93] = 5  # type: ignore[index]
    by_class, worst = tables.evaluation_tables(result, 80)
    assert len(text(by_class)) == 101
    title, _, first, *others = text(worst)
    assert title == "most frequent confusions"
    assert first == "class 7 → class 93 5 33.3%"
    assert len(others) == tables.CONFUSIONS - 1


def test_a_thousand_classes_take_no_minute() -> None:
    made = tables.evaluation_tables(result_of(1000), 160)
    assert sum(len(lines(each, 160)) for each in made) == 1001 + 2 + tables.CONFUSIONS


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[40, 0], [2, 0]], ["always answering cat gets 95.24%: classes are unequal"]),
        ([[3, 1], [3, 1]], []),
        ([[5]], ["all images are of one class, cat: always answering it gets 100 %"]),
        ([[4, 1], [0, 0]], ["all images are of one class, cat: always answering it gets 100 %"]),
    ],
)
def test_what_one_answer_would_get_is_said_where_classes_are_unequal(
    confusion: list[list[int]], expected: list[str]
) -> None:
    names = dict.fromkeys(["cat", "dog"][: len(confusion)], 1.0)
    _, *said = tables.result_lines(RESULT | {"per_class": names, "confusion": confusion})
    assert said == expected


# --- tables that are too wide


def test_the_least_important_columns_go_first_and_that_is_said() -> None:
    made = Table(["run", "status", "size"], optional=["size", "status"])
    made.add_row("a-long-name", "finished", "1.5 kB")
    assert lines(made, 80) == [
        "run            status    size", "a-long-name  finished  1.5 kB",
    ]  # fmt: skip
    head, row, *note = lines(made, 24)
    assert (head.split(), row) == (["run", "status"], "a-long-name  finished")
    assert " ".join(note) == "(not shown in 24 columns: size; --json has all)"
    assert lines(made, 5)[0] == "run: a-long-name"  # names are never cut


def test_a_table_that_stays_too_wide_becomes_blocks() -> None:
    made = Table(["", "spatial", "conv"])
    made.add_row("test accuracy", "57.52 %", "65.07 %")
    made.add_row("sd", "", "0.20")
    assert lines(made, 20) == [
        "test accuracy", "  spatial: 57.52 %", "  conv: 65.07 %", "sd", "  conv: 0.20",
    ]  # fmt: skip


def test_blocks_leave_nothing_out() -> None:
    made = Table(["run", "status", "size"], optional=["size"])
    made.add_row("a-long-name", "finished", "1.5 kB")
    assert lines(made, 10) == ["run: a-long-name", "  status: finished", "  size: 1.5 kB"]


def test_titles_and_notes_are_broken_between_words() -> None:
    made = Table(["n", "status", "size"], title="one row for each", optional=["size"])
    made.add_row("1", "ok", "1.5 kB")
    head, rest, *_, end = lines(made, 12)
    assert (head, rest, end) == ("one row for", "each", "has all)")


def test_prose_is_broken_between_words() -> None:
    made = Table(["data", "value"], prose=True)
    made.add_row("classes", "disk, ring, square, frame, triangle")
    assert lines(made, 30) == [
        "data     value", "classes  disk, ring, square,", "         frame, triangle",
    ]  # fmt: skip


def test_wide_letters_keep_columns_aligned() -> None:
    made = Table(["class", "n"])
    made.add_row("猫", "1")
    made.add_row("cat", "22")
    assert lines(made, 80) == ["class   n", "猫      1", "cat    22"]


def test_prose_in_wide_letters_keeps_to_the_width() -> None:
    assert wrapped("classes: 猫の顔, 犬の顔, 鳥の顔", 16) == [
        "classes: 猫の顔,",
        "犬の顔, 鳥の顔",
    ]


def test_a_name_with_a_line_break_stays_on_its_row() -> None:
    made = Table(["class", "n"])
    made.add_row("a\nb\x1b[31m", "1")
    assert lines(made, 80) == ["class     n", "a�b�[31m  1"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_columns_are_aligned_where_the_encoding_lacks_letters(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors=exits.LOOKALIKES)
    monkeypatch.setattr(sys, "stdout", stream)
    made = Table(["a − b", "n", "×"], optional=["×"])
    made.add_row("猫", "1", "x" * 80)
    made.add_row("cat", "22", "")
    assert lines(made, 80)[:3] == ["a - b    n", "\\u732b   1", "cat     22"]


def test_names_are_never_taken_for_markup_or_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    made = Table(["run"])
    made.add_row("[red]a[/red] :cat: x")
    layout.print_table(made)
    assert "[red]a[/red] :cat: x" in capsys.readouterr().out


# --- what programs read


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_and_csv_are_right_in_every_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    layout.print_json({"groß": "猫"})
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == {"groß": "猫"}
    written.truncate(0), written.seek(0)
    layout.print_utf8("groß,猫\n")
    sys.stdout.flush()
    assert written.getvalue().decode("utf-8") == "groß,猫\n"


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
    beside = FeedbackSummary(70, 280, saved=True, moved=False)
    frozen = ModelSummary((replace(layers[0], learns=False), *layers[1:]), 100, beside)
    assert text(tables.summary_table(frozen))[-3:] == [
        total, "of these learn 60 240 B", "feedback weights 70 280 B",
    ]  # fmt: skip


def test_the_audit_of_a_model_fits_80_columns() -> None:
    layers = (
        LayerAudit("features.16", "Conv2d", "in time", 1_797_632, 1024),
        LayerAudit(
            "classifier.2",
            "Linear",
            transport="transports",
            transported=4_194_304,
            bits=134_217_728,
        ),
    )
    audited = records.Audit.check(Audit(layers, ()).to_dict(), "audit")
    made = tables.audit_table(audited)
    assert made.fits(80)
    _, head, first, linear, total = text(made)
    assert head == "layer sharing shared × positions transport weights sent bits/step"
    assert first == "features.16 in time 1,797,632 × 1,024 strict"
    assert linear == "classifier.2 strict transports 4,194,304 134.2 M"
    assert total == "all in time 1,797,632 transports 4,194,304 134.2 M"


def test_runs_with_and_without_an_accuracy() -> None:
    empty = dict.fromkeys(("epochs_done", "epochs", "accuracy", "accuracy_of", "model", "images"))
    done = {"epochs_done": 5, "epochs": 5, "accuracy": 0.5, "accuracy_of": "test"}
    done |= {"model": "SimpleModel, conv", "images": "folder flowers"}
    rows = [{"run": "a", "status": "finished", **done}, {"run": "b", "status": "damaged", **empty}]
    made = tables.runs_table([row | {"age_seconds": 61, "bytes": 1500} for row in rows])
    _, first, second = text(made)
    assert first.split() == [
        "a", "finished", "5/5", "test", "50.00%", "1", "min", "1.5", "kB",
        "SimpleModel,", "conv", "folder", "flowers",
    ]  # fmt: skip
    assert second.split() == ["b", "damaged", "1", "min", "1.5", "kB"]


def test_data_in_words() -> None:
    rows = text(tables.data_table({"source": "shapes", "classes": ["disk", "ring"], "n": 64}))
    assert [row.split(maxsplit=1) for row in rows[1:]] == [
        ["source", "shapes"],
        ["classes", "disk, ring"],
        ["n", "64"],
    ]


def test_the_most_important_columns_that_fit_are_shown() -> None:
    made = Table(["run", "size", "model", "age"], optional=["size", "age", "model"])
    made.add_row("a", "1.5 kB", "a model with a long name", "1 min")
    assert [line.split() for line in lines(made, 22)[:1]] == [["run", "size", "age"]]


def test_cells_are_broken_between_words_before_that() -> None:
    made = Table(["", "spatial"])
    made.add_row("network, weights", "SimpleModel, not shared")
    made.add_row("images that only this model gets right", "67")
    assert lines(made, 38) == [
        "                               spatial",
        "network, weights      SimpleModel, not",
        "                                shared",
        "images that only                    67",
        "  this model gets",
        "  right",
    ]


def test_what_has_no_room_beside_its_name_stands_below_it() -> None:
    made = Table(["data", "value"], prose=True)
    made.add_row("fingerprint", "f" * 64)
    made.add_row("source", "folder")
    assert lines(made, 70)[1:] == ["fingerprint", "  " + "f" * 64, "source       folder"]


def test_without_confusions_none_are_listed() -> None:
    result = result_of(100)
    result["confusion"] = [[10 * (row == column) for column in range(100)] for row in range(100)]
    assert len(tables.evaluation_tables(result, 80)) == 1


def test_sentences_on_a_terminal_are_broken_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    layout.print_lines(["always answering cat\x1b[2J gets 95 %"])
    layout.print_table(Table(["n"], title="a title that is longer than that"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["always answering", "cat�[2J gets 95 %"]
    assert printed[2:4] == ["a title that is", "longer than that"]


def test_prose_in_wide_letters_is_broken_by_its_width() -> None:
    made = Table(["data", "value"], prose=True)
    made.add_row("classes", "猫猫猫猫 犬犬犬犬")
    assert lines(made, 20)[1:] == ["classes  猫猫猫猫", "         犬犬犬犬"]


def test_names_with_control_characters_stay_on_their_line() -> None:
    made = Table(["run", "a\nb"])
    made.add_row("new\nline", "\x1b[31mred")
    assert lines(made, 80) == ["run            a�b", "new�line  �[31mred"]
