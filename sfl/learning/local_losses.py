"""The loss of one block: how well its output tells the classes (Nøkland & Eidnes 2019).

Shapes: B batch; h, a block's output: (B, C, H, W), or (B, F) of linear layers and behind
nn.Flatten.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.feedback.drawing import uniform

Loss = Callable[[Tensor, Tensor], Tensor]  # from logits (B, classes) and labels to ()
Kind = Literal["pred", "sim", "predsim"]
MOST_FEATURES = 2048  # of the readout of pred, as in the paper
SHARE_OF_SIM = 0.99  # in predsim


class LocalLoss(nn.Module):
    """The loss () of a block's output h, with weights of its own that learn with it.

    pred: `loss` of a linear readout of h, whose maps are averaged over windows of 1, 2, 4, …
        until at most 2048 features are left. The readout is zero at birth.
    sim: mean of (S(g(h)) − S(labels as one-hot vectors))², with `similarities` S. g depends on the
        block's layer: of nn.Conv2d a 3×3 convolution, and of its maps the standard deviation over
        places; of nn.Linear a linear layer; nothing of a SpatialFeatureLayer, where both would be
        shared between places, and of a convolution's output that is flat already.
    predsim: 0.01 pred + 0.99 sim.

    layer: the block's layer with weights. shape: (C, H, W) or (F,), of h for one image.
    loss: of the readout's logits. generator: of g's first weights.

    Raises ValueError for another kind.
    """

    def __init__(
        self,
        layer: nn.Module,
        shape: tuple[int, ...],
        classes: int,
        kind: Kind,
        loss: Loss,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.loss, self.classes = loss, classes
        self.window = _window(shape)
        shares = {"pred": 0.0, "sim": 1.0, "predsim": SHARE_OF_SIM}
        if kind not in shares:
            raise ValueError(f"kind {kind!r} is none of {', '.join(shares)}")
        share = shares[kind]
        self.shares = (1 - share, share)
        (like, *_) = layer.parameters()
        self.dtype = like.dtype
        self.readout: nn.Linear | None = None
        if share < 1:
            features = math.prod(_pooled(shape, self.window))
            self.readout = nn.utils.skip_init(nn.Linear, features, classes, dtype=like.dtype)
            nn.init.zeros_(self.readout.weight)
            nn.init.zeros_(self.readout.bias)
        self.mixing: nn.Parameter | None = None
        shared = (isinstance(layer, nn.Conv2d) and len(shape) == 3) or isinstance(layer, nn.Linear)
        if share and shared:
            size = (shape[0], shape[0], 3, 3) if len(shape) == 3 else (shape[-1], shape[-1])
            weight = uniform(size, like.dtype, generator).div_(math.sqrt(math.prod(size[1:])))
            self.mixing = nn.Parameter(weight)  # as nn.Conv2d and nn.Linear are drawn
        self.to(like.device)

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        h = h.to(self.dtype)
        loss = h.new_zeros(())
        of_pred, of_sim = self.shares
        if self.readout is not None:
            pooled = F.avg_pool2d(h, self.window, ceil_mode=True) if self.window > 1 else h
            loss = loss + of_pred * self.loss(self.readout(pooled.flatten(1)), labels)
        if of_sim:
            loss = loss + of_sim * self._sim(h, labels)
        return loss

    def _sim(self, h: Tensor, labels: Tensor) -> Tensor:
        if self.mixing is not None and h.dim() == 4:
            h = F.conv2d(h, self.mixing, padding=1)
            if h.shape[1] > 3 and h[0, 0].numel() > 1:
                h = h.flatten(2).std(dim=2)
        elif self.mixing is not None:
            h = F.linear(h, self.mixing)
        target = F.one_hot(labels, self.classes) if labels.dim() == 1 else labels
        return F.mse_loss(similarities(h), similarities(target.to(h.dtype)))


def similarities(x: Tensor) -> Tensor:
    """The cosine between each two of x (B, …), each without the mean of its features: (B, B).

    From their covariances: to scale x itself would be one more pass over it, and back.
    """
    # In whichever order the features lie in memory: so flattening copies nothing.
    places = sorted(range(1, x.dim()), key=x.stride, reverse=True)
    rows = x.permute(0, *places).flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariances = rows @ rows.t()
    deviations = covariances.diagonal().clamp(min=1e-16).sqrt()
    return (covariances / deviations.outer(deviations)).clamp(-1, 1)


def _window(shape: tuple[int, ...]) -> int:
    """The smallest of 1, 2, 4, … that leaves at most MOST_FEATURES, or one place."""
    window = 1
    while math.prod(_pooled(shape, window)) > MOST_FEATURES and window < max(shape[1:], default=1):
        window *= 2
    return window


def _pooled(shape: tuple[int, ...], window: int) -> tuple[int, ...]:
    channels, *size = shape
    return (channels, *(math.ceil(length / window) for length in size))
