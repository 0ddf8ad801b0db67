"""Runs with a route or with sleep: what they write down; what is refused."""

import pytest

from sfl.config.load import override
from sfl.errors import Exit, UserError
from sfl.learning.world import World
from sfl.training.epoch import measure
from sfl.training.setup import build_learner, set_up
from tests.training.tiny import SPATIAL, tiny_config, tiny_setup


def test_metrics_say_how_often_it_slept() -> None:
    setup = tiny_setup("learn.sleep.every=3", base=SPATIAL)  # 2 steps an epoch
    learner = build_learner(setup)
    assert [measure(setup, learner, epoch)["sleeps"] for epoch in (1, 2, 3, 4)] == [0, 1, 1, 0]
    setup = tiny_setup(base=SPATIAL)
    assert "sleeps" not in measure(setup, build_learner(setup), 1)


def test_projections_are_in_the_checkpoint() -> None:
    state = build_learner(tiny_setup("learn.route=dfa", base=SPATIAL)).state()
    names = {name for name in state if name.startswith("route.")}
    assert "route.features.0.projection" in names and len(names) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["model.layer=conv", "model.storage=null", "learn.sleep.every=1"],
            "learn.sleep.every: only for model.layer: spatial",
        ),
        (
            ["model.storage=dense", "learn.sleep.every=1"],
            "learn.sleep.every: only for model.storage",
        ),
        (
            ["learn.route=frozen", "learn.sleep.every=1"],
            "learn.sleep.every: not with learn.route: frozen",
        ),
        (["learn.route=local"], "optimizer.clip_norm: not with learn.route: local"),
    ],
)
def test_settings_that_do_not_fit_each_other(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        override(tiny_config(base=SPATIAL), changes)
    assert error.value.exit_code is Exit.USAGE


def test_local_losses_of_several_processes_are_refused() -> None:
    config = tiny_config("learn.route=local")
    with pytest.raises(UserError, match="local compares the images of a batch") as error:
        set_up(config, world=World(2))
    assert error.value.exit_code is Exit.USAGE
