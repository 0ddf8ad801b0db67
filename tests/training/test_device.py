"""Which device and precision are chosen, on machines that are made up."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.learning.learner import autocast
from sfl.training.device import pick_device, pick_precision, prepare, refuse_precision

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    def make(
        *, cuda: int = 0, mps: bool = False, capability: tuple[int, int] = (8, 0), cpu: str = ""
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_120", "compute_120"])
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
        (0, "cuda", "train.device: cuda: PyTorch sees no CUDA device"),
        (0, "cuda:1", "train.device: cuda:1: PyTorch sees no CUDA device"),
        (1, "cuda:1", "train.device: cuda:1: CUDA devices here: 1, numbered from 0"),
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


def test_a_gpu_that_this_pytorch_has_no_programs_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    machine(cuda=1, capability=(7, 5))
    assert pick_device("cuda") == torch.device("cuda")
    machine(cuda=1, capability=(6, 0))
    with pytest.raises(UserError) as error:
        pick_device("cuda")
    said = str(error.value)
    assert "Tesla P100 has compute capability 6.0" in said and said.count("needs 7.5") == 1
    assert error.value.exit_code == Exit.USAGE


def test_tf32_is_refused_where_there_is_none_but_not_for_evaluating(machine: Machine) -> None:
    cpu, cuda = map(torch.device, ("cpu", "cuda"))
    machine(cuda=1, capability=(8, 0))
    refuse_precision("tf32", cuda)
    assert pick_precision("tf32", cuda) == "tf32"
    machine(cuda=1, capability=(7, 5))
    for device in (cpu, cuda):
        refuse_precision("float32", device)
        with pytest.raises(UserError, match="precision: tf32: only on CUDA devices") as error:
            refuse_precision("tf32", device)
        assert error.value.exit_code == Exit.USAGE
        assert pick_precision("tf32", device) == "float32"
    assert isinstance(autocast(cuda, "tf32"), contextlib.nullcontext)


@pytest.mark.parametrize(("precision", "bits"), [("float32", "highest"), ("tf32", "high")])
def test_all_products_are_in_the_precision(
    precision: str, bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    convolutions = cudnn.conv  # type: ignore[attr-defined]
    kept = cudnn.allow_tf32, cudnn.deterministic, convolutions.fp32_precision
    convolutions.fp32_precision = "ieee" if precision == "tf32" else "tf32"  # by whoever calls us
    try:
        prepare(torch.device("cpu"), precision)
        assert (torch.get_float32_matmul_precision(), not chosen) == (before, True)
        prepare(torch.device("cuda:1"), precision)
        assert chosen == [torch.device("cuda:1")]
        assert torch.get_float32_matmul_precision() == bits
        assert cudnn.allow_tf32 == (precision == "tf32") and cudnn.deterministic
        assert convolutions.fp32_precision == ("tf32" if precision == "tf32" else "ieee")
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32, cudnn.deterministic, convolutions.fp32_precision = kept


def test_auto_does_without_a_gpu_that_is_too_old(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(cuda=1, capability=(6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")
    with pytest.warns(UserWarning, match="takes the CPU: .* has compute capability 6.1"):
        assert pick_device("auto") == torch.device("cpu")
