"""Runs with a route or with sleep: stopped anywhere they are the same; what is refused."""

import signal
from pathlib import Path

import pytest

from sfl.config.load import override
from sfl.errors import Exit, UserError
from sfl.learning.learner import Learner
from sfl.learning.world import World
from sfl.runs.directory import Run
from sfl.training.epoch import measure
from sfl.training.fit import fit
from sfl.training.setup import build_learner, set_up
from sfl.training.stopping import Stopped
from tests.training.test_stopping import signals_at
from tests.training.tiny import SPATIAL, metrics, new_run, same, tensors, tiny_config, tiny_setup

RECIPES = {
    "sleep, kp": [
        "learn.sleep={every: 3, strength: 0.4, kernels: k2}",
        "learn.rule=kp",
        "optimizer={name: adamw, lr: 0.01, weight_decay: 0.1}",
    ],
    "dfa": ["learn.route=dfa"],
    "local": ["learn.route=local", "optimizer={lr: 0.01, name: adamw}"],
    "frozen": ["learn.route=frozen"],
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_stopped_at_every_step_it_is_the_same_run(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny_setup("train.epochs=2", *changes, base=SPATIAL)
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "stopped")
    fit(setup, straight)
    for _ in range(2 * setup.steps_per_epoch):
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", signals_at(0, signal.SIGINT, Learner.step))
            with pytest.raises(Stopped):
                fit(setup, Run(run.path))
    fit(setup, Run(run.path))
    assert same(tensors(straight), tensors(run)) and metrics(straight) == metrics(Run(run.path))


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
            "learn.sleep: only for model.layer: spatial",
        ),
        (["model.storage=dense", "learn.sleep.every=1"], "learn.sleep: only for model.storage"),
        (
            ["learn.route=frozen", "learn.sleep.every=1"],
            "learn.sleep: not with learn.route: frozen",
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
