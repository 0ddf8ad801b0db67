"""The compiled library: built once, found again, and why not where it can't be had.

What it computes is tested beside the reference, in test_operators.py.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sfl.nn.engine.cpu import build
from sfl.nn.engine.cpu.build import NoKernel


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As on a machine that has never built it; gives the folder in which it would be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    build.library.cache_clear()
    yield tmp_path / "sfl"
    build.library.cache_clear()


def compiler(folder: Path, script: str) -> str:
    """A C++ compiler that does what the shell script says."""
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo 1 && exit\n{script}\n")
    path.chmod(0o755)
    return str(path)


COPY = 'for last; do :; done; echo built >> "$0.log"; echo library > "$last"'


def test_it_is_built_once_and_found_again(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    built = build.build()
    assert built.parent == fresh and built.read_text() == "library\n"
    assert build.build() == built
    assert (tmp_path / "c++.log").read_text() == "built\n"
    assert list(fresh.iterdir()) == [built]  # nothing is left over


def test_another_compiler_flags_or_processor_make_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(tmp_path, COPY)
    first = build.key([path])
    assert build.key([path]) == first
    assert build.key([path, "-g"]) != first
    monkeypatch.setattr(build, "_instructions", lambda: "another")
    assert build.key([path]) != first


def test_several_that_build_at_once_do_not_collide(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 0.2; {COPY}"))
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(build.build) for _ in range(4)]}
    (path,) = paths
    assert path.read_text() == "library\n" and list(fresh.iterdir()) == [path]


@pytest.mark.parametrize("damaged", [b"", b"libr", b"Library\n"])
def test_a_file_that_is_not_as_it_was_built_is_never_loaded_but_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    path = build.build()
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"{path.name}: damaged; it is built anew"):
        assert build.build() == path
    assert path.read_text() == "library\n"
    assert (tmp_path / "c++.log").read_text() == "built\n" * 2


def test_a_file_that_cannot_be_loaded_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk from which no code may be run."""
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    with pytest.raises(NoKernel, match=r"kernel-\w+-\w+\.so") as error:
        build.library()
    assert "\n" not in str(error.value)


def test_it_is_on_the_disk_before_it_has_its_name(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    named = []
    monkeypatch.setattr(os, "fsync", lambda _: named.append(list(fresh.glob("*.so"))))
    build.build()
    assert named == [[]]


def test_what_killed_compilers_left_goes(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    for name, age in (("old", 3 * build.TIMEOUT), ("new", 0)):
        folder = fresh / f"{name}{build.UNFINISHED}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    built = build.build()
    assert sorted(fresh.iterdir()) == [built, fresh / f"new{build.UNFINISHED}"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo "kernel.cpp:3: error: no such flag" >&2; exit 1', "error: no such flag"),
        ('echo "ld: failed: disk full" >&2; echo "collect2: error: ld" >&2; exit 1', "disk full"),
        ("exit 3", "returned non-zero exit status 3"),
    ],
)
def test_where_it_cannot_be_compiled_one_line_says_why(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(NoKernel, match=words) as error:
        build.library()
    assert "\n" not in str(error.value)
    assert list(fresh.iterdir()) == []


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoKernel, match=r"there is no C\+\+ compiler"):
        build.library()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sfl").write_text("not a folder")
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    with pytest.raises(NoKernel, match="the compiled kernel can't be kept in"):
        build.build()
