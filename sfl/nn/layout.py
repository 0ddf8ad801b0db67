"""Normalisation and pooling for activations whose batch is innermost in memory.

The spatial layers put out (B, C, H, W) tensors that lie in memory as (H, W, C, B). PyTorch's
BatchNorm2d and MaxPool2d would first reorder them, which takes longer than they do. These two give
the same numbers, see the same memory as another tensor that PyTorch is quick with, and take any
other tensor as their parents do. Nothing else between spatial layers cares about the order.

Shapes: B batch, C channels, H×W.
"""

from torch import Tensor, nn


def is_batch_innermost(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies in memory as (H, W, C, B), and not as a usual tensor does."""
    return x.dim() == 4 and not x.is_contiguous() and x.permute(2, 3, 1, 0).is_contiguous()


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → the same shape and order in memory. Raises ValueError for others."""
        super()._check_input_dim(x)
        if not is_batch_innermost(x):
            return super().forward(x)
        batch, channels, height, width = x.shape
        # As (H·W, C, B) each channel holds the same numbers as before.
        y = super().forward(x.permute(2, 3, 1, 0).reshape(height * width, channels, batch))
        return y.view(height, width, channels, batch).permute(3, 2, 0, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Done above: inside there are three dimensions."""


class MaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H', W'), in the same order in memory."""
        if not is_batch_innermost(x):
            pooled: Tensor = super().forward(x)
            return pooled
        batch, channels, height, width = x.shape
        # One image of C·B channels, which is what channels_last kernels are for.
        image = x.permute(2, 3, 1, 0).reshape(1, height, width, channels * batch)
        pooled = super().forward(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return pooled.reshape(*pooled.shape[1:3], channels, batch).permute(3, 2, 0, 1)
