"""What training needs, by hand and against what a step really holds; what is free; refusals."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl import host_memory
from sfl.errors import Exit, UserError
from sfl.learning.seeding import generator
from sfl.nn.feedback.attach import attach
from sfl.nn.feedback.rules import RULES
from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.summary import LayerSummary, ModelSummary, summarize
from sfl.training import memory
from sfl.training.memory import (
    available_bytes,
    check_memory,
    checkpoint_bytes,
    is_out_of_memory,
    training_bytes,
)
from sfl.training.setup import build_learner
from tests.training.tiny import SPATIAL, tiny_config, tiny_setup

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("optimizer", "numbers_a_weight"),
    [
        ("{name: adam}", 4),
        ("{name: adamw}", 4),
        ("{name: sgd}", 2),
        ("{name: sgd, momentum: 0.9}", 3),
    ],
)
def test_an_estimate_by_hand(optimizer: str, numbers_a_weight: int) -> None:
    summary = summarize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), (1, 5, 5))
    config = tiny_config(f"optimizer={optimizer}", "data.batch_size=100")
    weights = 4 * numbers_a_weight * (2 * 9 + 2)
    gradients = 4 * summary.weights
    assert training_bytes(summary, config, "float32", 1) == weights  # the gradients are more
    others = weights - gradients
    assert training_bytes(summary, config, "float32") == others + 4 * 100 * 2 * 3 * 3
    assert training_bytes(summary, config, "bfloat16") == others + 2 * 100 * 2 * 3 * 3


@pytest.mark.parametrize(
    ("rule", "in_memory", "in_file"),
    # Numbers for each weight of the second layer; kp's have two moments.
    [("fa", 1, 1), ("mirror", 1, 1), ("frsf", 1, 1), ("brsf", 1, 0), ("usf", 0, 0), ("kp", 3, 3)],
)
def test_feedback_weights_are_counted(rule: str, in_memory: int, in_file: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), SpatialFeatureLayer((2, 3, 3), 1, 3, padding=1))
    plain, more = summarize(model, (1, 5, 5)), summarize(model, (1, 5, 5), rule)
    adam, room = tiny_config("optimizer.name=adam"), 4 * 9 * 9 * 2  # of which 49 · 2 exist
    steps = [training_bytes(each, adam, "float32", 1) for each in (plain, more)]
    files = [checkpoint_bytes(each, adam) for each in (plain, more)]
    assert steps[1] - steps[0] == in_memory * room
    assert files[1] - files[0] == in_file * room
    assert more.feedback is not None and more.weights == plain.weights
    assert more.feedback.weights == (0 if rule == "usf" else 49 * 2)
    feedback = attach(model, rule, partial(generator, 0))
    held = sum(tensor.numel() for tensor in feedback.state().values())
    assert 4 * held == (room if in_file else 0)
    assert len(feedback.parameters()) == (rule == "kp")


@pytest.mark.parametrize("rule", RULES)
def test_in_dense_storage_a_rule_holds_no_more_than_is_counted(rule: str) -> None:
    """But for a pattern of the fields, which has no channels."""
    model = nn.Sequential(nn.Conv2d(1, 6, 2), SpatialFeatureLayer((6, 3, 3), 5, 2, storage="dense"))
    counted = summarize(model, (1, 4, 4), rule).feedback
    (held,) = attach(model, rule, partial(generator, 0)).rules.values()
    tensors = [value for value in vars(held).values() if isinstance(value, torch.Tensor)]
    pattern = 4 * 3 * 3 * 2 * 2 if rule in ("usf", "kp") else 0
    assert counted is not None
    assert sum(tensor.nbytes for tensor in tensors) == counted.bytes + pattern


@pytest.mark.parametrize("route", ["dfa", "local", "frozen"])
def test_what_a_route_holds_is_counted_and_what_it_freezes_is_not(route: str) -> None:
    """Against the tensors of a learner after a step."""
    setup = tiny_setup(f"learn.route={route}", "optimizer.clip_norm=null", base=SPATIAL)
    learner = build_learner(setup)
    learner.step(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), lr=0.1)
    names = dict(learner.model.named_buffers())  # running statistics aren't weights
    held = {
        name: tensor for name, tensor in learner.state().items()
        if name.removeprefix("model.") not in names and not name.endswith(".step")
    }  # fmt: skip
    assert checkpoint_bytes(setup.summary, setup.config) == sum(
        tensor.nbytes for tensor in held.values()
    )
    own = sum(tensor.numel() for tensor in learner.route.state().values())
    feedback = setup.summary.feedback
    assert (0 if feedback is None else feedback.weights) == own
    assert (own == 0) == (route == "frozen")
    learning = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
    assert setup.summary.learning == learning


def test_measuring_holds_two_gradients_and_a_copy() -> None:
    summary = summarize(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (1, 1, 3))
    config = tiny_config("optimizer.name=adam", "train.measure_every=1")
    assert training_bytes(summary, config, "float32", 1) == 6 * summary.bytes


@pytest.mark.parametrize("name", ["RegularConvNet", "SpatialDenseNet", "SimpleModel"])
@pytest.mark.parametrize("layer", ["conv", "spatial"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_really_holds_that_much(name: str, layer: str, precision: str) -> None:
    """The message says "at least": nobody may be refused who has enough."""
    small: dict[str, Any] = {} if name == "SimpleModel" else {"channels": [4, 6, 8, 10, 12, 14]}
    model = build_model(name, layer=layer, **small)
    batch = 8
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(batch, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        F.cross_entropy(logits.float(), torch.zeros(batch, dtype=torch.int64))
    held[logits.untyped_storage().data_ptr()] = logits.untyped_storage().nbytes()
    config = tiny_config("optimizer.name=adam")
    summary = summarize(model, (3, 32, 32))
    weights = training_bytes(summary, config, precision, 0)
    many = 1000 * batch  # so that activations outweigh gradients
    others = weights - summary.bytes
    activations = (training_bytes(summary, config, precision, many) - others) / 1000
    assert weights == 4 * summary.bytes  # with gradients and two moments
    assert activations <= sum(held.values())
    assert activations > sum(held.values()) / 20  # and it is not nothing


def test_a_model_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = build_model("RegularConvNet", layer="spatial", storage="dense")
    summary = summarize(model, (3, 32, 32))
    assert round(summary.weights / 1e9, 1) == 4.3
    monkeypatch.setattr(memory, "available_bytes", lambda device: 64 * 10**9)
    config = tiny_config("data.batch_size=64")
    with pytest.raises(UserError) as error:
        check_memory(summary, config, CPU, "float32", (3, 32, 32))
    assert error.value.exit_code == Exit.RESOURCES
    assert "68.3 GB" in str(error.value) and "64.0 GB free" in str(error.value)
    for enough in (69 * 10**9, None):  # None: it can't be known
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=enough: free)
        check_memory(summary, config, CPU, "float32", (3, 32, 32))


def test_a_batch_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    summary = ModelSummary((), activations=10**6)

    def check(batch: int, precision: str) -> None:
        config = tiny_config(f"data.batch_size={batch}")
        check_memory(summary, config, CPU, precision, (3, 32, 32))

    check(249, "float32")
    check(499, "bfloat16")
    with pytest.raises(UserError, match="batch 251"):
        check(251, "float32")


@pytest.mark.parametrize(
    ("settings", "activations", "hint"),
    [
        (
            ["data.source=folder"],  # a weight for each place in large images
            10**3,
            "choose a data.resize below their 1000×900 pixels or fewer model.channels",
        ),
        (
            ["model.storage=dense"],
            5 * 10**7,  # of 32 images a little more than the gradients
            "choose model.storage=local, fewer model.channels or a data.batch_size below 32",
        ),
        (
            ["model.storage=dense", "train.measure_every=1"],
            5 * 10**7,  # less than both gradients and the copy: a smaller batch saves nothing
            "choose model.storage=local or fewer model.channels",
        ),
        (
            ["data.source=folder"],
            10**10,
            "choose a data.batch_size below 32, a data.resize below their 1000×900 pixels or fewer "
            "model.channels",
        ),
        (["data.batch_size=1"], 10**10, "choose fewer model.channels"),
    ],
)
def test_what_saves_most_is_named_first(
    settings: list[str], activations: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    layer = LayerSummary("0", "SpatialFeatureLayer", (2, 998, 898), 10**9, 4 * 10**9, None, 0, "")
    summary = ModelSummary((layer,), activations)
    with pytest.raises(UserError) as error:
        check_memory(summary, tiny_config(*settings), CPU, "float32", (3, 1000, 900))
    assert error.value.hint == hint


# --- what is free


def test_on_a_gpu_what_torch_keeps_for_later_counts_as_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert available_bytes(torch.device("cuda")) == 1400


def test_on_the_cpu_it_is_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 77)
    assert available_bytes(CPU) == 77


# --- knowing it afterwards


def test_torchs_own_refusal_is_known() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_what_is_and_what_is_not_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_peak_counts_what_is_held_beside_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks = iter([100, 175, 160, 90])
    monkeypatch.setattr(host_memory, "peak_bytes", lambda: next(peaks))
    monkeypatch.setattr(host_memory, "forget_peak", lambda: True)
    peak = memory.Peak(CPU)
    assert peak.bytes() == 75
    peak.begin()
    assert peak.bytes() == 60
    assert peak.bytes() == 0  # something else was given back meanwhile


def test_a_peak_that_cannot_be_told_apart_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "forget_peak", lambda: False)
    assert memory.Peak(CPU).bytes() is None
    assert memory.Peak(torch.device("mps")).bytes() is None
