"""`train.measure_every`: what metrics.jsonl says, and that the run is the same without."""

from pathlib import Path

import pytest

from sfl.learning.optimizers import learning_rate
from sfl.runs.directory import BEST, LAST
from sfl.training.fit import fit
from tests.training.tiny import SPATIAL, metrics, new_run, result, same, tensors, tiny_setup

NEW = {"measures", "probe_decrease", "lr_sum"}


@pytest.mark.parametrize(
    "changes",
    [
        ["learn.rule=kp"],
        ["learn.route=local"],
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in ([], ["learn.rule=brsf"], ["learn.rule=mirror"])
        ),
    ],
    ids=lambda changes: changes[0] if changes else "backprop",
)
def test_measured_or_not_it_is_the_same_run(changes: list[str], tmp_path: Path) -> None:
    plain, watched = new_run(tmp_path, "plain"), new_run(tmp_path, "watched")
    changes = [*changes, "train.epochs=2"]
    if "learn.route=local" in changes:
        changes.append("optimizer={lr: 0.01, name: adamw}")
    fit(tiny_setup(*changes, base=SPATIAL), plain)
    fit(tiny_setup(*changes, "train.measure_every=1", base=SPATIAL), watched)
    for name in (LAST, BEST):
        assert same(tensors(plain, name), tensors(watched, name))
    lines = metrics(watched)
    assert [{k: v for k, v in line.items() if k not in NEW} for line in lines] == metrics(plain)
    assert all(line.keys() >= NEW for line in lines)
    assert result(plain) == result(watched)


def test_every_second_epoch(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.measure_every=2", "learn.rule=fa", base=SPATIAL), run)
    first, second, third = metrics(run)
    assert not NEW & first.keys() and not NEW & third.keys() and second.keys() >= NEW
    layers = second["measures"]
    assert list(layers["features.0"]) == [
        "gradient_angle", "gradient_ratio", "error_rank", "sharing_distance",
    ]  # fmt: skip
    readout = list(layers)[-1]
    assert list(layers[readout])[-3:] == ["feedback_angle", "feedback_ratio", "feedback_distance"]
    # onecycle, two steps an epoch, three epochs
    rates = [learning_rate(step, 2, epochs=3, lr=0.01, schedule="onecycle") for step in range(4)]
    assert second["lr_sum"] == pytest.approx(sum(rates))
