"""Each route against plain matrix products, in float64; what it must not see; what is refused."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.learning import local_losses
from sfl.learning.blocks import find_blocks
from sfl.learning.learner import Learner
from sfl.learning.local_losses import LocalLoss, similarities
from sfl.learning.optimizers import build_optimizer
from sfl.learning.routes import DirectFeedback, Frozen, LocalLosses, Route
from sfl.learning.seeding import generator
from sfl.nn.engine import BatchNormReLU
from sfl.nn.feedback.attach import attach
from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer
from tests.nn.feedback.plain import PlainLayer

DRAW = partial(generator, 0)
SIZE, SIZE32 = (4, 5, 4), (3, 32, 32)
CLASSES = 3
STEPS: dict[str, dict[str, Any]] = {
    "padded": {"padding": 1},
    "strided": {"stride": (2, 1), "padding": (1, 2)},
    "grouped": {"groups": 2, "padding": 1, "stride": 2},
}
NETS = ["linear", *(f"{k} {s}" for k in ("conv", "local", "dense") for s in STEPS)]


class Case:
    """A net whose first layer is of that kind, a batch, and the net as matrices."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(1)
        kind, _, steps = name.partition(" ")
        head: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(SIZE), 7)]
        if kind == "conv":
            head = [nn.Conv2d(4, 4, (3, 2), **STEPS[steps])]
        elif kind != "linear":
            head = [SpatialFeatureLayer(SIZE, 4, (3, 2), storage=kind, **STEPS[steps])]  # type: ignore[arg-type]
        if kind != "linear":
            head += [nn.ReLU(inplace=True), nn.Conv2d(4, 5, 2)]
        head += [nn.ReLU(inplace=True), nn.Flatten()]
        features = nn.Sequential(*head)(torch.zeros(1, *SIZE)).shape[1]
        tail = [nn.Linear(features, 6), nn.ReLU(inplace=True), nn.Linear(6, CLASSES)]
        self.model = nn.Sequential(*head, *tail).double()
        self.x = torch.randn(8, *SIZE, dtype=torch.float64)
        self.labels = torch.arange(8) % CLASSES
        layers = [m for m in self.model.modules() if hasattr(m, "weight")]
        self.layers: list[Any] = layers
        self.plain, self.sizes = [], []
        size: tuple[int, ...] = SIZE
        for layer in layers:
            if isinstance(layer, nn.Linear):
                size = (math.prod(size),)
            self.plain.append(PlainLayer.of(layer, size))
            size = tuple(layer(torch.zeros(1, *size, dtype=torch.float64)).shape[1:])
            self.sizes.append(size)
        if kind == "dense":  # an input gradient isn't needed of it, and a weight from every input
            weight: Any = layers[0].weight
            number = torch.arange(weight.numel()).view(weight.shape)
            self.plain[0].where = number.flatten(3).flatten(0, 2).t()

    def found(self, route: Route) -> list[Tensor]:
        """Gradients of the model's parameters by the route."""
        logits = self.model(self.x)
        route.backward(F.cross_entropy(logits, self.labels), logits, self.labels)
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def outputs(self) -> list[Tensor]:
        """What each block puts out, (B, units), from matrices alone."""
        h, found = self.x.flatten(1), []
        for layer, flat in zip(self.layers, self.plain, strict=True):
            h = h @ flat.matrix(layer.weight.detach()).t()
            h = h + layer.bias.detach().flatten()[flat.per_unit]
            h = h if layer is self.layers[-1] else h.clamp(min=0)
            found.append(h)
        return found

    def error(self) -> Tensor:
        """dL/dlogits of the mean cross entropy."""
        return (self.outputs()[-1].softmax(1) - onehot(self.labels)) / len(self.labels)

    def expected(self, of_outputs: list[Tensor]) -> list[Tensor]:
        """The parameters' gradients, from those of all blocks' outputs (B, units)."""
        outputs, found = self.outputs(), []
        inputs = [self.x.flatten(1), *outputs]
        for place, (layer, flat, d) in enumerate(
            zip(self.layers, self.plain, of_outputs, strict=True)
        ):
            if place + 1 < len(self.layers):
                d = d * (outputs[place] > 0)
            bias = torch.zeros(layer.bias.numel(), dtype=torch.float64)
            bias = bias.index_add(0, flat.per_unit, d.sum(0)).view(layer.bias.shape)
            found += [flat.gathered(d.t() @ inputs[place], layer.weight.detach()), bias]
        return found


