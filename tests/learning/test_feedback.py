"""What changes feedback weights during training: as the equations predict. Steps of a Learner."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.seeding import generator
from sfl.nn.feedback.attach import attach
from sfl.nn.feedback.rules import RULES
from sfl.nn.spatial import SpatialFeatureLayer

DRAW = partial(generator, 0)
ETA, DECAY, STEPS = 0.05, 0.3, 12


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), SpatialFeatureLayer((4, 6, 6), 3, 3, padding=1),
        nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 4),
    ).double()  # fmt: skip


def learner(
    rule: str, optimizer: dict[str, Any], clip_norm: float | None = None, **options: Any
) -> Learner:
    model = net()
    feedback = attach(model, rule, DRAW, **options)
    made = build_optimizer(model, feedback.parameters(), lr=ETA, **optimizer)
    loss = nn.CrossEntropyLoss()
    return Learner(model, made, loss, feedback=feedback, clip_norm=clip_norm)


def take_steps(one: Learner, first: int = 0, steps: int = STEPS) -> None:
    for step in range(first, first + steps):
        images = torch.randn(8, 3, 8, 8, generator=DRAW("images", step), dtype=torch.float64)
        one.step(images, torch.arange(8) % 4, lr=ETA, step=step)


def apart(one: Learner) -> dict[str, Tensor]:
    """W − B of each layer."""
    own, back = one.model.state_dict(), one.feedback.state()
    names = {name: name.removesuffix("weights") + "weight" for name in back}
    return {name: own[names[name]] - back[name] for name in back}


def shrunk_by_sgd(momentum: float) -> float:
    """The factor of W − B = d after all steps: v ← μ v + λ d, d ← d − η v, by itself."""
    d, v = 1.0, 0.0
    for _ in range(STEPS):
        v = momentum * v + DECAY * d
        d -= ETA * v
    return d


KP: dict[str, tuple[dict[str, Any], float]] = {
    "sgd": ({"name": "sgd", "weight_decay": DECAY}, (1 - ETA * DECAY) ** STEPS),
    "sgd with momentum": (
        {"name": "sgd", "weight_decay": DECAY, "momentum": 0.8}, shrunk_by_sgd(0.8),
    ),
    "adam": ({"name": "adam"}, 1.0),
    "adamw": ({"name": "adamw", "weight_decay": DECAY}, (1 - ETA * DECAY) ** STEPS),
}  # fmt: skip


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("name", KP)
def test_kp_lets_the_difference_shrink_as_predicted(name: str, clip_norm: float | None) -> None:
    optimizer, factor = KP[name]
    one = learner("kp", optimizer, clip_norm)
    before = apart(one)
    weights = {key: tensor.clone() for key, tensor in one.model.state_dict().items()}
    take_steps(one)
    for key, after in apart(one).items():
        torch.testing.assert_close(after, factor * before[key], rtol=1e-9, atol=1e-12)
    assert not any(map(torch.equal, weights.values(), one.model.state_dict().values()))


def test_kp_stores_its_weights_by_themselves() -> None:
    one = learner("kp", KP["sgd"][0])
    before = {name: tensor.clone() for name, tensor in one.feedback.state().items()}
    with torch.no_grad():
        for weight in one.model.parameters():
            weight.add_(1.0)
    assert all(torch.equal(before[name], b) for name, b in one.feedback.state().items())
    take_steps(one, steps=1)  # and gradients alone have moved it
    own = one.model.get_submodule("6")
    assert isinstance(own.weight, nn.Parameter) and own.weight.grad is not None
    moved = before["6.weights"] * (1 - ETA * DECAY) - ETA * own.weight.grad
    torch.testing.assert_close(one.feedback.state()["6.weights"], moved)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    # a layer, its input, and how many samples a noise image gives
    "linear": (nn.Linear(48, 60), (48,), 1),
    "local": (SpatialFeatureLayer((4, 7, 6), 12, 3, stride=2), (4, 7, 6), 1),
    "dense": (SpatialFeatureLayer((4, 5, 5), 12, 3, storage="dense"), (4, 5, 5), 1),
    "conv": (nn.Conv2d(8, 64, 3, groups=2, stride=2), (8, 11, 11), 25),
}


def angle(one: Tensor, other: Tensor) -> float:
    cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    return math.degrees(math.acos(float(cosine)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("images", [40, 400])
def test_mirrors_angle_is_that_of_its_samples(kind: str, images: int) -> None:
    layer, size, samples = copy.deepcopy(LAYERS[kind])
    before = nn.Identity() if kind == "linear" else nn.Unflatten(1, size)
    model = nn.Sequential(nn.Linear(5, math.prod(size)), before, layer)
    feedback = attach(model, "mirror", DRAW, images=images, rate=1.0)
    model(torch.randn(2, 5))
    feedback.after_step(0)
    (found,) = feedback.state().values()
    inputs = {"linear": 48, "local": 36, "dense": 36, "conv": 36}[kind]
    predicted = math.degrees(math.atan(math.sqrt((inputs + 1) / (images * samples))))
    own = layer.weight
    assert isinstance(own, nn.Parameter)
    assert angle(own.detach(), found) == pytest.approx(predicted, rel=0.1)
    along = (found * own.detach()).sum() / own.detach().square().sum()
    assert float(along) == pytest.approx(1, abs=0.15)  # E[y xᵀ] is W, not a multiple of it
    if kind == "dense":
        assert torch.equal(found == 0, own == 0)


def test_mirror_has_no_bias_and_no_transport() -> None:
    """A mean over very many samples is W itself, also of taps that the border often lacks."""
    layer = nn.Conv2d(1, 2, (3, 1), padding=(1, 0))
    model = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (1, 3, 1)), layer)
    feedback = attach(model, "mirror", DRAW, images=400_000, rate=1.0)
    model(torch.randn(2, 3))
    feedback.after_step(0)
    torch.testing.assert_close(
        feedback.state()["2.weights"], layer.weight.detach(), rtol=0, atol=0.01
    )


def test_mirrors_running_average_and_when_it_learns() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 60)
    model = nn.Sequential(nn.Linear(5, 48), layer)
    feedback = attach(model, "mirror", DRAW, every=3, batches=2, images=8, rate=0.1)
    (back,) = feedback.state().values()
    model(torch.randn(2, 5))
    changed = []
    for step in range(180):  # 120 batches, after which 0.9^120 of the start is left
        before = back.clone()
        feedback.after_step(step)
        changed.append(not torch.equal(back, before))
    assert changed == [step % 3 == 0 for step in range(180)]
    samples = 8 * (2 - 0.1) / 0.1
    predicted = math.degrees(math.atan(math.sqrt(49 / samples)))
    assert angle(layer.weight.detach(), back) == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("rule", RULES)
def test_its_state_put_back_goes_on_as_the_same(rule: str, optimizer: str) -> None:
    named = {"name": optimizer, **({"momentum": 0.9} if optimizer == "sgd" else {})}
    one, other = learner(rule, named), learner(rule, named)
    take_steps(one, steps=3)
    kept = {key: tensor.clone() for key, tensor in one.state().items()}
    other.load_state(kept)
    for each in (one, other):
        take_steps(each, first=3, steps=2)
    ours, theirs = one.state(), other.state()
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("feedback.") for key in ours) == bool(RULES[rule].holds)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16(rule: str) -> None:
    """Products in bfloat16, the same gradients up to its rounding, all weights in float32."""
    found = []
    for precision in ("float32", "bfloat16"):
        model = net().float()
        feedback = attach(model, rule, DRAW)
        made = build_optimizer(model, feedback.parameters(), name="sgd", lr=0.1)
        one = Learner(model, made, nn.CrossEntropyLoss(), feedback=feedback, precision=precision)
        one.step(torch.randn(8, 3, 8, 8, generator=DRAW("x")), torch.arange(8) % 4, lr=0.0)
        assert all(tensor.dtype == torch.float32 for tensor in feedback.state().values())
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    full, half = found
    assert full.dtype == half.dtype == torch.float32
    assert 0 < float((full - half).norm() / full.norm()) < 0.03


def test_an_optimizer_without_the_feedback_weights_is_refused() -> None:
    model = net()
    feedback = attach(model, "kp", DRAW)
    with pytest.raises(ValueError, match=r"^the optimizer lacks feedback\.parameters\(\)"):
        Learner(model, build_optimizer(model), nn.CrossEntropyLoss(), feedback=feedback)


def test_kp_under_adam_with_decay_is_refused() -> None:
    model = net()
    feedback = attach(model, "kp", DRAW)
    for name in ("adamw", "adam"):
        optimizer = build_optimizer(model, feedback.parameters(), name=name, weight_decay=0.1)
        if name == "adam":
            with pytest.raises(ValueError, match=r"^Adam's decay would differ between weights and"):
                Learner(model, optimizer, nn.CrossEntropyLoss(), feedback=feedback)
        else:
            Learner(model, optimizer, nn.CrossEntropyLoss(), feedback=feedback)


def test_in_dense_storage_kps_feedback_stays_inside_the_fields() -> None:
    layer = SpatialFeatureLayer((2, 3, 3), 2, 2, storage="dense")
    model = nn.Sequential(nn.Conv2d(1, 2, 2), layer, nn.Flatten(), nn.Linear(8, 3))
    feedback = attach(model, "kp", partial(generator, 0))
    inside = layer.weight.detach() != 0
    learner = Learner(
        model,
        build_optimizer(model, feedback.parameters(), name="sgd"),
        nn.CrossEntropyLoss(),
        feedback=feedback,
    )
    learner.step(torch.rand(4, 1, 4, 4), torch.arange(4) % 3, lr=0.1)
    weights = feedback.state()["1.weights"]
    assert layer.outside_share() > 0 and not weights[~inside].any() and weights[inside].all()
