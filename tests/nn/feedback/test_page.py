"""docs/transport.md: its example learns, and the rule that it adds is one."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.learning.learner import Learner  # noqa: F401  (the page's example has these names)
from sfl.learning.optimizers import build_optimizer  # noqa: F401
from sfl.learning.seeding import generator
from sfl.nn.feedback import rules
from sfl.nn.feedback.attach import attach

PAGE = Path(__file__).parents[3] / "docs" / "transport.md"


EXAMPLE, RULE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


def test_a_model_of_ones_own_learns_as_the_page_says() -> None:
    def sent_back(*batches: Any) -> Tensor:
        names: dict[str, Any] = {**globals(), "batches": batches}
        exec(EXAMPLE, names)
        (weights,) = names["feedback"].parameters()
        assert isinstance(weights, Tensor)
        return weights

    batch = (torch.randn(4, 3, 32, 32), torch.arange(4))
    assert not torch.equal(sent_back(), sent_back(batch))  # drawn alike, and kp's have learnt


def test_the_rule_that_the_page_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = dict(vars(rules))
    exec(RULE, names)
    monkeypatch.setitem(rules.RULES, "rsf", names["RandomSigns"])
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.Linear(4, 5)).double()
    feedback = attach(model, "rsf", partial(generator, 0))
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    (weights,) = feedback.state().values()
    assert feedback.state().keys() == {"1.weights"} and weights.abs().unique().numel() == 1
    assert first.bias.grad is not None
    assert torch.allclose(first.bias.grad, 2 * weights.sum(dim=0))