def onehot(labels: Tensor) -> Tensor:
    return torch.eye(CLASSES, dtype=torch.float64)[labels]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def local(case: Case, kind: Any) -> LocalLosses:
    """With readouts that are no longer zero."""
    route = LocalLosses(case.model, SIZE, DRAW, kind, nn.CrossEntropyLoss())
    drawn = torch.Generator().manual_seed(2)
    for held in route.state().values():
        held.copy_(torch.randn(held.shape, generator=drawn, dtype=held.dtype) / 4)
    return route


@pytest.mark.parametrize("name", NETS)
def test_dfa_by_matrices(name: str) -> None:
    case = Case(name)
    route = DirectFeedback(case.model, SIZE, DRAW)
    projections = list(route.state().values())
    assert [tuple(p.shape) for p in projections[:1]] == [(CLASSES, *case.sizes[0])]
    error = case.error()
    sent = [error @ projection.flatten(1) for projection in projections]
    assert_same(case.found(route), case.expected([*sent, error]))


def test_dfa_draws_each_projection_for_itself_and_by_the_seed() -> None:
    def drawn(seed: int) -> list[Tensor]:
        model = build_model("SpatialDenseNet", channels=[4] * 6, hidden_sizes=[32])
        route = DirectFeedback(model, (3, 32, 32), partial(generator, seed))
        return list(route.state().values())

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    signs = [projection.flatten()[:99].sign() for projection in one]  # scaled by their units
    assert not any(torch.equal(signs[0], each) for each in signs[1:])
    for projection in one:
        units = projection[0].numel()
        assert float(projection.abs().max()) <= units**-0.5
        assert float(projection.std()) == pytest.approx((3 * units) ** -0.5, rel=0.1)


@pytest.mark.parametrize("kind", ["pred", "sim", "predsim"])
@pytest.mark.parametrize("name", NETS)
def test_local_losses_by_matrices(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_losses, "MOST_FEATURES", 30)  # so that maps are pooled
    case = Case(name)
    blocks = find_blocks(case.model, SIZE)
    route = local(case, kind)
    heads = route.state()
    share = {"pred": 0.0, "sim": 1.0, "predsim": 0.99}[kind]
    sent, of_heads = [], {}
    for block, h in zip(blocks[:-1], case.outputs(), strict=False):
        layer, size = block.layer, block.shape
        g = torch.zeros_like(h)
        if share < 1:
            readout = heads[f"{layer}.readout.weight"], heads[f"{layer}.readout.bias"]
            grad, dw, db = pred_by_matrices(h, size, *readout, case.labels)
            g += (1 - share) * grad
            of_heads[f"{layer}.readout.weight"] = (1 - share) * dw
            of_heads[f"{layer}.readout.bias"] = (1 - share) * db
        if share:
            grad, dm = sim_by_matrices(h, size, heads.get(f"{layer}.mixing"), case.labels)
            g += share * grad
            if dm is not None:
                of_heads[f"{layer}.mixing"] = share * dm
        sent.append(g)
    assert_same(case.found(route), case.expected([*sent, case.error()]))
    assert heads.keys() == of_heads.keys()
    assert_same([w.grad for w in route.parameters()], [of_heads[name] for name in heads])  # type: ignore[misc]


