"""What is shown while something long goes on: on standard error, plain where that is a file."""

import contextlib
import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from sfl import progress

LINE = {
    "epoch": 2, "train_loss": 1.23456, "train_accuracy": 0.5, "lr": 3e-4, "seconds": 12.4,
    "images_per_second": 4032.9,
}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal in place of standard error."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, highlight=False, emoji=False)
    monkeypatch.setattr(progress, "console", console)
    return written


def test_say_prints_the_very_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    line = "data[red]/x:cat:/ " + "long " * 60  # no markup, no emoji, no line break
    progress.say(line)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line + "\n")


def test_a_long_line_on_a_terminal_is_broken_between_words(terminal: io.StringIO) -> None:
    """And a command stands whole on a line of its own, so that it can be copied and pasted."""
    word, then = "data/" + "x-" * 75, "sfl evaluate " + "y " * 60 + "z"
    progress.say(f"{'long ' * 30}{word} last:", then)
    progress.say("next:", "sfl evaluate a")
    assert terminal.getvalue().split("\n") == [
        ("long " * 24).rstrip(), ("long " * 6).rstrip(), word, "last:", then,
        "next: sfl evaluate a", "",
    ]  # fmt: skip


def test_track_without_a_terminal_says_once_what_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(progress.track(range(1000), "Counting")) == list(range(1000))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Counting ...\n")


def test_track_on_a_terminal_shows_a_bar_and_takes_any_iterable(terminal: io.StringIO) -> None:
    def items() -> Iterator[int]:
        yield from range(3)

    assert list(progress.track(items(), "Counting", total=3)) == [0, 1, 2]
    assert "Counting" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_an_epoch_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(2, 3, 1.5, 0.25, 800.0)  # a bar is for terminals
        shown.epoch(LINE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "epoch 2/5  loss 1.235  accuracy 50.0%  4,033 images/s  12 s\n"


def test_an_epoch_names_the_accuracies_that_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = progress.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10)
    shown.epoch(LINE | {"validation_accuracy": 0.4, "test_accuracy": 0.61234})
    err = capsys.readouterr().err
    assert "validation accuracy 40.0%  test accuracy 61.2%" in err


def test_a_terminal_shows_epoch_loss_accuracy_and_speed_of_the_step(terminal: io.StringIO) -> None:
    with progress.TrainingDisplay("a[red]-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(2, 3, 1.5, 0.25, 800.0)
        shown.step(2, 6, 1.0, 0.5, 800.0)
    for part in ("a[red]-s0  epoch 2/5", "loss 1.000 █▁", "accuracy 50.0% ▁█", "800 images/s  l"):
        assert part in terminal.getvalue()


def test_the_bar_of_a_resumed_run_starts_where_the_run_is(terminal: io.StringIO) -> None:
    with progress.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(4, 3, 1.5, 0.25, 800.0)
        (task,) = shown._bar.tasks
        assert (task.completed, task.total) == (33, 50)


def test_the_bar_ends_with_an_error(terminal: io.StringIO) -> None:
    shown = progress.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10)
    with contextlib.suppress(KeyboardInterrupt), shown:
        shown.step(1, 1, 1.5, 0.25, 800.0)
        raise KeyboardInterrupt
    assert not shown._bar.live.is_started


def trend(*values: float) -> str:
    shown = progress.Trend()
    for value in values:
        shown.add(value)
    return str(shown)


def test_a_trend_is_a_line_of_blocks() -> None:
    assert trend() == ""
    assert trend(5.0) == "▁"
    assert trend(0.0, 0.5, 1.0) == "▁▅█"  # round(3.5) is 4, the fifth
    assert trend(3.0, 2.0, 3.0) == "█▁█"


def test_a_trend_that_grows_long_halves_its_parts() -> None:
    assert len(trend(*range(23))) == 23
    assert len(trend(*range(24))) == 12
    assert len(trend(*range(1000))) <= 24
    assert trend(*range(1000)).startswith("▁") and trend(*range(1000)).endswith("█")
    assert trend(*range(24), 100.0) == trend(*range(24))  # half a part is not shown yet


def test_trends_show_the_steps_between_two_looks(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means over the epoch so far 4.0 after 2 steps and 3.0 after 4: the last two had 2.0."""
    shown = progress.TrainingDisplay("a", epochs=2, steps_per_epoch=4)
    seen: list[float] = []
    monkeypatch.setattr(shown._loss, "add", seen.append)
    shown.step(1, 2, 4.0, 0.0, 1.0)
    shown.step(1, 4, 3.0, 0.0, 1.0)
    shown.step(2, 1, 1.5, 0.0, 1.0)
    assert seen == [4.0, 2.0, 1.5]
