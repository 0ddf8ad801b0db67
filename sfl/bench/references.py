"""What SFL is compared with: other implementations of the layer, and the notebook's networks.

Written as their authors would write them; tests/bench/ checks that they give SFL's numbers.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW positions, k kernel (square),
p padding. Local weights are filters (OH, OW, O, C, k, k), dense ones (C, H, W, O, OH, OW).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unfold_bmm(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """F.unfold, then a batched product over positions: the most common implementation."""
    positions_h, positions_w, out_channels, _, k, _ = weight.shape
    fields = F.unfold(x, k, padding=padding).permute(2, 1, 0)  # (L, K, B)
    y = torch.bmm(weight.flatten(0, 1).flatten(2), fields)  # (L, O, B)
    return y.permute(2, 1, 0).reshape(-1, out_channels, positions_h, positions_w)


def unfold_einsum(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """A view of the receptive fields, then einsum: the fastest published form in PyTorch."""
    k = weight.shape[4]
    x = F.pad(x, [padding] * 4)
    fields = x.unfold(2, k, 1).unfold(3, k, 1)  # (B, C, OH, OW, k, k)
    return torch.einsum("bcyxij,yxocij->boyx", fields, weight)


def dense_tensordot(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The notebook's: every input is connected to every unit. Dense weights; ignores `padding`."""
    return torch.tensordot(x, weight, dims=([1, 2, 3], [0, 1, 2]))  # type: ignore[no-untyped-call, no-any-return]


class NotebookLayer(nn.Module):
    """The notebook's SpatialFeatureLayer. Its weights are zero, which does not change its speed."""

    def __init__(self, in_dimensions: tuple[int, int, int], out_channels: int, k: int) -> None:
        super().__init__()
        _, height, width = in_dimensions
        out_dimensions = (out_channels, height - k + 1, width - k + 1)
        self.weight = nn.Parameter(torch.zeros(*in_dimensions, *out_dimensions))
        self.bias = nn.Parameter(torch.zeros(out_dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, O, OH, OW)."""
        return dense_tensordot(x, self.weight, 0) + self.bias


def notebook_model(name: str) -> nn.Module:
    """A network of the notebook, for images (3, 32, 32) and ten classes."""
    if name == "SimpleModel":
        return nn.Sequential(NotebookLayer((3, 32, 32), 5, 3), nn.Flatten(), nn.Linear(4500, 10))
    if name == "SpatialDenseNet":
        features = _spatial_features()
        head: list[nn.Module] = [nn.Dropout(0.1), nn.Linear(2304, 512), nn.ReLU(inplace=True)]
    else:
        features = _conv_features()
        head = [nn.Dropout(0.1), nn.Linear(4096, 1024), nn.ReLU(inplace=True)]
        head += [nn.Linear(1024, 512), nn.ReLU(inplace=True)]
    return nn.Sequential(*features, nn.Flatten(), *head, nn.Dropout(0.1), nn.Linear(512, 10))


def _spatial_features() -> list[nn.Module]:
    return [
        NotebookLayer((3, 32, 32), 10, 3), nn.BatchNorm2d(10), nn.ReLU(inplace=True),
        NotebookLayer((10, 30, 30), 20, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
        NotebookLayer((20, 14, 14), 32, 3), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        NotebookLayer((32, 12, 12), 64, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
        nn.Dropout2d(0.05),
        NotebookLayer((64, 5, 5), 128, 2), nn.BatchNorm2d(128), nn.ReLU(inplace=True),
        NotebookLayer((128, 4, 4), 256, 2), nn.ReLU(inplace=True),
    ]  # fmt: skip


def _conv_features() -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = (3, 32, 64, 128, 128, 256, 256)
    for block in range(3):
        before, between, after = channels[2 * block : 2 * block + 3]
        modules += [nn.Conv2d(before, between, 3, padding=1), nn.BatchNorm2d(between)]
        modules += [nn.ReLU(inplace=True), nn.Conv2d(between, after, 3, padding=1)]
        modules += [nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)]
        if block == 1:
            modules.append(nn.Dropout2d(0.05))
    return modules
