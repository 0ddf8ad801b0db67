"""The backward rules. Each says which weights serve the input gradient, and what changes them.

A layer y = W x has the gradients  dW = Σ dy xᵀ  and  dx = Wᵀ dy.  A rule leaves the first as it is
and takes other weights B for the second:  dx = Bᵀ dy.  B has the shape of W and is zero where W has
no weight.

To add a rule: a class here, its name in RULES and among those of learn.rule, a phrase for it in
sfl/comparison/methods.py.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfl.nn.feedback.drawing import Draw, Scale, drawn, inside, pattern, spread
from sfl.nn.feedback.products import response
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.weighted import Weighted
from sfl.nn.window import field_mask, window_of


class Rule:
    """What sends errors back through one layer.

    scale: size of the feedback weights at birth, see `drawing.spread`.
    draw: gives a generator for a purpose and counters, always the same for the same.
    place: the layer's number in its model, one of the counters.
    """

    transport: ClassVar[str]  # what it takes of W: a grade of TRANSPORT in sfl/nn/audit.py
    holds: ClassVar[tuple[str, ...]] = ()  # names of the tensors that resuming needs
    keeps: ClassVar[bool] = True  # whether in memory, a number for each weight of the layer
    moves: ClassVar[bool] = False  # whether the optimizer moves those, as it does the weights

    def __init__(self, layer: Weighted, scale: Scale, draw: Draw, place: int) -> None:
        self.layer, self.scale, self.draw, self.place = layer, scale, draw, place
        self.active = True  # not while Feedback is off
        self.size: tuple[int, ...] = ()  # of the layer's input without the batch, once it has run

    def weight(self) -> Tensor:
        """The feedback weights now, of the shape of the layer's weight. Not to be changed."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        return list(self.state().values()) if self.moves else []

    def before_step(self, step: int) -> None:
        """Before the forward pass of the step of that number, counted over the whole run."""

    def take_gradients(self) -> None:
        """After the backward pass and clipping, before the optimizer's step."""

    def after_step(self, step: int) -> None:
        """After the optimizer's step."""

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.holds}


class FeedbackAlignment(Rule):
    """fa: fixed random weights, drawn once (Lillicrap et al. 2016).

    alignment a: the cosine between B and W at birth, exactly: B = ‖M‖ (a Ŵ + √(1 − a²) M̂). M
    are the weights drawn, Ŵ is W and M̂ what of M is orthogonal to W, both of length 1. So B is as
    long as M, which it is with a = 0. W is copied here: one transport, at birth.
    """

    transport = "strict"
    holds: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(self, *arguments: Any, alignment: float = 0.0) -> None:
        super().__init__(*arguments)
        if not 0 <= alignment <= 1:
            raise ValueError(f"alignment: a cosine from 0 to 1, not {alignment}")
        self.weights = drawn(self.layer, self.scale, self.draw("feedback", self.place))
        if alignment:
            own = self.layer.weight.detach()
            own, length = own / own.norm(), self.weights.norm()
            apart = self.weights - (self.weights * own).sum() * own
            apart *= math.sqrt(1 - alignment**2) / apart.norm()
            self.weights = (alignment * own + apart) * length

    def weight(self) -> Tensor:
        return self.weights


class KolenPollack(FeedbackAlignment):
    """kp: the optimizer gives B the same gradient and the same decay as W (Kolen & Pollack 1994).

    dW = Σ dy xᵀ is at hand on both sides, so that nothing is transported (Akrout et al. 2019). With
    a decay λ and a learning rate η, sgd and adamw let W − B shrink by the factor 1 − ηλ in a step;
    sgd with momentum μ by about 1 − ηλ/(1 − μ), once the momentum has grown. Without decay it stays
    what it is, and the angle falls only as what both have learnt grows. In dense storage all this
    is so inside the receptive fields.
    """

    moves = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        layer, self.inside = self.layer, None  # None: all weights are inside the fields
        if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense":
            self.inside = inside(layer)

    def take_gradients(self) -> None:
        given = self.layer.weight.grad
        if given is not None and self.inside is not None:  # W leaves its fields, B doesn't
            given = given * self.inside
        self.weights.grad = given


