"""Which device and precision are chosen, on machines that are made up."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.learning.learner import autocast
from sfl.training.device import pick_device, pick_precision

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    def make(
        *, cuda: int = 0, mps: bool = False, capability: tuple[int, int] = (8, 0), cpu: str = ""
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {cpu: True}, raising=False)

    return make


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (1, True, "cuda")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(
    machine: Machine, cuda: int, mps: bool, expected: str
) -> None:
    machine(cuda=cuda, mps=mps)
    assert pick_device("auto") == torch.device(expected)
    assert pick_device("cpu") == torch.device("cpu")


def test_a_device_by_name(machine: Machine) -> None:
    machine(cuda=2, mps=True)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (0, "cuda", "train.device: cuda: this machine has no CUDA device"),
        (0, "cuda:1", "train.device: cuda:1: this machine has no CUDA device"),
        (1, "cuda:1", "train.device: cuda:1: there are 1 CUDA devices, numbered from 0"),
        (1, "mps", "train.device: mps: this machine has no MPS device"),
    ],
)
def test_a_device_that_is_not_there(machine: Machine, cuda: int, name: str, message: str) -> None:
    machine(cuda=cuda)
    with pytest.raises(UserError) as error:
        pick_device(name)
    assert message in str(error.value) and error.value.exit_code == Exit.USAGE


def test_auto_precision_is_bfloat16_where_the_hardware_is_faster_at_it(machine: Machine) -> None:
    cpu, cuda, mps = map(torch.device, ("cpu", "cuda", "mps"))
    machine(cuda=1, capability=(8, 0), cpu="avx512_bf16")
    assert pick_precision("auto", cuda) == "bfloat16"
    assert pick_precision("auto", cpu) == "bfloat16"
    machine(cpu="amx_bf16")
    assert pick_precision("auto", cpu) == "bfloat16"
    machine(cuda=1, capability=(7, 5), cpu="avx512_vnni")
    assert pick_precision("auto", cuda) == "float32"
    assert pick_precision("auto", cpu) == "float32"
    machine(mps=True, cpu="amx_bf16")
    assert pick_precision("auto", mps) == "float32"
    assert pick_precision("bfloat16", mps) == "bfloat16"
    assert pick_precision("float32", cpu) == "float32"


def test_auto_precision_with_torch_2_10(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pick_precision("auto", torch.device("cpu")) == "float32"


def test_autocast_multiplies_in_bfloat16_and_keeps_weights_in_float32() -> None:
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert layer(x).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert isinstance(autocast(torch.device("cpu"), "float32"), contextlib.nullcontext)
