"""docs/transport.md: the rule that it adds is one."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfl.learning.seeding import generator
from sfl.nn.feedback import rules
from sfl.nn.feedback.attach import attach

PAGE = Path(__file__).parents[3] / "docs" / "transport.md"


def test_the_rule_that_the_page_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict[str, Any] = dict(vars(rules))
    exec(block, names)
    monkeypatch.setitem(rules.RULES, "rsf", names["RandomSigns"])
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.Linear(4, 5)).double()
    feedback = attach(model, "rsf", partial(generator, 0))
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    (weights,) = feedback.state().values()
    assert feedback.state().keys() == {"1.weights"} and weights.abs().unique().numel() == 1
    assert first.bias.grad is not None
    assert torch.allclose(first.bias.grad, 2 * weights.sum(dim=0))
