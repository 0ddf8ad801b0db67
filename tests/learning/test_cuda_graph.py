"""A function as one graph: which calls are recorded, which replayed, and that nothing is frozen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.learning.average import Average
from sfl.learning.cuda_graph import WARM_UP, Graphed
from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.routes import DirectFeedback, LocalLosses, Route
from sfl.learning.seeding import generator, seed_global
from sfl.learning.sleep import Sleep
from sfl.nn.feedback.attach import attach
from sfl.nn.feedback.rules import RULES
from sfl.nn.models.networks import build_model
from tests.learning.recorded import WAITING, Recorded

DRAW = partial(generator, 0)
SIZES: dict[str, Any] = {"channels": [2, 2, 2, 3, 3, 4], "hidden_sizes": [8]}
OTHERS = sorted(set(RULES) - {"kp", "brsf"})


def never(error: RuntimeError) -> None:
    raise error


class Watched:
    """A recorder that keeps what it makes."""

    def __init__(self, *waiting: str) -> None:
        self.made: list[Recorded] = []
        self.waiting = waiting or WAITING

    def __call__(self, body: Callable[[], object]) -> Recorded:
        self.made.append(Recorded(body, self.waiting))
        return self.made[-1]


def test_the_first_calls_are_warm_up_the_rest_replays() -> None:
    calls, watched = [], Watched()

    def twice(x: Tensor) -> tuple[Tensor]:
        calls.append(len(x))
        return (x * 2,)

    graphed = Graphed(twice, never, watched)
    outputs = [graphed(torch.tensor([float(i)] * 3))[0] for i in range(WARM_UP + 3)]
    assert calls == [3] * (WARM_UP + 1)  # once more, to be recorded
    (made,) = watched.made
    assert made.replays == 3
    assert [float(y[0]) for y in outputs[: WARM_UP + 1]] == [0, 2, 4, 10]
    assert outputs[-1] is outputs[WARM_UP]  # the same tensor, with the last numbers


def test_arguments_of_other_shapes_are_computed_as_they_are() -> None:
    watched = Watched()
    graphed = Graphed(lambda x: (x + 1,), never, watched)
    for i in range(2 * WARM_UP):
        assert torch.equal(graphed(torch.full((4,), i))[0], torch.full((4,), i + 1))
        assert torch.equal(graphed(torch.full((3,), i))[0], torch.full((3,), i + 1))
        assert graphed(torch.full((4,), float(i)))[0].dtype == torch.float32
    assert watched.made[0].replays == WARM_UP and len(watched.made) == 1


def test_a_small_first_batch_does_not_say_what_is_recorded() -> None:
    """A run may be resumed just before an epoch's last batch."""
    watched = Watched()
    graphed = Graphed(lambda x: (x + 1,), never, watched)
    for size in (3, *[4] * (WARM_UP + 2)):
        assert torch.equal(graphed(torch.full((size,), 7))[0], torch.full((size,), 8))
    assert watched.made[0].replays == 2


def test_what_cannot_be_recorded_is_said_once_and_computed() -> None:
    said: list[str] = []

    def waits(x: Tensor) -> tuple[Tensor]:
        return (x * float(x.sum()),)

    graphed = Graphed(waits, lambda error: said.append(str(error)), Recorded)
    for i in range(2 * WARM_UP):
        assert torch.equal(graphed(torch.full((2,), float(i)))[0], torch.full((2,), 2.0 * i * i))
    assert len(said) == 1 and said[0].startswith("operation not permitted")


def learner(
    name: str, rule: str, route: str, graphed: Any, clip_norm: float | None = None, every: int = 0
) -> Learner:
    torch.manual_seed(0)
    model = build_model("SpatialDenseNet", dropout=0.3, dropout2d=0.3, **SIZES)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    feedback = attach(model, rule, DRAW)
    size = (3, 32, 32)
    routes: dict[str, Callable[[], Route | None]] = {
        "chain": lambda: None,
        "dfa": lambda: DirectFeedback(model, size, DRAW),
        "local": lambda: LocalLosses(model, size, DRAW, "predsim", loss),
    }
    more = routes[route]()
    parameters = [*feedback.parameters(), *(more.parameters() if more else [])]
    settings: dict[str, Any] = {"momentum": 0.9} if name in ("sgd", "muon") else {}
    optimizer = build_optimizer(model, parameters, name=name, weight_decay=0.01, **settings)
    return Learner(
        model, optimizer, loss, feedback=feedback, route=more, clip_norm=clip_norm,
        sleep=Sleep(model, every) if every else None, average=Average(model, 0.9), graphed=graphed,
    )  # fmt: skip


def trained(one: Learner, steps: int) -> list[Tensor]:
    """The losses, and all of the learner's state; with a small batch now and then."""
    losses = []
    for step in range(steps):
        draw = DRAW("images", step)
        size = 3 if step % 5 == 4 else 6
        images = torch.rand(size, 3, 32, 32, generator=draw)
        seed_global(0, "dropout", step)
        loss, hits = one.step(images, torch.arange(size), lr=0.01 / (1 + step), step=step)
        losses += [loss.clone(), hits.clone()]
    return [*losses, *one.state().values()]


@pytest.mark.parametrize(
    ("name", "rule", "route", "more"),
    [
        ("adam", "backprop", "chain", {}),
        ("adamw", "backprop", "chain", {"clip_norm": 0.1}),
        ("sgd", "backprop", "chain", {"every": 2}),
        ("sgd", "kp", "chain", {}),
        ("muon", "kp", "chain", {}),
        ("adam", "brsf", "chain", {}),
        ("adam", "backprop", "dfa", {}),
        *(pytest.param("adam", rule, "chain", {}, marks=pytest.mark.slow) for rule in OTHERS),
        pytest.param("adam", "backprop", "local", {}, marks=pytest.mark.slow),
    ],
)
def test_a_learners_steps_are_the_same_ones(
    name: str, rule: str, route: str, more: dict[str, Any]
) -> None:
    """Whatever takes part in a step: no number and no tensor of it is frozen."""
    # F.one_hot looks at the labels, on a CPU alone.
    watched = Watched("nonzero") if route == "local" else Watched()
    graphed = learner(name, rule, route, lambda f: Graphed(f, never, watched), **more)
    plain = learner(name, rule, route, lambda f: f, **more)
    ours, theirs = trained(graphed, 10), trained(plain, 10)
    assert watched.made[0].replays == 10 - WARM_UP - 2
    assert all(map(torch.equal, ours, theirs))


def test_divergence_is_noticed_in_a_replay() -> None:
    one = learner("adam", "backprop", "chain", lambda f: Graphed(f, never, Recorded))
    trained(one, 5)
    before = [weight.detach().clone() for weight in one.weights]
    images = torch.rand(6, 3, 32, 32)
    for broken in (images * torch.inf, images):
        one.step(broken, torch.arange(6), lr=0.1)
    assert all(map(torch.equal, before, one.weights))
    with pytest.raises(Exception, match="epoch 1, step 6 are not finite"):
        one.guard.refuse(1, 0.1, 7)


def test_a_state_that_is_loaded_later_is_gone_on_with() -> None:
    """Its moments are other tensors than those of the recording."""
    watched = Watched()
    graphed = learner("adam", "backprop", "chain", lambda f: Graphed(f, never, watched))
    plain = learner("adam", "backprop", "chain", lambda f: f)
    for one in (graphed, plain):
        start = {name: tensor.clone() for name, tensor in one.state().items()}
        trained(one, 5)
        one.load_state(start)
    assert all(map(torch.equal, trained(graphed, 10), trained(plain, 10)))
    assert len(watched.made) == 2
