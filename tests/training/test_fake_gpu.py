"""What training asks a GPU for, counted on one that computes nothing (tests/fake_gpu).

PyTorch's own CUDA code runs; its numbers are whatever lay in memory.
"""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sfl.errors import Exit
from sfl.nn.feedback.rules import RULES
from tests.fake_gpu.machine import ROOT, build, run

# The largest numbers of launches in an eager step with 64 images, by config and precision, as
# counted: normalisation with its ReLU is two each way, and three for the running statistics.
LAUNCHES = {
    ("spatial", "bfloat16"): 122,
    ("spatial", "float32"): 111,
    ("simple", "bfloat16"): 40,
    ("conv-local", "bfloat16"): 136,
    ("notebook/spatial", "float32"): 100,
}
# Temporary memory of a step, in MB: those of 2026, without own kernels.
PEAKS = {"spatial": 31, "conv-local": 125, "simple": 10, "notebook/spatial": 178}
OTHERS = [
    *(f"learn.rule={rule}" for rule in RULES),
    "learn.route=dfa", "learn.route=local", "learn.route=frozen", "learn.sleep.every=7",
    "optimizer.clip_norm=1.0", "train.label_smoothing=0.1", "optimizer.name=adamw",
    "optimizer={name: sgd, momentum: 0.9}", "train.precision=tf32",
]  # fmt: skip
DEEP = [  # what DeepNet and its recipe add
    ["deep-local"], ["deep-conv"], ["papers/d-local"], ["papers/pogodin-local"],
    ["deep-local", "learn.rule=kp"], ["deep-local", "learn.route=dfa"],
    ["deep-local", "learn.route=local"],
    ["deep-local", "model.same_start=true", "model.pool=max", "train.average=null"],
]  # fmt: skip
DRAWN = {"brsf", "mirror"}  # rules that draw on the CPU in each step


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("gpu"))


def counted(gpu: Path, cases: list[list[str]], **env: str) -> list[dict[str, Any]]:
    done = run(gpu, "-m", "tests.fake_gpu.steps", json.dumps(cases), env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case["case"] for case in found] == cases
    return found


def test_a_step_and_what_is_left_of_it_beside_a_graph(gpu: Path) -> None:
    """Without own kernels, which take seconds to compile."""
    case = ["simple", "train.precision=bfloat16"]
    (found,) = counted(gpu, [case], SFL_ENGINE="reference")
    check(found, 47)


def test_a_step_that_sleeps_waits_for_nothing(gpu: Path) -> None:
    """Each does, its eager part and what is left of it beside a graph."""
    cases = [
        ["spatial", "learn.sleep.every=1", f"learn.sleep.kernels={of}"] for of in ("one", "k2")
    ]
    for found in counted(gpu, cases, SFL_ENGINE="reference"):
        assert found["recorded"] and found["replay"]["launch"] > 50  # it slept
        assert not {"wait", "H2D", "D2H"} & (found["eager"].keys() | found["replay"].keys())


def test_a_recording_that_fails_leaves_everything_as_it_was(gpu: Path) -> None:
    done = run(gpu, "-m", "tests.fake_gpu.refused")
    assert done.stdout == "as before\n", done.stderr[-2000:]


def check(found: dict[str, Any], launches: int) -> None:
    config = found["case"][0]
    eager, replay = found["eager"], found["replay"]
    assert eager["launch"] <= launches
    assert not {"wait", "H2D", "D2H"} & eager.keys()  # nothing that the host waits for
    assert found["guard"] < 10 + (config == "notebook/spatial")  # so many weights: two launches
    assert found["recorded"] and replay["graph"] == 1
    assert replay["launch"] + replay["D2D"] <= 5 and replay.keys() == {"launch", "D2D", "graph"}
    assert "D2D" not in eager  # no gradient is copied
    assert found["peak_megabytes"] <= PEAKS[config]


