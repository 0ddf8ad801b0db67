"""Every way out of a command line: exit code and one line on standard error."""

import ast
import os
import pty
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from sfl.cli import exits
from sfl.errors import Exit, UserError

OUT_OF_MEMORY = "error: out of memory (a smaller data.batch_size or model needs less)\n"
A_BUG = "error: a bug of sfl: ValueError: two lines (--debug shows where)\n"


@pytest.fixture(autouse=True)
def _same_signals_afterwards() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs a program that raises or returns something: exit code, stdout, stderr."""

    def call(what: BaseException | object, *arguments: str) -> tuple[object, str, str]:
        def program(given: list[str]) -> object:
            assert "--debug" not in given
            if isinstance(what, BaseException):
                raise what
            return what

        monkeypatch.setattr(sys, "argv", ["sfl", *arguments])
        with pytest.raises(SystemExit) as exit_:
            exits.run(program)
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (2, 2, ""),
        (UserError("a: wrong", "mend it", Exit.DATA), 3, "error: a: wrong (mend it)\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
        (MemoryError(), 6, OUT_OF_MEMORY),
        (typer.Abort(), 130, "stopped, nothing was done (--yes answers the question)\n"),
        (ValueError("two\nlines"), 1, A_BUG),
        (
            PermissionError(13, "Permission denied", "/home/o"),
            4,
            "error: /home/o: Permission denied\n",
        ),
        (typer.BadParameter("no\nsuch"), 2, "error: Invalid value: no such\n"),
    ],
)
def test_every_way_out(outcome: Callable[..., object], what: object, code: int, line: str) -> None:
    assert outcome(what) == (code, "", line)


@pytest.mark.parametrize("arguments", [["--debug", "train"], ["train", "--debug"]])
def test_debug_anywhere_shows_the_traceback_before_the_line(
    outcome: Callable[..., tuple[int, str, str]], arguments: list[str]
) -> None:
    code, out, err = outcome(UserError("a: wrong", "", Exit.DATA), *arguments)
    assert (code, out) == (3, "")
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("\nerror: a: wrong\n")


def sfl(code: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", f"from sfl.cli import exits\n{code}"],
        text=True,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_unwinds_and_exits_143(name: str) -> None:
    """SIGHUP comes twice when a terminal goes."""
    again = "os.kill(os.getpid(), signal.SIGHUP)" if name == "SIGHUP" else "pass"
    code = (
        "import os, signal, sys\n"
        "def program(arguments):\n"
        f"    try:\n        os.kill(os.getpid(), signal.{name})\n"
        f"    finally:\n        {again}\n        print('unwound', file=sys.stderr)\n"
        "exits.run(program)"
    )
    done = sfl(code)
    assert (done.returncode, done.stderr) == (143, "unwound\n")


def test_under_nohup_a_terminal_that_goes_stops_nothing() -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "exits.run(lambda arguments: os.kill(os.getpid(), signal.SIGHUP))"
    )
    assert sfl(code).returncode == 0


def test_a_name_that_the_terminal_cannot_show_stops_nothing() -> None:
    code = "exits.run(lambda arguments: print('\\udcff × –'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = sfl(code, stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "\\udcff x -\n"  # signs that look alike, else escapes


def test_every_sign_that_the_program_prints_has_a_lookalike() -> None:
    """Those of all strings in the code but docstrings."""
    signs = set[str]()
    for path in Path(exits.__file__).parent.parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        held = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        signs |= {sign for node in held if node not in docs for sign in str(node.value)}
    lacking = {sign for sign in signs if not sign.isascii() and sign.isprintable()}
    assert lacking <= exits.SIGNS.keys()


def test_on_a_terminal_an_error_is_broken_between_words_and_its_command_is_whole() -> None:
    ours, theirs = pty.openpty()
    code = (
        "from sfl.errors import UserError\n"
        "def program(arguments):\n"
        "    raise UserError('a ' + 'word ' * 10 + 'last', 'mend it', command='sfl ' + 'x ' * 30)\n"
        "exits.run(program)"
    )
    environment = {**os.environ, "COLUMNS": "30", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", f"from sfl.cli import exits\n{code}"], stderr=theirs, env=environment
    )
    os.close(theirs)
    assert done.returncode == 2
    assert os.read(ours, 10_000).decode().split("\r\n") == [
        "error: a word word word word", "word word word word word word", "last (mend it):",
        "sfl " + "x " * 30, "",
    ]  # fmt: skip
    os.close(ours)


def test_a_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def program(arguments: list[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("slower:\nno compiler", stacklevel=1)

    monkeypatch.setattr(sys, "argv", ["sfl"])
    with pytest.raises(SystemExit):
        exits.run(program)
    assert capsys.readouterr().err == "warning: slower: no compiler\n"
