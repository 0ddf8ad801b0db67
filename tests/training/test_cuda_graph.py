"""Runs whose steps are a graph, with a stand-in on the CPU; and where a graph is refused."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.learning.cuda_graph import Graphed
from sfl.learning.learner import Learner
from sfl.learning.world import ALONE, World
from sfl.runs.directory import Run
from sfl.training import setup as setups
from sfl.training.cuda_graph import check_graph, graphed_steps
from sfl.training.fit import fit
from sfl.training.stopping import Stopped
from tests.learning.recorded import Recorded
from tests.training.tiny import (
    SPATIAL,
    metrics,
    new_run,
    result,
    same,
    tensors,
    tiny_config,
    tiny_setup,
)

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SEVEN_STEPS = ("data.batch_size=8", "train.epochs=2")  # an epoch, the last of two images

GRAPHS = ("auto", "off", "on")


def never(error: RuntimeError) -> None:
    raise error


def test_a_run_by_graph_is_the_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also its epochs' sums; and one that is stopped in an epoch, in which it is recorded anew."""
    made: list[Recorded] = []

    def recorder(body: Callable[[], object]) -> Recorded:
        made.append(Recorded(body))
        return made[-1]

    def train(run: Run, graphed: Any) -> Run:
        monkeypatch.setattr(setups, "graphed_steps", lambda *rest: graphed)
        fit(tiny_setup(*SEVEN_STEPS, base=SPATIAL), run)
        return Run(run.path)

    by_graph = partial(Graphed, refused=never, recorder=recorder)
    plain = train(new_run(tmp_path, "plain"), lambda function: function)
    graphed = train(new_run(tmp_path, "graphed"), by_graph)
    assert [one.replays for one in made] == [2 * 6 - 3]

    steps, step = iter(range(100)), Learner.step

    def stops(*arguments: Any, **named: Any) -> Any:
        if next(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments, **named)

    stopped = new_run(tmp_path, "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stops)
        with pytest.raises(Stopped):
            train(stopped, by_graph)
    stopped = train(stopped, by_graph)
    assert [one.replays for one in made[1:]] == [5 - 3, 1 + 6 - 3]
    for run in (graphed, stopped):
        assert same(tensors(plain), tensors(run))
        assert metrics(plain) == metrics(run) and result(plain) == result(run)


@pytest.mark.parametrize(
    ("changes", "device", "world", "why"),
    [
        ([], CPU, ALONE, "only on a CUDA device, not on cpu"),
        ([], CUDA, World(2, 0), "not with torchrun"),
        (["train.compile=true"], CUDA, ALONE, "not with train.compile"),
        ([], CUDA, ALONE, ""),
    ],
)
def test_where_there_is_no_graph(
    changes: list[str], device: torch.device, world: World, why: str
) -> None:
    auto, off, on = (tiny_config(*changes, f"train.graph='{graph}'") for graph in GRAPHS)
    check_graph(auto, device, world)
    assert graphed_steps(off, device, world) is None
    assert (graphed_steps(auto, device, world) is None) == bool(why)
    if why:
        with pytest.raises(UserError, match=f"train.graph: on: {why}") as error:
            check_graph(on, device, world)
        assert error.value.exit_code == Exit.USAGE
    else:
        check_graph(on, device, world)
    assert auto.identity() == off.identity()


def waits(x: torch.Tensor) -> tuple[torch.Tensor]:
    return (x * float(x.sum()),)


def out_of_memory(body: Callable[[], object]) -> Recorded:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def test_a_step_that_cannot_be_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.ones(2)
    for graph in ("auto", "on"):
        make = graphed_steps(tiny_config(f"train.graph='{graph}'"), CUDA, ALONE)
        assert isinstance(make, partial)
        graphed, full = (make(waits, recorder=form) for form in (Recorded, out_of_memory))
        for _ in range(3):
            graphed(x), full(x)
        if graph == "auto":
            assert torch.equal(graphed(x)[0], 2 * x) and torch.equal(full(x)[0], 2 * x)
            said = capsys.readouterr().err.splitlines()
            start = "no CUDA graph of a step, which makes it slower: "
            assert said[0] == f"{start}operation not permitted when stream is capturing"
            assert said[1].startswith(f"{start}CUDA out of memory")
        else:
            with pytest.raises(UserError, match="graph: on: operation not permitted"):
                graphed(x)
            with pytest.raises(torch.OutOfMemoryError):
                full(x)
