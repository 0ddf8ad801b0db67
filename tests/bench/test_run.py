"""`sfl bench`: that it measures what it says, in its own words; no test looks at a time."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sfl.bench import augmentation, layers, references, run, steps, timing, worker
from sfl.bench.layers import Layer
from sfl.bench.plot import plot
from sfl.bench.steps import Worker
from sfl.bench.timing import Timing, added, interleaved, timed
from sfl.cli import tables
from sfl.cli.bench import BOARD, bench
from sfl.config.load import flat, load
from sfl.errors import UserError
from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import kernel


def test_functions_are_called_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr("sfl.bench.timing.time.perf_counter", lambda: next(clock))
    functions = {name: timed(lambda name=name: calls.append(name)) for name in "ab"}  # type: ignore[misc]
    found = interleaved(functions, 3)
    assert calls == list("aabb" + "aabb" * 3)  # once to warm up; twice, the second counts
    assert found == {name: Timing(1, 1, 1, 3) for name in "ab"}


def test_what_is_slow_is_repeated_less_often() -> None:
    found = interleaved({"slow": lambda: 15}, 10)["slow"]
    assert found.n == 3 and found.median == 15


def test_medians_are_added_up() -> None:
    timings = [Timing(1, 0.5, 2, 5), Timing(2, 1.5, 4, 3)]
    assert added(timings) == {"seconds": 3, "smallest": 2, "largest": 6, "n": 3}


def test_a_layers_sizes_by_hand() -> None:
    layer = Layer((2, 5, 4), 3, 3, padding=1)
    assert layer.positions == (5, 4)
    assert layer.weights == 5 * 4 * 3 * 2 * 9
    assert layer.dense_weights == (2 * 5 * 4) * (3 * 5 * 4)
    assert layer.flops(7) == 3 * 2 * 7 * layer.weights
    assert Layer((3, 5, 5), 1, 3).flops(1) == 2 * 2 * 9 * 27  # images need no gradient


class FakeWorker:
    """Takes no step; its name tells how long it would have taken."""

    def __init__(self, name: str) -> None:
        self.name = name

    def seconds(self) -> float:
        return len(self.name) / 1000

    def peak_bytes(self) -> int:
        return 10**6


@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_run_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    small = {"a layer": (Layer((3, 6, 6), 4, 3),), "padded": (Layer((4, 6, 6), 4, 3, 1),)}
    monkeypatch.setattr(layers, "NETWORKS", small)
    monkeypatch.setattr(augmentation, "IMAGES", 64)
    axes = {"batch": (1, 2), "channels in": (1, 2), "positions": (6, 8)}
    monkeypatch.setattr(layers, "AXES", axes)
    monkeypatch.setattr(steps, "Worker", FakeWorker)
    found = json.loads(json.dumps(run.run(quick=quick)))
    parts = {"format", "machine", "layers", "scaling", "steps", "augmentation"}
    assert set(found) == parts
    assert [entry["axis"] for entry in found["scaling"]] == ["batch", "channels in", "positions"]
    assert found["scaling"][2]["values"] == [16, 36]
    for picture in ("bench.svg", "bench.png"):
        plot(found, tmp_path / picture)
    drawn = (tmp_path / "bench.svg").read_text()
    assert drawn.startswith("<?xml") and "mathdefault" not in drawn  # numbers that can be read
    with pytest.raises(UserError, match=r"bench\.exe"):
        plot(found, tmp_path / "bench.exe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.png", "bench.svg"]
    plain, padded = found["layers"][:2]
    forms = {"ours, plain", "unfold + bmm", "unfold view + einsum", "Conv2d twin"}
    forms |= {"Conv2d twin, channels_last"}
    forms |= (
        {"ours, compiled", "ours, compiled, contiguous"}
        if choose(torch.device("cpu"), torch.float32)[0] is kernel
        else set()
    )
    assert set(plain["forms"]) == forms | {"dense tensordot (notebook)"}
    assert set(padded["forms"]) == forms  # the notebook's layer doesn't pad
    assert plain["error"] < 1e-6 and plain["same_bits"]
    for form in plain["forms"].values():
        share = plain["flops"] / form["seconds"] / found["machine"]["mm_flops"]["float32"]
        assert form["share_of_mm"] == pytest.approx(share)
    *ours, theirs = found["augmentation"]
    assert [recipe["name"] for recipe in ours] == list(augmentation.RECIPES)
    for recipe in (*ours, theirs):
        share = recipe["share_of_epoch"]["SpatialDenseNet, local"]
        each = 1 / recipe["images_per_second"]
        assert share == pytest.approx(each / (each + 0.022 / steps.BATCH))
        share = recipe["share_of_epoch"]["DeepNet, local"]
        assert share == pytest.approx(each / (each + 0.014 / 512))  # the batch of its config
    steps_of_simple = found["steps"][0]["steps"]
    assert list(steps_of_simple) == ["SimpleModel, notebook", "SimpleModel, local"]
    assert steps_of_simple["SimpleModel, local"]["seconds"] == 0.018
    shown = [[str(row[0]) for row in made.rows] for made in tables.bench_tables(found)]
    assert shown[len(found["layers"])][:2] == ["SimpleModel, notebook", "SimpleModel, local"]


@pytest.mark.parametrize("name", ["SimpleModel, local", "SimpleModel, notebook", "DeepNet, local"])
def test_a_step_is_taken_in_a_process_of_its_own(name: str) -> None:
    process = Worker(name)
    assert process.seconds() > 0
    assert process.peak_bytes() > 4 * 171_010


def test_the_board_is_trained_anew_in_a_folder_that_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[object, ...]] = []

    def compared(names: object, overrides: object, seeds: int, root: Path, *, target: float) -> Any:
        assert root.is_dir() and not list(root.iterdir())
        given.append((names, overrides, seeds, target, root))
        return "compared", []

    monkeypatch.setattr("sfl.comparison.run.run_comparison", compared)
    monkeypatch.setattr("sfl.cli.compare.show_comparison", lambda *shown: given.append(shown))
    bench(board=True, set_=["data.source=shapes"], as_json=True)
    (names, overrides, seeds, target, root), shown = given
    assert (names, overrides, seeds) == (BOARD, ["data.source=shapes"], 1) and target == 0.8
    assert isinstance(root, Path) and not root.exists()
    assert shown == ("compared", [], None, "json")
    local, conv = (flat(load(name).to_dict()) for name in BOARD)
    differing = {key for key in local | conv if local.get(key) != conv.get(key)}
    assert differing == {"model.layer", "model.storage", "model.norm"}
    for wrong in ({"board": True, "quick": True}, {"set_": ["a.b=1"]}):
        with pytest.raises(UserError):
            bench(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "ahead", "each"), [("cpu", 0, 1), ("cuda", 4, 10)])
def test_a_device_has_finished_when_a_clock_is_read(
    device: str, ahead: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after what is timed, in a process of a step as elsewhere."""
    done: list[str] = []
    with monkeypatch.context() as accelerated:
        accelerated.setattr(torch.accelerator, "is_available", lambda: True)
        accelerated.setattr(torch.accelerator, "synchronize", lambda: done.append("waited"))
        timing.wait()
    assert done.pop() == "waited"
    monkeypatch.setattr(timing, "wait", lambda: done.append("waited"))

    def clock() -> float:
        done.append("clock")
        return 0.0

    monkeypatch.setattr(time, "perf_counter", clock)
    timed(lambda: done.append("step"))()
    assert done == ["step", "waited", "clock", "step", "waited", "clock"]
    done.clear()
    monkeypatch.setattr(worker, "reuse_memory", lambda: None)
    monkeypatch.setattr(steps, "our_step", lambda name: lambda: done.append("step"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\n" * 3))
    monkeypatch.setattr("sfl.training.device.pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    worker.main("SimpleModel, local")
    turn = ["waited", "clock", *["step"] * each, "waited", "clock"]
    assert done == ["step"] * ahead + turn * 3


def test_a_form_that_fails_is_left_out_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any, **more: Any) -> None:
        raise RuntimeError("ptxas\ncrashed")

    monkeypatch.setattr(references, "unfold_einsum", fails)
    monkeypatch.setattr(layers, "NETWORKS", {"one": (Layer((2, 5, 4), 3, 3),)})
    (found,) = layers.measure(torch.device("cpu"), 4, "float32", 1)
    assert "unfold + bmm" in found["forms"] and "unfold view + einsum" not in found["forms"]
    said = capsys.readouterr().err
    assert said == "unfold view + einsum is left out: RuntimeError: ptxas crashed\n"


def test_a_step_whose_process_ends_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "OURS", {"SimpleModel, local": ("simple", ())})
    monkeypatch.setattr(steps, "NETWORKS", ("SimpleModel",))
    monkeypatch.setattr(steps, "NOTEBOOK", ())
    working = steps.OURS["SimpleModel, local"]
    steps.OURS["SimpleModel, nowhere"] = working  # which the process's own OURS doesn't have
    (found,) = steps.measure(1)
    assert list(found["steps"]) == ["SimpleModel, local"]
    said = capfd.readouterr().err
    assert "SimpleModel, nowhere is left out: RuntimeError: its process has ended" in said