@pytest.mark.slow
def test_steps_of_all_networks(gpu: Path) -> None:
    cases = [[config, f"train.precision={kind}"] for config, kind in LAUNCHES]
    for found, launches in zip(counted(gpu, cases), LAUNCHES.values(), strict=True):
        check(found, launches)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["spatial", "conv"])
def test_every_rule_route_and_setting_can_be_recorded(gpu: Path, config: str) -> None:
    cases = [[config, other] for other in OTHERS if config == "spatial" or "sleep" not in other]
    for found in counted(gpu, cases):
        assert found["recorded"], found["case"]
        if not any(rule in found["case"][1] for rule in DRAWN):
            assert found["replay"]["launch"] + found["replay"]["D2D"] <= 5, found
            assert "wait" not in found["eager"], found


@pytest.mark.slow
def test_deep_networks_can_be_recorded(gpu: Path) -> None:
    for found in counted(gpu, DEEP):
        assert found["recorded"] and "wait" not in found["eager"], found
        assert found["replay"]["launch"] + found["replay"]["D2D"] <= 5, found


def sfl(gpu: Path, folder: Path, *arguments: str, **env: str) -> "CompletedProcess[str]":
    return run(gpu, "-m", "tests.fake_gpu.commands", *arguments, folder=folder, env=env)


SMALL = (
    "--set", "data.source=shapes", "--set", "data.shapes={train: 350, test: 60}",
    "--set", "train={epochs: 1, test_every: 1, measure_every: 1}",
)  # fmt: skip


@pytest.mark.slow
def test_the_commands_run_through(gpu: Path, tmp_path: Path) -> None:
    """As far as garbage for numbers lets them: divergence isn't looked for."""
    for config in ("conv", "spatial"):
        sizes = ("--name", config, *SMALL)
        done = sfl(gpu, tmp_path, "train", "--config", config, *sizes)
        assert done.returncode == 0, done.stderr
        assert "no CUDA graph" not in done.stderr
        machine = json.loads((tmp_path / "checkpoints" / config / "environment.json").read_text())
        assert machine["device"] == "Fake GPU" and machine["precision"] == "bfloat16"
    more = ("--set", "train.epochs=2")
    for arguments in (
        ["train", "--resume", "checkpoints/spatial", *more],
        ["evaluate", "checkpoints/spatial", "--json"],
        ["evaluate", "checkpoints/spatial", "--views", "2", "--shifts", "1"],
        ["export", "checkpoints/spatial", "spatial.safetensors"],
        ["evaluate", "spatial.safetensors"],
        ["compare", "checkpoints/conv", "checkpoints/spatial"],
        ["grid", str(ROOT / "configs/grids/quickstart.yaml"), *SMALL, "--dry-run"],
        ["plot", "checkpoints/spatial"],
        ["show", "spatial"],
        ["runs"],
        ["bench", "--quick"],
        ["train", "--config", "conv-local", *SMALL, "--set", "train.graph=on"],
        ["train", "--config", "spatial", *SMALL, "--set", "train.graph=off"],
        ["train", "--config", "spatial", *SMALL, "--set", "train.compile=true"],
    ):
        done = sfl(gpu, tmp_path, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.slow
def test_what_a_gpu_refuses_is_one_line(gpu: Path, tmp_path: Path) -> None:
    config = ("train", "--config", "spatial", *SMALL)
    for env, change, code, said in (
        ({"FAKE_CAPABILITY": "60"}, "train.device=cuda", Exit.USAGE, "compute capability 6.0"),
        ({}, "train.device=cuda:1", Exit.USAGE, "CUDA devices here: 1"),
        ({"FAKE_CAPABILITY": "75"}, "train.precision=tf32", Exit.USAGE, "tf32: only on CUDA"),
        ({"FAKE_MEMORY": "90000000"}, "train.device=cuda", Exit.RESOURCES, "out of memory"),
        ({}, "train={graph: on, compile: true}", Exit.USAGE, "not with train.compile"),
    ):
        done = sfl(gpu, tmp_path, *config, "--set", change, **env)
        assert done.returncode == code, (change, done.stderr)
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert said in error and "Traceback" not in done.stderr
