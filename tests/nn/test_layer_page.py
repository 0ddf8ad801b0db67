"""docs/layer.md: its code runs as it stands."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "layer.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_every_block_runs_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kernel, bias = np.ones((900, 27, 5), "float32"), np.zeros((30, 30, 5), "float32")
    np.savez("local.npz", kernel, bias)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["logits"].shape == (8, 10)
    assert "'bn1.weight': 'batch_norm'" in capsys.readouterr().out
    assert names["y"].shape == (8, 5, 30, 30)
    # Pogodin's: at a position inside, the same filters; what is padding is zero.
    filters, weights = names["layer"].filters(), names["weights"]
    assert torch.equal(filters[4, 7], weights[:, :, 4, 7].transpose(0, 1))
    assert not filters[0, :, :, :, 0].any()
