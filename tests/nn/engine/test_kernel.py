"""The compiled kernel: built once, found again, and done without where it can't be had.

What it computes is tested beside the plain form, in test_operators.py.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.cpu.kernel import NoKernel
from sfl.nn.spatial import SpatialFeatureLayer

CPU = torch.device("cpu")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As on a machine that has never built it; gives the folder in which it would be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SFL_KERNEL", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(kernel, "_told", False)

    def forget() -> None:
        kernel.load.cache_clear()
        kernel._build.cache_clear()

    forget()
    yield tmp_path / "sfl"
    forget()


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
    built = kernel._build()
    assert built.parent == fresh and built.read_text() == "library\n"
    kernel._build.cache_clear()
    assert kernel._build() == built
    assert (tmp_path / "c++.log").read_text() == "built\n"
    assert list(fresh.iterdir()) == [built]  # nothing is left over


def test_another_compiler_flags_or_processor_make_another(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(tmp_path, COPY)
    first = kernel._key([path])
    assert kernel._key([path]) == first
    assert kernel._key([path, "-g"]) != first
    monkeypatch.setattr(kernel, "_instructions", lambda: "another")
    assert kernel._key([path]) != first


def test_several_that_build_at_once_do_not_collide(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 0.2; {COPY}"))
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(kernel._build) for _ in range(4)]}
    (path,) = paths
    assert path.read_text() == "library\n" and list(fresh.iterdir()) == [path]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo "kernel.cpp:3: error: no such flag" >&2; exit 1', "error: no such flag"),
        ("exit 3", "returned non-zero exit status 3"),
    ],
)
def test_where_it_cannot_be_compiled_one_line_says_so_and_the_plain_form_serves(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    layer = SpatialFeatureLayer((1, 4, 4), 2, 3)
    with pytest.warns(UserWarning, match=words) as warned:
        y = layer(layer(torch.ones(1, 1, 4, 4)).new_ones(1, 1, 4, 4))
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    torch.testing.assert_close(y[0, :, 0, 0], layer.weight[0, 0].sum((1, 2, 3)))
    assert kernel.report(CPU).startswith("plain PyTorch (")
    assert list(fresh.iterdir()) == []


def test_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match="there is no C"):
        assert not kernel.serves(CPU, torch.float32)


def test_who_was_told_is_not_warned(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert kernel.report(CPU) == "plain PyTorch (there is no C++ compiler)"
    with warnings.catch_warnings(action="error"):
        assert not kernel.serves(CPU, torch.float32)


def test_a_folder_that_cannot_be_written(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sfl").write_text("not a folder")
    monkeypatch.setenv("CXX", compiler(tmp_path, COPY))
    with pytest.raises(NoKernel, match=r"kernel\.cpp can't be compiled"):
        kernel._build()


def test_the_environment_can_ask_for_the_plain_form(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFL_KERNEL", "plain")
    with warnings.catch_warnings(action="error"):  # who asks for it needs no warning
        assert kernel.load() is None
    assert kernel.report(CPU) == "plain PyTorch (SFL_KERNEL=plain)"


def test_it_is_for_cpus() -> None:
    assert kernel.report(torch.device("cuda")) == (
        "plain PyTorch (the kernel is for CPUs, not cuda)"
    )
    assert not kernel.serves(torch.device("cuda"), torch.float32)
    assert not kernel.serves(CPU, torch.bfloat16)


def test_it_is_not_looked_for_until_a_layer_needs_it() -> None:
    code = "import sfl.nn, sfl.nn.engine.cpu.kernel as k; print(k.load.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
