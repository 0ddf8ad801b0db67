"""A command that is printed works when it is pasted into sh."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from sfl import shell

ODD = [
    "plain", "images #2", "a: b", "it's", 'say "so"', "$HOME", "`ls`", "a\\nb", "\\", "%d", "a;b",
    "*", "~/images", "", " a ", "-x", "--", "a\nb", "a\n",
    "\n\n", "-\n'%\\", "tab\tbell\a", "é", "😀",
    "a\udcff", "\u202e", "!x",
]  # fmt: skip


def read_by_sh(line: str) -> list[bytes]:
    """The words that sh makes of a command, which must be one line."""
    assert "\n" not in line
    script = f"sfl() {{ printf '%s\\0' \"$@\"; }}\n{line}"
    done = subprocess.run(["sh", "-c", script.encode()], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_sh_reads_the_very_words(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    words = [word for odd in ODD for word in ("--set", f"data.root={odd}", odd)]
    line = shell.command(*words)
    line.encode(encoding)  # the stream can show it
    expected = [word.encode("utf-8", "surrogateescape") for word in words]
    assert read_by_sh(line) == expected
    for word in words:  # alone, too: the line above is written in one way because of "a\n"
        line = shell.command(word)
        line.encode(encoding)
        assert read_by_sh(line) == [word.encode("utf-8", "surrogateescape")]


def test_what_can_be_shown_is_shown_as_it_is() -> None:
    line = shell.command("evaluate", Path("runs/a b"), "--set", "data.root=Bücher/😀")
    assert line == "sfl evaluate 'runs/a b' --set 'data.root=Bücher/😀'"
    line = shell.command("evaluate", "runs/a\nb")
    assert line == "sfl evaluate \"$(printf 'runs/a\\012b')\""


def test_a_path_is_no_option() -> None:
    assert shell.command("evaluate", Path("-x"), "--seed", "-1") == "sfl evaluate ./-x --seed -1"


def test_the_program_may_lie_in_an_odd_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "PROGRAM", "/my files/scripts/sfl")
    assert shell.command("data") == "'/my files/scripts/sfl' data"
