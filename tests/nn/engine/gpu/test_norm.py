"""Batch normalisation with ReLU on a GPU, in Triton's interpreter, against PyTorch in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import json
import torch
from torch.nn import functional as F
from sfl.nn.engine.gpu import norm
from sfl.nn.engine.memory_order import batch_innermost

norm.TILE, errors = 1024, []  # so that a channel has several parts, of several tiles
for batch, channels, height, width, name in (
    (7, 3, 5, 4, "float32"), (64, 5, 9, 8, "float32"), (33, 2, 17, 16, "bfloat16"),
    (1300, 2, 3, 3, "float32"),
):
    dtype = getattr(torch, name)
    x = batch_innermost((torch.randn(batch, channels, height, width) * 2 + 5).to(dtype))
    dy = batch_innermost(torch.randn(batch, channels, height, width).to(dtype))
    weight, bias = 1 + torch.rand(channels), torch.rand(channels) - 0.5
    y, (mean, variance, scale) = norm.norm_forward(x, weight, bias, 1e-5)
    found = [y, *norm.norm_backward(dy, x, weight, bias, mean, scale), mean, variance]
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    right = F.relu(F.batch_norm(exact[0], None, None, exact[1], exact[2], True, 0.0, 1e-5))
    wanted = [right, *torch.autograd.grad(right, exact, dy.double())]
    wanted += [x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), unbiased=False)]
    worst = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted))
    errors.append([name, worst])
with torch.no_grad():  # a first forward pass may be one
    served = norm.serves(x, weight, bias)
print(json.dumps([served, norm.error_of(x), *errors]))
"""


def test_as_pytorchs(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.getcwd()}
    environment["XDG_CACHE_HOME"] = str(tmp_path)  # where it is written that it was right
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served, own, *errors = json.loads(done.stdout)
    assert served and own < 1e-5  # what is asked at the first use on a machine
    for name, error in errors:
        assert error < (1e-5 if name == "float32" else 1e-2)
