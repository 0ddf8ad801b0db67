"""What happens when a kernel is wrong, or doesn't run: by stand-ins, without a GPU."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

launch = pytest.importorskip("sfl.nn.engine.gpu.launch", reason="Triton is not installed")

from sfl.nn.engine import locally_connected, reference  # noqa: E402
from sfl.nn.engine.gpu import norm, products, trust  # noqa: E402
from sfl.nn.window import window_of  # noqa: E402

WINDOW, POSITIONS = window_of((9, 20), 3, 2, 1)
Run = Callable[..., None]


@dataclasses.dataclass
class Runs:
    """What the stand-in of a kernel does, and for how many it was called."""

    result: str = "right"
    count: int = 0

    def run(self, kernel: Any, x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor):
        self.count += 1
        if self.result == "no compiler":
            raise RuntimeError("Failed to find C compiler.\n Please specify via CC")
        if self.result == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        x_, y_ = x.permute(3, 2, 0, 1), y.permute(3, 2, 0, 1)
        rest = (kernel.window, kernel.groups)
        if kernel.name == "forward":
            y_.copy_(reference.forward(x_, w, bias, *rest))
        elif kernel.name == "input_gradient":
            x_.copy_(reference.input_gradient(y_, w, x_, *rest))
        else:
            w.copy_(reference.weight_gradient(x_, y_, w.dtype, *rest))
        if self.result == "wrong":
            {"forward": y, "input_gradient": x, "weight_gradient": w}[kernel.name][0, 0] *= 2
        if self.result == "unwritten":
            y[-1, -1, -1, -1] = torch.nan


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Nothing is known of any kernel; they are run by a stand-in."""
    stand_in = Runs()
    monkeypatch.setattr(trust, "_broken", None)
    monkeypatch.setattr(trust, "_trusted", set())
    monkeypatch.setattr(launch.Kernel, "run", lambda self, *given: stand_in.run(self, *given))
    return stand_in


