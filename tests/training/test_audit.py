"""The audit of configs: that it is of what the config trains."""

from typing import Any

import pytest

from sfl.training.audit import audit_model
from tests.training.tiny import tiny_config

LOCAL = """
model: {name: SpatialDenseNet, channels: [2, 2, 2, 3, 3, 4], hidden_sizes: [8], norm: position}
data: {source: shapes}
"""


def audited(*changes: str) -> dict[str, Any]:
    return audit_model(tiny_config(*changes, base=LOCAL), (3, 32, 32), 10).to_dict()


@pytest.mark.parametrize(
    ("changes", "sharing", "transport"),
    [
        ([], "strict", "transports"),
        (["learn.rule=fa"], "strict", "strict"),
        (["learn.rule=fa", "learn.alignment=0.5"], "strict", "at birth"),
        (["learn.rule=usf", "model.norm=channel"], "soft", "signs"),
        (["learn.rule=kp", "learn.sleep={every: 5}"], "in time", "strict"),
        (["learn.route=frozen", "model.layer=conv"], "shared", "strict"),
        (["learn.route=dfa"], "strict", "strict"),
        (["learn.route=local", "learn.loss=sim", "model.hidden_sizes=[]"], "strict", "strict"),
        (["learn.route=local"], "strict", "transports"),
    ],
    ids=str,
)
def test_grades_of_configs(changes: list[str], sharing: str, transport: str) -> None:
    found = audited(*changes)
    assert (found["sharing"], found["transport"]) == (sharing, transport)


def test_the_heads_of_local_losses_by_hand() -> None:
    """Readouts of at most 2048 features, and in sim a square matrix behind a linear layer."""
    found = audited("learn.route=local", "learn.loss=predsim")
    sent = {layer["name"]: layer["transported"] for layer in found["layers"]}
    of_norms = dict.fromkeys(("features.1", "features.7", "features.14"), 0)
    assert sent == {
        "features.0": 1800 * 10, "features.3": 2 * 14 * 14 * 10, "features.6": 2 * 12 * 12 * 10,
        "features.9": 3 * 5 * 5 * 10, "features.13": 3 * 4 * 4 * 10, "features.16": 4 * 3 * 3 * 10,
        "classifier.2": 8 * 10 + 8 * 8, "classifier.5": 0, **of_norms,
    }  # fmt: skip
    assert found["bits"] == 32 * found["transported"] == 32 * sum(sent.values())


def test_clipping_and_local_losses_are_named() -> None:
    assert any("one number" in line for line in audited("optimizer.clip_norm=1.0")["in_words"])
    lines = audited("learn.route=local", "learn.loss=pred")["in_words"]
    assert any("labels" in line for line in lines) and not any("compare" in line for line in lines)