def pred_by_matrices(
    h: Tensor, size: tuple[int, ...], weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h (B, units), weight and bias: cross entropy of the readout of the means."""
    pool = torch.eye(h.shape[1], dtype=torch.float64)
    if len(size) == 3 and h.shape[1] > 30:
        channels, height, width = size
        window = 2 if channels * -(-height // 2) * -(-width // 2) <= 30 else 4
        rows, columns = -(-height // window), -(-width // window)
        cells = torch.zeros(channels, rows, columns, channels, height, width, dtype=torch.float64)
        for c, i, j in product(range(channels), range(height), range(width)):
            cells[c, i // window, j // window, c, i, j] = 1
        pool = cells.view(channels * rows * columns, -1)
        pool = pool / pool.sum(1, keepdim=True)
    means = h @ pool.t()
    e = ((means @ weight.t() + bias).softmax(1) - onehot(labels)) / len(labels)
    return e @ weight @ pool, e.t() @ means, e.sum(0)


def sim_by_matrices(
    h: Tensor, size: tuple[int, ...], mixing: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of h (B, units) and of the mixing weights."""
    if mixing is None:
        return of_similarity(h, labels), None
    if mixing.dim() == 2:
        d = of_similarity(h @ mixing.t(), labels)
        return d @ mixing, d.t() @ h
    conv = nn.Conv2d(size[0], size[0], 3, padding=1).double()
    flat = PlainLayer.of(conv, size)
    z = (h @ flat.matrix(mixing).t()).view(len(h), size[0], -1)
    places = z.shape[2]
    apart = z - z.mean(2, keepdim=True)
    std = (apart.square().sum(2) / (places - 1)).sqrt()
    d = of_similarity(std, labels)[:, :, None] * apart / ((places - 1) * std[:, :, None])
    d = d.flatten(1)
    return d @ flat.matrix(mixing), flat.gathered(d.t() @ h, mixing)


def of_similarity(x: Tensor, labels: Tensor) -> Tensor:
    """The gradient of mean (S(x) − S(onehot))², S the cosines of centred rows."""

    def rows(x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(1, keepdim=True)
        length = centred.square().sum(1, keepdim=True).sqrt()
        return centred / length, length

    (unit, length), (target, _) = rows(x), rows(onehot(labels))
    apart = unit @ unit.t() - target @ target.t()
    d = 4 / len(x) ** 2 * apart @ unit  # S is symmetric: each of its numbers is there twice
    d = (d - (d * unit).sum(1, keepdim=True) * unit) / length
    return d - d.mean(1, keepdim=True)


def test_similarities_by_hand() -> None:
    """Centred, (1, 2, 3) is (−1, 0, 1), (3, 2, 1) its opposite, (0, 3, 0) at right angles."""
    x = torch.tensor([[1.0, 2, 3], [3, 2, 1], [0, 3, 0], [5, 5, 5]])
    expected = torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(similarities(x), expected, atol=1e-6, rtol=0)
    # Of the same class 1, of two of three classes −1/2: the loss is 0 where h is the labels.
    loss = LocalLoss(
        SpatialFeatureLayer((1, 1, 1), 3, 1), (3, 1, 1), 3, "sim", nn.CrossEntropyLoss(), DRAW("h")
    )
    labels = torch.tensor([0, 0, 1])
    same = torch.eye(3)[labels][:, :, None, None]
    assert float(loss(same, labels)) < 1e-12
    swapped = torch.eye(3)[[0, 1, 1]][:, :, None, None]  # 4 of 9 pairs are off by 3/2
    assert float(loss(swapped, labels)) == pytest.approx(4 / 9 * 2.25)


@pytest.mark.parametrize(
    ("shape", "features"),
    [((10, 30, 30), 10 * 8 * 8), ((128, 4, 4), 2048), ((2, 41, 25), 2 * 21 * 13), ((4096,), 4096)],
)
def test_maps_are_averaged_until_2048_features_are_left(
    shape: tuple[int, ...], features: int
) -> None:
    loss = LocalLoss(nn.Conv2d(1, 1, 1), shape, 5, "pred", nn.CrossEntropyLoss(), DRAW("h"))
    assert loss.readout is not None and loss.readout.weight.shape == (5, features)
    labels = torch.tensor([0, 1])
    found = loss(torch.randn(2, *shape), labels).detach()
    assert float(found) == pytest.approx(math.log(5))  # zero at birth


def test_local_losses_use_the_given_loss() -> None:
    head = LocalLoss(
        nn.Linear(3, 4), (4,), 5, "pred", nn.CrossEntropyLoss(label_smoothing=0.5), DRAW("h")
    )
    assert head.readout is not None
    nn.init.constant_(head.readout.bias, 0)
    head.readout.bias.data[0] = 1.0
    loss = float(head(torch.zeros(1, 4), torch.tensor([0])).detach())
    log_sum = math.log(math.e + 4)
    assert loss == pytest.approx(0.5 * (log_sum - 1) + 0.5 * (log_sum - 1 / 5))


@pytest.mark.parametrize("route", ["dfa", "local"])
@pytest.mark.parametrize("name", ["linear", "conv grouped", "local strided", "dense padded"])
def test_what_is_sent_back_does_not_depend_on_forward_weights(name: str, route: str) -> None:
    """All of them are others when the backward pass begins: each gradient is what it was."""
    found = []
    for perturbed in (False, True):
        case = Case(name)
        made = DirectFeedback(case.model, SIZE, DRAW) if route == "dfa" else local(case, "predsim")
        logits = case.model(case.x)
        if perturbed:
            for layer in case.layers:
                layer.weight.data.mul_(-3).add_(1)
        made.backward(F.cross_entropy(logits, case.labels), logits, case.labels)
        found.append([p.grad for p in case.model.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def tiny_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        SpatialFeatureLayer((3, 6, 6), 4, 3), BatchNormReLU(4), nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


def test_frozen_hidden_weights_stay_while_the_readout_learns() -> None:
    model = tiny_net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    route = Frozen(model, (3, 6, 6))
    optimizer = build_optimizer(model, name="adamw", lr=0.1, weight_decay=0.1)
    learner = Learner(model, optimizer, nn.CrossEntropyLoss(), route=route)
    for step in range(3):
        learner.step(torch.randn(8, 3, 6, 6), torch.arange(8) % 5, lr=0.1, step=step)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"6.weight", "6.bias", "7.weight", "7.bias"}


@pytest.mark.parametrize("route", ["dfa", "local", "frozen"])
def test_off_it_gives_the_true_gradients(route: str) -> None:
    case, plain = Case("local padded"), Case("local padded")
    F.cross_entropy(plain.model(plain.x), plain.labels).backward()
    made: Route = Frozen(case.model, SIZE) if route == "frozen" else local(case, "predsim")
    if route == "dfa":
        case = Case("local padded")
        made = DirectFeedback(case.model, SIZE, DRAW)
    with made.off():
        F.cross_entropy(case.model(case.x), case.labels).backward()
    true = [p.grad for p in plain.model.parameters()]
    assert_same([p.grad for p in case.model.parameters()], true)  # type: ignore[arg-type, misc]
    case.model.zero_grad()
    found = case.found(made)
    assert len(found) < len(true) or not torch.equal(found[0], true[0])  # type: ignore[arg-type]


class Shortcut(nn.Module):
    """conv; conv; their sum; readout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.readout = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        y: Tensor = self.readout((h + self.second(h)).flatten(1))
        return y


class Twice(Shortcut):
    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.second(self.first(x)).relu())
        y: Tensor = self.readout(h.flatten(1))
        return y


class Branches(Shortcut):
    """The second layer sees the images, too."""

    def forward(self, x: Tensor) -> Tensor:
        image = nn.functional.pad(x, (0, 0, 0, 0, 0, 1))[:, :, 1:-1, 1:-1]
        y: Tensor = self.readout((self.first(x) + self.second(image)).flatten(1))
        return y


@pytest.mark.parametrize("make", [DirectFeedback, Frozen, LocalLosses])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Shortcut(), "^second: its block is left by more than one way: a shortcut"),
        (Twice(), "^first: its block is left by more than one way"),
        (Branches(), "^second: is given nothing that depends on weights before it"),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "^only one layer with weights"),
    ],
    ids=["shortcut", "twice", "branches", "one layer"],
)
def test_networks_that_no_route_can_follow(make: Any, model: nn.Module, message: str) -> None:
    more: dict[Any, list[Any]] = {
        DirectFeedback: [DRAW],
        Frozen: [],
        LocalLosses: [DRAW, "pred", nn.CrossEntropyLoss()],
    }
    with pytest.raises(ValueError, match=message):
        make(model, (3, 6, 6), *more[make])
    assert all(p.requires_grad for p in model.parameters())
    model(torch.zeros(2, 3, 6, 6)).sum().backward()  # no cut was left in it
    assert all(p.grad is not None for p in model.parameters())


ROUTES: dict[str, Callable[[nn.Module], Route]] = {
    "dfa": lambda model: DirectFeedback(model, (3, 6, 6), DRAW),
    "local": lambda model: LocalLosses(model, (3, 6, 6), DRAW, "pred", nn.CrossEntropyLoss()),
    "frozen": lambda model: Frozen(model, (3, 6, 6)),
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_has_one_rule_or_one_route(route: str) -> None:
    model = tiny_net()
    attach(model, "fa", DRAW)
    with pytest.raises(ValueError, match=r"^0: has the rule fa already"):
        ROUTES[route](model)
    model = tiny_net()
    ROUTES[route](model)
    for other in (lambda model: attach(model, "fa", DRAW), ROUTES["dfa"]):
        with pytest.raises(ValueError, match=r"^0: has a route already"):
            other(model)


def test_one_norm_over_all_gradients_is_not_for_losses_of_layers() -> None:
    model = tiny_net()
    route = ROUTES["local"](model)
    optimizer = build_optimizer(model, route.parameters())
    with pytest.raises(ValueError, match=r"^clip_norm: one norm over all gradients is not for"):
        Learner(model, optimizer, nn.CrossEntropyLoss(), route=route, clip_norm=1.0)


def test_an_unknown_local_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^kind 'simm' is none of pred, sim, predsim"):
        LocalLosses(tiny_net(), (3, 6, 6), DRAW, "simm", nn.CrossEntropyLoss())  # type: ignore[arg-type]


def test_a_layer_may_be_called_by_keyword() -> None:
    class Named(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = layer(input=x)
            return x

    case = Case("conv padded")
    case.model = Named(*case.model)
    route = DirectFeedback(case.model, SIZE, DRAW)
    projections = [p.flatten(1) for p in route.state().values()]
    error = case.error()
    assert_same(case.found(route), case.expected([*(error @ p for p in projections), error]))


def test_finding_blocks_leaves_the_model_as_it_was() -> None:
    model = tiny_net()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    blocks = find_blocks(model, (3, 6, 6))
    assert [(block.layer, block.shape) for block in blocks] == [
        ("0", (4, 4, 4)), ("2", (16,)), ("6", (5,)),
    ]  # fmt: skip
    assert blocks[0].parameters == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("route", ["dfa", "local"])
@pytest.mark.parametrize("layer", ["spatial", "conv"])
def test_bfloat16_is_near_float32(route: str, layer: str) -> None:
    """The cosine between the gradients in both precisions, of every parameter."""
    found: dict[str, list[Tensor]] = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        sizes: Any = {"channels": [4] * 6, "hidden_sizes": [16], "dropout": 0.0, "dropout2d": 0.0}
        model = build_model("SpatialDenseNet", layer=layer, **sizes)
        made: Route = DirectFeedback(model, (3, 32, 32), DRAW)
        if route == "local":
            model = build_model("SpatialDenseNet", layer=layer, **sizes)
            made = LocalLosses(model, (3, 32, 32), DRAW, "predsim", nn.CrossEntropyLoss())
        torch.manual_seed(1)
        images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
        optimizer = build_optimizer(model, made.parameters(), name="sgd", lr=0.0)
        learner = Learner(model, optimizer, nn.CrossEntropyLoss(), precision=precision, route=made)
        learner.step(images, labels, lr=0.0)
        found[precision] = [
            p.grad for p in model.parameters() if p.grad is not None and p.dim() > 1
        ]  # that of a bias before normalisation is zero but for rounding
    for one, other in zip(found["float32"], found["bfloat16"], strict=True):
        assert float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.97


@pytest.mark.parametrize(
    "route",
    ["dfa", *(pytest.param(route, marks=pytest.mark.slow) for route in ("local", "frozen"))],
)
def test_compiled_in_one_graph_it_learns_the_same(route: str) -> None:
    def gradients(compiled: bool) -> Tensor:
        torch.compiler.reset()
        torch.manual_seed(0)
        settings: dict[str, Any] = {"channels": [2], "dropout": 0.0, "dropout2d": 0.0}
        model = build_model("SimpleModel", hidden_sizes=[4], **settings)
        made: Route = Frozen(model, SIZE32) if route == "frozen" else Route()
        if route == "dfa":
            made = DirectFeedback(model, SIZE32, DRAW)
        elif route == "local":
            made = LocalLosses(model, SIZE32, DRAW, "predsim", nn.CrossEntropyLoss())
        if compiled:
            model.compile(backend="aot_eager", fullgraph=True)
        logits, labels = model(torch.randn(4, 3, 32, 32)), torch.arange(4)
        made.backward(F.cross_entropy(logits, labels), logits, labels)
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        assert len(gradients) == (2 if route == "frozen" else 6)
        return torch.cat(gradients)

    torch.testing.assert_close(gradients(True), gradients(False))