def tensors(batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    shapes = (
        (batch, 4, 9, 20), (*POSITIONS, 6, 3, 3, 2), (6, *POSITIONS), (batch, 6, *POSITIONS),
    )  # fmt: skip
    x, weight, bias, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias, dy


def all_three(batch: int = 5) -> tuple[Tensor, ...]:
    x, weight, bias, dy = tensors(batch)
    return (
        products.forward(x, weight, bias, WINDOW, 2),
        products.input_gradient(dy, weight, x, WINDOW, 2),
        products.weight_gradient(x, dy, torch.float32, WINDOW, 2),
    )


def expected(batch: int = 5) -> tuple[Tensor, ...]:
    x, weight, bias, dy = tensors(batch)
    return (
        reference.forward(x, weight, bias, WINDOW, 2),
        reference.input_gradient(dy, weight, x, WINDOW, 2),
        reference.weight_gradient(x, dy, torch.float32, WINDOW, 2),
    )


def test_each_kernel_is_compared_once(runs: Runs) -> None:
    for _ in range(2):
        torch.testing.assert_close(all_three(), expected(), rtol=0, atol=0)
    assert runs.count == 6 + 3
    all_three(16)  # compiled for another batch
    assert runs.count == 6 + 3 + 6


def test_another_device_is_compared_anew() -> None:
    """What is right on one GPU may be wrong on another of the same process."""
    assert trust.trusts("it", "a kernel", torch.device("cpu"), lambda: 0.0, 1e-4)
    with pytest.warns(UserWarning, match="it is wrong by 1.0"):
        assert not trust.trusts("it", "a kernel", torch.device("meta"), lambda: 1.0, 1e-4)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_wrong_number_ends_it(runs: Runs, place: int) -> None:
    runs.result = "wrong"
    x, weight, bias, dy = tensors()
    calls: list[Callable[[], Tensor]] = [
        lambda: products.forward(x, weight, bias, WINDOW, 2),
        lambda: products.input_gradient(dy, weight, x, WINDOW, 2),
        lambda: products.weight_gradient(x, dy, torch.float32, WINDOW, 2),
    ]
    name = ("forward", "input gradient", "weight gradient")[place]
    with pytest.warns(UserWarning, match="Please report this line") as warned:
        found = calls[place]()
    assert torch.equal(found, expected()[place])
    (line,) = (str(each.message) for each in warned)
    start = (
        f"layers run in plain PyTorch, slower: a GPU kernel failed its check: {name} is wrong by"
    )
    assert line.startswith(start) and "\n" not in line and "channels=4" in line
    with warnings.catch_warnings(action="error"):  # once is enough
        torch.testing.assert_close(all_three(), expected(), rtol=0, atol=0)
    assert runs.count == 1 and trust.broken() is not None


def test_what_is_left_out_is_wrong(runs: Runs) -> None:
    runs.result = "unwritten"
    with pytest.warns(UserWarning, match="is wrong by nan"):
        assert torch.equal(all_three()[0], expected()[0])


def test_a_kernel_that_cannot_be_compiled(runs: Runs) -> None:
    runs.result = "no compiler"
    said = "forward doesn't run: RuntimeError: Failed to find C compiler. Please specify"
    with pytest.warns(UserWarning, match=said) as warned:
        torch.testing.assert_close(all_three(), expected(), rtol=0, atol=0)
    assert len(warned) == 1


def test_too_little_memory_is_told_as_such(runs: Runs) -> None:
    runs.result = "out of memory"
    with pytest.raises(torch.OutOfMemoryError):
        all_three()
    assert trust.broken() is None


def test_nothing_to_multiply_needs_no_kernel(runs: Runs) -> None:
    torch.testing.assert_close(all_three(0), expected(0), rtol=0, atol=0)
    assert runs.count == 0 and not all_three(0)[2].any()


def test_a_comparison_draws_nothing_of_a_runs_numbers(runs: Runs) -> None:
    torch.manual_seed(0)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    all_three()
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("batch", [5, 64, 1030, 1300, 4096])
def test_normalisation_is_compared_as_it_is_compiled(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton makes another kernel of a batch that 16 divides."""
    compared = []

    def forward(x: Tensor, *rest: Any) -> None:
        compared.append(len(x))
        raise NotImplementedError

    monkeypatch.setattr(norm, "norm_forward", forward)
    with pytest.raises(NotImplementedError):
        norm.error_of(torch.empty(batch, 1, 1, 1))
    assert (compared[0] % 16 == 0) == (batch % 16 == 0)
    assert min(compared[0], 1024) == min(batch, 1024)


def test_few_positions_keep_both_borders() -> None:
    x, weight, bias, dy = (tensors()[0].permute(2, 3, 1, 0), *tensors()[1:])
    y = dy.permute(2, 3, 1, 0)
    kernel = launch.kernel_for("forward", x, weight, bias, y, WINDOW, 2)
    sizes, positions = products._few(kernel, x.shape, y.shape)
    assert sizes == (7, 8) and positions == (4, 4)
    for before, after, all_of_them, few in zip((9, 20), sizes, POSITIONS, positions, strict=True):
        assert before - 2 * all_of_them == after - 2 * few


def test_the_operators_use_them(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfl.nn.engine import operators

    monkeypatch.setattr(operators, "choose", lambda device, dtype: (products, ""))
    x, weight, bias, dy = tensors()
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    y = locally_connected(x, weight, bias, WINDOW, 2)
    gradients = torch.autograd.grad(y, inputs, dy)
    torch.testing.assert_close((y, *gradients[:2]), expected(), rtol=0, atol=0)
    assert runs.count == 6


def test_tf32_is_read_from_either_of_pytorchs_switches() -> None:
    x, weight, bias, dy = tensors()
    given = ("forward", x.permute(2, 3, 1, 0), weight, bias, dy.permute(2, 3, 1, 0), WINDOW, 2)
    matmul, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    assert launch.kernel_for(*given).precision == "ieee"
    try:
        matmul.fp32_precision = "tf32"
        assert launch.kernel_for(*given).precision == "tf32"
        torch.set_float32_matmul_precision("highest")
        assert launch.kernel_for(*given).precision == "ieee"
        torch.set_float32_matmul_precision("high")
        assert launch.kernel_for(*given).precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_recording_is_no_place_for_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    compared = []

    def error() -> float:
        compared.append(1)
        return 0.0

    assert not trust.trusts("it", "a kernel", torch.device("cuda"), error, 1e-4)
    assert not compared and trust.broken() is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert trust.trusts("it", "a kernel", torch.device("cuda"), error, 1e-4) and compared


def test_a_comparison_of_many_weights_is_of_fewer_positions() -> None:
    """Its memory must not be more than training's."""
    for channels, few in ((64, 4), (256, 1), (512, 1)):
        x = torch.empty(9, 9, channels, 16, device="meta")
        weight = torch.empty(9, 9, channels, 3, 3, channels, device="meta")
        window, _ = window_of((9, 9), 3, 1, 1)
        kernel = launch.kernel_for("forward", x, weight, None, x, window, 1)
        assert products._few(kernel, x.shape, x.shape) == ((few, few), (few, few))


def test_what_is_said_of_a_failure_names_no_folder(runs: Runs) -> None:
    def fails() -> float:
        raise RuntimeError("gcc /home/alice/my.project/a-b/main.c -o\n/tmp/x/y.so failed: 1/2")

    with pytest.warns(
        UserWarning, match=r"doesn't run: RuntimeError: gcc main.c -o y.so failed: 1/2"
    ):
        trust.trusts("it", "a kernel", torch.device("cpu"), fails, 1e-4)


def test_kernels_are_given_addresses_that_they_are_compiled_for() -> None:
    numbers = torch.arange(100.0)
    assert launch.ready(numbers) is numbers
    for odd in (numbers[1:], numbers.view(10, 10).T):
        given = launch.ready(odd)
        assert given.data_ptr() % 16 == 0 and given.is_contiguous() and torch.equal(given, odd)


def test_large_tensors_are_walked_in_64_bits() -> None:
    def wide(batch: int) -> bool:
        x = torch.empty(8, 8, 64, batch, device="meta")
        weight = torch.empty(8, 8, 1, 1, 1, 64, device="meta")
        y = torch.empty(8, 8, 1, batch, device="meta")
        window, _ = window_of((8, 8), 1)
        return bool(launch.kernel_for("forward", x, weight, None, y, window, 1).wide)

    assert [wide(2**19 - 1), wide(2**19)] == [False, True]
