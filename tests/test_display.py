"""What is shown while something long goes on: on standard error, plain where that is a file."""

import contextlib
import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from sfl import display

LINE = {
    "epoch": 2,
    "train_loss": 1.23456,
    "train_accuracy": 0.5,
    "lr": 3e-4,
    "seconds": 12.4,
    "images_per_second": 4032.9,
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal in place of standard error."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, highlight=False, emoji=False)
    monkeypatch.setattr(display, "console", console)
    return written


def test_say_prints_the_very_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    line = "data[red]/x:cat:/ " + "long " * 60  # no markup, no emoji, no line break
    display.say(line)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line + "\n")


def test_track_without_a_terminal_says_once_what_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(display.track(range(1000), "Counting")) == list(range(1000))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Counting ...\n")


def test_track_on_a_terminal_shows_a_bar_and_takes_any_iterable(terminal: io.StringIO) -> None:
    def items() -> Iterator[int]:
        yield from range(3)

    assert list(display.track(items(), "Counting", total=3)) == [0, 1, 2]
    assert "Counting" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_an_epoch_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with display.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(2, 3, 1.5, 0.25, 800.0)  # a bar is for terminals
        shown.epoch(LINE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "epoch 2/5  loss 1.235  accuracy 50.0%  4,033 images/s  12 s\n"


def test_an_epoch_names_the_accuracies_that_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = display.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10)
    shown.epoch(LINE | {"validation_accuracy": 0.4, "test_accuracy": 0.61234})
    err = capsys.readouterr().err
    assert "validation accuracy 40.0%  test accuracy 61.2%" in err


def test_a_terminal_shows_epoch_loss_accuracy_and_speed_of_the_step(
    terminal: io.StringIO,
) -> None:
    with display.TrainingDisplay("a[red]-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(2, 3, 1.5, 0.25, 800.0)
    for part in ("a[red]-s0  epoch 2/5", "loss 1.500", "accuracy 25.0%", "800 images/s  left"):
        assert part in terminal.getvalue()


def test_the_bar_of_a_resumed_run_starts_where_the_run_is(terminal: io.StringIO) -> None:
    with display.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10) as shown:
        shown.step(4, 3, 1.5, 0.25, 800.0)
        (task,) = shown._bar.tasks
        assert (task.completed, task.total) == (33, 50)


def test_the_bar_ends_with_an_error(terminal: io.StringIO) -> None:
    shown = display.TrainingDisplay("a-s0", epochs=5, steps_per_epoch=10)
    with contextlib.suppress(KeyboardInterrupt), shown:
        shown.step(1, 1, 1.5, 0.25, 800.0)
        raise KeyboardInterrupt
    assert not shown._bar.live.is_started
