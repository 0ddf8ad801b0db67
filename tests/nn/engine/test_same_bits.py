"""A step repeated gives the same bits; on a GPU beside other processes that keep it busy, too."""

import subprocess
import sys

import pytest
import torch

PROGRAM = """
import sys
import torch
from torch.nn import functional as F
from sfl import build_model
from sfl.nn.engine import choose

device, times, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
model = build_model("DeepNet", norm="position", pool="average").to(device)
images, labels = torch.randn(batch, 3, 32, 32).to(device), torch.randint(10, (batch,)).to(device)
first, differing = [], torch.zeros((), dtype=torch.int64, device=device)
for _ in range(times):
    model.zero_grad()
    with torch.autocast(device, torch.bfloat16):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), labels)
    loss.backward()
    found = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    first = first or [tensor.clone() for tensor in found]
    differing += sum((a != b).sum() for a, b in zip(found, first))  # NaN differs from itself
dtype = torch.bfloat16 if device == "cuda" else torch.float32
print(int(differing), choose(images.device, dtype)[0].NAME)
"""


def differing(device: str, times: int, batch: int, processes: int) -> list[str]:
    """What each of so many processes at once prints."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, device, str(times), str(batch)]
    begun = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return [process.communicate()[0].strip() for process in begun]


def test_on_a_cpu() -> None:
    assert differing("cpu", times=3, batch=16, processes=1)[0].startswith("0 ")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu() -> None:
    # Not plain PyTorch, as after a kernel that failed its check.
    assert differing("cuda", times=8000, batch=512, processes=4) == ["0 triton"] * 4
