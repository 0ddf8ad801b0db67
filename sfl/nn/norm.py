"""Batch normalisation that shares nothing between positions: each unit by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.engine import Whole, normalise_in_one_pass

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class UnitBatchNormReLU(Whole):
    """Batch normalisation of each unit over the batch alone (Ioffe & Szegedy 2015), then a ReLU.

    Each unit of (C, H, W) has a scale, a shift and statistics of its own, where nn.BatchNorm2d has
    one of each for a channel: nn.BatchNorm1d over the flattened units. In their tensors (H, W, C)
    they lie as the local layers' activations do, so that normalising those copies nothing.

    dimensions: (C, H, W) of the input.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dimensions: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = self.dimensions = dimensions
        self.eps, self.momentum = 1e-5, 0.1  # as nn.BatchNorm2d
        shape = (height, width, channels)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) → the same shape and order in memory.

        Raises ValueError for units of other dimensions, and for one image in training.
        """
        if input.shape[1:] != self.dimensions:
            given, expected = ("×".join(map(str, s)) for s in (input.shape[1:], self.dimensions))
            raise ValueError(f"input is {given}, the units are {expected}")
        turned = input.permute(2, 3, 1, 0)
        if turned.is_contiguous():  # batch innermost
            rows = self._of_rows(turned.flatten(0, 2)[None])
            return rows.view(turned.shape).permute(3, 2, 0, 1)
        images = input.permute(0, 2, 3, 1)
        normalised = self._in_two(images.reshape(len(input), -1))
        y = normalised.view(images.shape).permute(0, 3, 1, 2)
        return y.contiguous() if input.is_contiguous() else y

    def _of_rows(self, x: Tensor) -> Tensor:
        """x (1, H·W·C, B), normalised, then the ReLU."""
        y = None
        if self.training:
            units = x[None].permute(3, 2, 0, 1)  # (B, H·W·C, 1, 1)
            y = normalise_in_one_pass(units, *self._of_units(), self.momentum, self.eps)
        return self._in_two(x) if y is None else y.permute(2, 3, 1, 0).squeeze(0)

    def _in_two(self, x: Tensor) -> Tensor:
        """x (1, H·W·C, B) or (B, H·W·C), normalised, then the ReLU.

        Here, since in place of a view it would have its gradient copied as a whole.
        """
        weight, bias, mean, variance = self._of_units()
        y = F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)
        return F.relu(y, inplace=True)

    def _of_units(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scales, shifts, means and variances, (H·W·C,)."""
        each = (self.weight, self.bias, self.running_mean, self.running_var)
        weight, bias, mean, variance = (tensor.view(-1) for tensor in each)
        return weight, bias, mean, variance

    def extra_repr(self) -> str:
        return f"{self.dimensions}, eps={self.eps}, momentum={self.momentum}"
