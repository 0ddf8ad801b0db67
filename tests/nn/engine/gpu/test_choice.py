"""When the kernels serve, and what is said where they don't: by stand-ins, without a GPU."""

import builtins
import importlib.util
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfl.config.load import load
from sfl.nn.engine import choice, reference
from sfl.nn.engine.choice import choose
from sfl.nn.engine.gpu import trust
from sfl.training.environment import environment
from sfl.training.remarks import of_engine

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that would do; nothing is chosen yet."""
    monkeypatch.delenv("SFL_ENGINE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(sys, "platform", "linux")
    of_capability(monkeypatch, (9, 0))
    choice._choose.cache_clear()
    yield
    choice._choose.cache_clear()


def of_capability(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "triton" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)


def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_serve(dtype: torch.dtype) -> None:
    products = pytest.importorskip("sfl.nn.engine.gpu.products", reason="Triton is not installed")
    assert choose(GPU, dtype) == (products, "Triton kernels (sm_90)")
    assert choose(torch.device("cuda"), dtype)[0] is products


@pytest.mark.parametrize(
    ("dtype", "capability", "why"),
    [
        (torch.float64, (9, 0), "the Triton kernels are not for float64"),
        (torch.bfloat16, (7, 5), "the GPU has compute capability 7.5, the Triton kernels need 8.0"),
        (torch.float32, (7, 0), "the GPU has compute capability 7.0, the Triton kernels need 7.5"),
    ],
)
def test_not_for_every_type_on_every_gpu(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, capability: tuple[int, int], why: str
) -> None:
    with_triton(monkeypatch)
    of_capability(monkeypatch, capability)
    assert choose(GPU, dtype) == (reference, f"plain PyTorch ({why})")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_on_an_older_gpu_says_what_computes(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There bfloat16, which a user may ask for, is not for the kernels."""
    pytest.importorskip("triton", reason="Triton is not installed")
    of_capability(monkeypatch, (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    engine = {"float32": "triton", "bfloat16": "reference"}[precision]
    assert environment(GPU, precision).engine == engine
    said = {"float32": "Triton kernels (sm_75)", "bfloat16": "the Triton kernels need 8.0"}[
        precision
    ]
    setup: Any = SimpleNamespace(config=load("spatial"), device=GPU, precision=precision)
    assert said in of_engine(setup)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    without_triton(monkeypatch)
    assert choose(GPU, torch.float32) == (reference, "plain PyTorch (Triton is not installed)")


def test_with_a_triton_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_triton(monkeypatch)
    importing = builtins.__import__

    def refuse(name: str, globals: Any = None, locals: Any = None, names: Any = (), *level: Any):
        if name == "sfl.nn.engine.gpu" and names and "products" in names:
            raise ImportError("libtriton.so: cannot open shared object file")
        return importing(name, globals, locals, names, *level)

    monkeypatch.setattr(builtins, "__import__", refuse)
    why = "plain PyTorch (Triton can't be imported: libtriton.so: cannot open shared object file)"
    assert choose(GPU, torch.float32) == (reference, why)


@pytest.mark.parametrize(("platform", "cuda"), [("win32", "13.0"), ("linux", None)])
def test_neither_on_windows_nor_on_amds(
    monkeypatch: pytest.MonkeyPatch, platform: str, cuda: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    why = "plain PyTorch (the Triton kernels are for NVIDIA GPUs on Linux)"
    assert choose(GPU, torch.float32) == (reference, why)


def test_a_kernel_that_was_wrong_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernels had been chosen before."""
    with_triton(monkeypatch)
    choose(GPU, torch.float32)
    monkeypatch.setattr(trust, "_broken", "a GPU kernel failed its check: forward is wrong by 0.3")
    why = "plain PyTorch (a GPU kernel failed its check: forward is wrong by 0.3)"
    assert choose(GPU, torch.float32) == (reference, why)
    assert choose(torch.device("cpu"), torch.bfloat16)[1].startswith("plain PyTorch (the kernel is")
