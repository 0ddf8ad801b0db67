"""Measures against plain formulas; measuring changes nothing."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.learning.learner import Learner
from sfl.learning.measures import Measures, angle, effective_rank, measure
from sfl.learning.optimizers import build_optimizer
from sfl.learning.routes import Chain, DirectFeedback, Frozen, LocalLosses, Route
from sfl.learning.seeding import generator, seed_global
from sfl.nn.engine import BatchNormReLU
from sfl.nn.feedback.attach import attach
from sfl.nn.feedback.rules import RULES
from sfl.nn.spatial import SpatialFeatureLayer

DRAW, LR = partial(generator, 0), 0.1
X = torch.randn(12, 3, 6, 6, generator=DRAW("images"))
LABELS = torch.arange(12) % 4
LOCAL = ["0", "3"]


def net(storage: Any = "local") -> nn.Sequential:
    seed_global(0, "net")
    return nn.Sequential(
        SpatialFeatureLayer((3, 6, 6), 4, 3, padding=1, storage=storage),
        BatchNormReLU(4), nn.Dropout(0.5),
        SpatialFeatureLayer((4, 6, 6), 2, 3, stride=2, storage=storage),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def learner(rule: str = "backprop", route: str = "chain", storage: str = "local") -> Learner:
    model, loss, size = net(storage), nn.CrossEntropyLoss(), (3, 6, 6)
    feedback = attach(model, rule, DRAW)
    routes: dict[str, Any] = {
        "chain": Chain,
        "dfa": lambda: DirectFeedback(model, size, DRAW),
        "local": lambda: LocalLosses(model, size, DRAW, "predsim", loss),
        "frozen": lambda: Frozen(model, size),
    }
    made: Route = routes[route]()
    more = [*feedback.parameters(), *made.parameters()]
    optimizer = build_optimizer(model, more, name="sgd", lr=LR, momentum=0.9)
    return Learner(model, optimizer, loss, feedback=feedback, route=made)


def measured(one: Learner, lr: float = LR) -> Measures:
    return measure(one, X, LABELS, lr=lr, step=0)


def train(one: Learner, steps: int, first: int = 0) -> None:
    one.model.train()
    for step in range(first, first + steps):
        seed_global(0, "dropout", step)
        one.step(X, LABELS, lr=LR, step=step)


def by_hand(
    weights: dict[str, Tensor], back: Tensor | None = None
) -> tuple[dict[str, Tensor], float]:
    """Gradients and loss of a copy without rule, route and dropout, batch statistics in use.

    back: used as the readout's weights in the backward pass.
    """
    model = net()
    model.load_state_dict(weights)
    model.train()
    model[2].p = 0.0  # type: ignore[assignment]
    h = model[:6](X)
    logits = F.linear(h if back is None else h.detach(), model[6].weight, model[6].bias)  # type: ignore[arg-type]
    loss = F.cross_entropy(logits, LABELS)
    if back is not None:
        (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
        h.backward(error @ back)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return gradients, float(loss.detach())


def test_angle_by_hand() -> None:
    one = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert angle(one, torch.tensor([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx(45)
    assert angle(one, -one) == pytest.approx(180) and angle(one, 7 * one) == 0
    small = torch.tensor([[1.0, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    assert angle(one, small) == pytest.approx(math.degrees(1e-9))


def test_effective_rank_by_hand() -> None:
    """Singular values 3 and 1: shares 3/4 and 1/4, however the matrix is turned."""
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=DRAW("turn"), dtype=torch.float64))
    matrix = torch.zeros(4, 6, dtype=torch.float64)
    matrix[0, 0], matrix[1, 1] = 3.0, 1.0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = effective_rank((matrix @ turn).view(4, 2, 3))
    assert found == pytest.approx(math.exp(entropy), rel=1e-6)
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.zeros(3, 4)) == 0
    assert math.isnan(effective_rank(torch.tensor([[math.inf]])))


def test_backprop_is_the_true_gradient() -> None:
    one = learner()
    train(one, 2)
    found = measured(one)
    weights = one.model.state_dict()
    gradients, loss = by_hand(weights)
    for values in found.layers.values():
        assert values["gradient_angle"] == 0 and values["gradient_ratio"] == 1
        assert not any(name.startswith("feedback") for name in values)
    assert "sharing_distance" in found.layers["0"] and "sharing_distance" not in found.layers["6"]
    after, moved = {**weights}, {n: weights[n] - LR * g for n, g in gradients.items()}
    _, then = by_hand(after | moved)
    assert found.probe_decrease == pytest.approx(loss - then, rel=1e-3)


def test_a_rule_against_the_true_gradient() -> None:
    """The readout sends its error back through other weights; the layer before it has the angle."""
    one = learner("fa")
    rules = one.feedback.rules
    train(one, 2)
    values = measured(one).layers["3"]
    weights = one.model.state_dict()
    true, _ = by_hand(weights)
    learnt, _ = by_hand(weights, rules["6"].weight())
    a, b = learnt["3.weight"].flatten(), true["3.weight"].flatten()
    cosine = float(a @ b / a.norm() / b.norm())
    assert values["gradient_angle"] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-3)
    assert values["gradient_ratio"] == pytest.approx(float(a.norm() / b.norm()), rel=1e-4)
    own, back = weights["6.weight"], rules["6"].weight()
    values = measured(one).layers["6"]
    cosine = float((own * back).sum() / own.norm() / back.norm())
    assert values["feedback_angle"] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-4)
    assert values["feedback_ratio"] == pytest.approx(float(back.norm() / own.norm()), rel=1e-5)
    assert values["feedback_distance"] == pytest.approx(float((own - back).norm()), rel=1e-5)
    # logits: softmax minus the label, over the batch; its rows sum to zero, so that 3 are free
    assert 1 < values["error_rank"] <= 3.001


def test_the_step_is_as_long_as_the_true_gradient() -> None:
    """For a small lr the loss falls by lr ‖true‖ ‖learnt‖ cos / ‖learnt‖, of all parameters."""
    one = learner("fa")
    rules, lr = one.feedback.rules, 1e-3
    with torch.no_grad():  # so that only the readout's feedback differs from backprop
        rules["3"].state()["weights"].copy_(one.model.state_dict()["3.weight"])
    found = measured(one, lr)
    weights = one.model.state_dict()
    true, _ = by_hand(weights)
    learnt, _ = by_hand(weights, rules["6"].weight())
    flat = [torch.cat([g[n].flatten() for n in true]).double() for g in (true, learnt)]
    expected = lr * float(flat[0] @ flat[1] / flat[1].norm() * flat[0].norm())
    assert found.probe_decrease == pytest.approx(expected, rel=0.05)


def test_feedback_equal_to_the_weights_has_no_angle() -> None:
    one = learner("kp")
    own = one.model.state_dict()
    with torch.no_grad():
        for name, rule in one.feedback.rules.items():
            rule.state()["weights"].copy_(own[f"{name}.weight"])
    found = measured(one).layers
    for values in found.values():
        assert values["gradient_angle"] == pytest.approx(0, abs=1e-3)
    for name in ("3", "6"):
        assert found[name]["feedback_angle"] == found[name]["feedback_distance"] == 0
        assert found[name]["feedback_ratio"] == 1


def test_only_weights_inside_the_fields_are_compared() -> None:
    found = {s: measured(learner("usf", storage=s)).layers["3"] for s in ("local", "dense")}
    dense = learner("usf", storage="dense")
    with torch.no_grad():
        layer: Any = dense.model[3]  # type: ignore[index]
        outside = local_outside(layer)
        layer.weight += 9 * outside
    values = measured(dense).layers["3"]
    for name in ("feedback_angle", "feedback_ratio", "feedback_distance", "sharing_distance"):
        assert values[name] == pytest.approx(found["dense"][name], rel=1e-5)
    assert 0 < found["local"]["feedback_angle"] < 90


def local_outside(layer: SpatialFeatureLayer) -> Tensor:
    """1 where a dense weight lies outside its field: 3×3 and stride 2, nothing padded."""
    outside = torch.ones_like(layer.weight)
    for row in range(2):
        for column in range(2):
            rows, columns = slice(2 * row, 2 * row + 3), slice(2 * column, 2 * column + 3)
            outside[:, rows, columns, :, row, column] = 0
    return outside


def test_a_frozen_layer_learns_nothing() -> None:
    found = measured(learner(route="frozen")).layers
    for name in LOCAL:
        assert found[name]["gradient_ratio"] == 0 and "gradient_angle" not in found[name]
        assert "error_rank" not in found[name]
    assert found["6"]["gradient_angle"] == 0


@pytest.mark.parametrize(
    ("rule", "route"),
    [("backprop", r) for r in ("chain", "dfa", "local", "frozen")] + [(r, "chain") for r in RULES],
)
def test_measuring_changes_nothing(rule: str, route: str) -> None:
    plain, watched = learner(rule, route), learner(rule, route)
    for first in (0, 2, 4):
        train(plain, 2, first)
        train(watched, 2, first)
        before = {name: t.clone() for name, t in watched.state().items()}
        modes = [module.training for module in watched.model.modules()]
        random = torch.get_rng_state()
        found = measure(watched, X, LABELS, lr=LR, step=first + 1)
        assert torch.equal(torch.get_rng_state(), random)
        assert [module.training for module in watched.model.modules()] == modes
        state = watched.state()
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
        again = measure(watched, X, LABELS, lr=LR, step=first + 1)
        assert found == again and found.probe_decrease is not None
        assert list(found.layers) == [*LOCAL, "6"]
    one, other = plain.state(), watched.state()
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_what_is_not_finite_is_left_out() -> None:
    found = measure(learner(), X * 1e30, LABELS, lr=1e30, step=0)
    assert all(math.isfinite(v) for values in found.layers.values() for v in values.values())