class Mirror(FeedbackAlignment):
    """mirror: B is learnt from the layer's responses to noise (weight mirror, Akrout et al. 2019).

    After every `every`-th step, the first included, come `batches` batches of `images` noise images
    x, of independent numbers with mean 0 and variance 1 at the layer's input. y = W x without bias
    and nonlinearity; then  B ← (1 − rate) B + rate · mean(y xᵀ),  the mean over images, and over
    positions where a filter is shared. E[y xᵀ] = W.

    Samples it needs: a mean over N samples has the angle atan(√(K/N)) to W, K being the unit's
    number of inputs: 45° for N = K, 30° for 3 K, 20° for 7.5 K. The running average is as good as
    N = images · (2 − rate) / rate once its start is forgotten. A local or linear layer gets one
    sample an image, a convolution one an image and position.
    """

    def __init__(
        self, *arguments: Any, every: int = 1, batches: int = 1, images: int = 64, rate: float = 0.1
    ) -> None:
        super().__init__(*arguments)
        if min(every, batches, images) < 1 or not 0 < rate <= 1:
            raise ValueError(
                f"every {every}, batches {batches} and images {images} must be at least 1, and "
                f"rate {rate} above 0 and at most 1"
            )
        self.every, self.batches, self.images, self.rate = every, batches, images, rate

    def after_step(self, step: int) -> None:
        if step % self.every:
            return
        generator = self.draw("mirror", self.place, step)
        for _ in range(self.batches):
            self.weights.lerp_(self._estimate(generator), self.rate)

    def _estimate(self, generator: torch.Generator) -> Tensor:
        """The mean of y xᵀ over one batch of noise."""
        layer = self.layer
        size = self.size[-1:] if isinstance(layer, nn.Linear) else self.size
        weight = layer.weight.detach().requires_grad_()
        noise = torch.randn(self.images, *size, generator=generator, dtype=weight.dtype)
        with torch.enable_grad():
            y = response(layer, weight, noise.to(weight.device))
        (products,) = torch.autograd.grad(y, weight, y.detach())  # Σ y xᵀ, as y is linear in W
        return products * self._per_sample().to(weight.device)

    def _per_sample(self) -> Tensor:
        """1 / the number of samples that each weight gets of a batch; 0 where there is none."""
        layer, one = self.layer, torch.tensor(1 / self.images, dtype=self.layer.weight.dtype)
        if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense":
            return inside(layer) * one
        if not isinstance(layer, nn.Conv2d):
            return one
        settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        size = self.size[-2:]
        window, positions = window_of(size, *settings)  # type: ignore[arg-type]
        return one / field_mask(size, window, positions).sum(dim=(0, 1)).clamp(min=1)


class UniformSigns(Rule):
    """usf: B = s sign(W), with s the standard deviation of `drawing.spread` (Liao et al. 2016).

    One bit a weight is transported in each step. sign(0) = 0.
    """

    transport = "signs"
    keeps = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.magnitudes = self._magnitudes()

    def _magnitudes(self) -> Tensor:
        return pattern(self.layer, spread(self.layer, self.scale))

    def weight(self) -> Tensor:
        return self.layer.weight.detach().sign().mul_(self.magnitudes)


class FixedMagnitudes(UniformSigns):
    """frsf: B = |M| sign(W), with M drawn once (Liao et al. 2016; Sanfiz & Akrout 2021)."""

    holds: ClassVar[tuple[str, ...]] = ("magnitudes",)
    keeps = True

    def _magnitudes(self) -> Tensor:
        return drawn(self.layer, self.scale, self.draw("feedback", self.place)).abs_()


class BatchwiseMagnitudes(FixedMagnitudes):
    """brsf: B = |M| sign(W), with M drawn anew in each step, by the step's number alone."""

    holds: ClassVar[tuple[str, ...]] = ()

    def before_step(self, step: int) -> None:
        generator = self.draw("magnitudes", self.place, step)
        # In place: a CUDA graph reads them where they were when it was recorded.
        self.magnitudes.copy_(drawn(self.layer, self.scale, generator)).abs_()


RULES: dict[str, type[Rule]] = {
    "fa": FeedbackAlignment,
    "usf": UniformSigns,
    "brsf": BatchwiseMagnitudes,
    "frsf": FixedMagnitudes,
    "kp": KolenPollack,
    "mirror": Mirror,
}


def rule_named(name: str) -> type[Rule]:
    """Raises ValueError for a name that is none of RULES."""
    if name not in RULES:
        raise ValueError(f"rule {name!r} is none of backprop, {', '.join(RULES)}")
    return RULES[name]
