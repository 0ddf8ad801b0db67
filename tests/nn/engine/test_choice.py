"""Which engine computes, and why: what `choose` says for each machine and wish."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sfl.nn.engine import choice, reference, reference_engine, report
from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import build, kernel
from sfl.nn.engine.cpu.build import NoKernel
from sfl.nn.spatial import SpatialFeatureLayer

ROOT = Path(__file__).parents[3]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is chosen yet, and nothing asked for."""
    monkeypatch.delenv("SFL_ENGINE", raising=False)
    choice._choose.cache_clear()
    yield
    choice._choose.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NoKernel("there is no C++ compiler")

    monkeypatch.setattr(build, "library", refuse)


def test_the_compiled_engine_serves_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: None)
    monkeypatch.setattr(build, "compiler", lambda: "/usr/bin/g++")
    for dtype in (torch.float32, torch.float64):
        engine, why = choose(CPU, dtype)
        assert engine is kernel and why.startswith("compiled kernel (g++, ")


@pytest.mark.parametrize(
    ("device", "dtype", "why"),
    [
        (CUDA, torch.float32, "no CUDA device here"),
        (torch.device("mps"), torch.float32, "the kernel is for CPUs, not mps"),
        (CPU, torch.bfloat16, "the kernel is for float32 and float64, not bfloat16"),
    ],
)
def test_the_reference_serves_elsewhere(device: torch.device, dtype: torch.dtype, why: str) -> None:
    with warnings.catch_warnings(action="error"):  # nothing is missing
        assert choose(device, dtype) == (reference, f"plain PyTorch ({why})")


def test_without_a_compiler_one_warning_says_so_and_the_reference_serves(no_compiler: None) -> None:
    layer = SpatialFeatureLayer((1, 4, 4), 2, 3)
    with pytest.warns(UserWarning, match="slower: there is no C") as warned:
        y = layer(layer(torch.ones(1, 1, 4, 4)).new_ones(1, 1, 4, 4))
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    torch.testing.assert_close(y[0, :, 0, 0], layer.weight[0, 0].sum((1, 2, 3)))


def test_who_has_read_the_report_is_not_warned(no_compiler: None) -> None:
    assert report(CPU) == "plain PyTorch (there is no C++ compiler)"
    with warnings.catch_warnings(action="error"):
        assert choose(CPU, torch.float32)[0] is reference


def test_the_environment_can_ask_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFL_ENGINE", "reference")
    with warnings.catch_warnings(action="error"):  # who asks for it needs no warning
        assert choose(CPU, torch.float32)[0] is reference
    assert report(CPU) == "plain PyTorch (SFL_ENGINE=reference)"


def test_an_engine_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFL_ENGINE", "plain")
    with pytest.raises(ValueError, match="SFL_ENGINE is 'plain', expected reference or nothing"):
        choose(CPU, torch.float32)


def test_the_reference_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: None)
    with reference_engine():
        assert choose(CPU, torch.float32) == (reference, "plain PyTorch (asked for)")
        with reference_engine():
            pass
        assert choose(CPU, torch.float32)[0] is reference
    assert choose(CPU, torch.float32)[0] is kernel


def test_nothing_is_built_until_a_layer_needs_it() -> None:
    code = (
        "import sfl.nn.spatial, sfl.nn.engine.cpu.build as b; print(b.library.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("error", ["OSError", "ImportError"])
def test_a_triton_that_is_broken_disturbs_nothing(error: str, tmp_path: Path) -> None:
    """Whatever it raises: PyTorch's own counter of FLOPs, which imports it, expects ImportError."""
    (tmp_path / "triton").mkdir()
    said = f"raise {error}('libtriton.so: cannot open\\nshared object file')\n"
    (tmp_path / "triton" / "__init__.py").write_text(said)
    program = """
import sys, torch
from sfl.nn.engine import choice, locally_connected
from sfl.training import setup
torch.cuda.is_available, torch.version.cuda = (lambda: True), "13.0"
torch.cuda.get_device_capability = lambda device: (9, 0)
print(choice.report(torch.device("cuda")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("plain PyTorch (Triton can't be imported: ")
    assert done.stdout.count("\n") == 1
