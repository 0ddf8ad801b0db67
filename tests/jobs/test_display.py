"""The table of the runs that are trained side by side, on terminals of several widths."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sfl.jobs import display

LONG = "a-rather-long-name-of-a-network-without-sharing-s1"


def line(epoch: int) -> str:
    values = {"epoch": epoch, "train_loss": 2.25, "train_accuracy": 0.125, "lr": 0.1}
    return json.dumps(values | {"seconds": 2.0, "images_per_second": 32.0}) + "\n"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], io.StringIO]:
    def show(width: int, terminal: bool) -> io.StringIO:
        written = io.StringIO()
        console = Console(file=written, force_terminal=terminal, width=width, soft_wrap=True)
        monkeypatch.setattr(display, "console", console)
        monkeypatch.setattr("sfl.progress.console", console)
        return written

    return show


@pytest.mark.parametrize("width", [60, 80])
def test_the_numbers_have_room_beside_a_long_name(
    width: int, shown: Callable[[int, bool], io.StringIO], tmp_path: Path
) -> None:
    written = shown(width, True)
    (tmp_path / LONG).mkdir()
    with display.Board(3) as board:
        board.begin(tmp_path / LONG, 20)
        (tmp_path / LONG / "metrics.jsonl").write_text(line(1) + line(2))
        board.look(1, 20)
        said = written.getvalue()
    *_, whole, head, row = [one for one in said.replace("\r", "").splitlines() if one.strip()]
    assert whole.endswith("1 of 3 runs done, 0:00:00 left")
    assert "time left" in head and "-s1" in row
    assert row.split()[-4:] == ["2/20", "2.250", "12.5%", "0:00:00"]
    assert len(row) <= width


def test_elsewhere_each_new_epoch_is_a_line(
    shown: Callable[[int, bool], io.StringIO], tmp_path: Path
) -> None:
    written = shown(80, False)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text(line(1))  # of a run that is resumed
    with display.Board(1) as board:
        board.begin(tmp_path / "a", 3)
        (tmp_path / "a" / "metrics.jsonl").write_text(line(1) + line(2))
        board.look(0, 0)
        board.look(0, 0)
        (tmp_path / "a" / "metrics.jsonl").write_text(line(1) + line(2) + line(3))
        board.end(tmp_path / "a")
    first, second = written.getvalue().splitlines()
    assert first == "a  epoch 2/3  loss 2.250  accuracy 12.5%  32 images/s  2 s"
    assert second.startswith("a  epoch 3/3")
