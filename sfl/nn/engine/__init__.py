"""How products are computed: all that the rest of sfl calls.

locally_connected  the locally connected product, with all its gradients;
locally_connected_input_gradient  that of its input alone, with any weights.
BatchNormReLU, ReLUMaxPool2d  modules that do two things in one pass; synchronized  a model of them
for several workers; normalise_in_one_pass  normalisation with ReLU, where that is possible.
pooled  a pooling in any order in memory.
choose, report  which engine computes on a device, and why; the reason alone, in a line.
preparing_seconds  how long GPU kernels were compiled and compared, which is no training.
Whole  a module that tracers keep whole.
reference_engine  plain PyTorch for a while, to compare with it.
batch_innermost  a tensor in the order in memory that local layers are fastest with.

Inside: `choice` chooses an engine; `reference` is the one for every device, `cpu.kernel` the
compiled one, `gpu.products` that of Triton kernels; `operators` and `fused` give them to autograd;
`memory_order` says what lies how in memory; `flops` tells PyTorch's counter; `traced` is what
tracers see.
"""

from sfl.nn.engine import flops  # noqa: F401 - so that PyTorch's counter knows the layer
from sfl.nn.engine.choice import choose, preparing_seconds, reference_engine, report
from sfl.nn.engine.fused import (
    BatchNormReLU,
    ReLUMaxPool2d,
    normalise_in_one_pass,
    pooled,
    synchronized,
)
from sfl.nn.engine.operators import (
    batch_innermost,
    locally_connected,
    locally_connected_input_gradient,
)
from sfl.nn.engine.traced import Whole

__all__ = [
    "BatchNormReLU",
    "ReLUMaxPool2d",
    "Whole",
    "batch_innermost",
    "choose",
    "locally_connected",
    "locally_connected_input_gradient",
    "normalise_in_one_pass",
    "pooled",
    "preparing_seconds",
    "reference_engine",
    "report",
    "synchronized",
]
