"""FLOPs of the locally connected product, for PyTorch's own counter.

Importing this module makes `torch.utils.flop_counter.FlopCounterMode` count the layer: whoever has
a layer has imported it, and a counter knows the formulas that were there when it was made. Two for
each multiply-add, those with the zeros of the padding included.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

from sfl.nn.engine import operators  # noqa: F401 - what the formulas are of

try:
    from torch.utils.flop_counter import register_flop_formula
except ImportError:
    raise
except Exception:  # a broken Triton's; PyTorch expects none but ImportError, which it has now
    sys.modules["triton"] = None  # type: ignore[assignment]
    from torch.utils.flop_counter import register_flop_formula

Sizes = Sequence[int]


@register_flop_formula([torch.ops.sfl.spatial_conv2d, torch.ops.sfl.spatial_conv2d_input_gradient])
def _(x_or_dy: Sizes, weight: Sizes, *rest: Any, **keywords: Any) -> int:
    return 2 * x_or_dy[0] * math.prod(weight)


@register_flop_formula(torch.ops.sfl.spatial_conv2d_weight_gradient)
def _(x: Sizes, dy: Sizes, *rest: Any, out_shape: Sizes, **keywords: Any) -> int:
    return 2 * x[0] * math.prod(out_shape)


@register_flop_formula(torch.ops.sfl.spatial_conv2d_gradients)
def _(dy: Sizes, weight: Sizes, *rest: Any, **keywords: Any) -> int:
    return 4 * dy[0] * math.prod(weight)
