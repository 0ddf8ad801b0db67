"""Runs of version 0.1.0 (format sfl-2) load, resume and evaluate as they did there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from sfl.errors import UserError
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.training.checkpoint import FORMAT, read_checkpoint
from sfl.training.load import load_run
from sfl.training.upgrade import upgraded

OLD = Path(__file__).parent / "sfl-2"
FINISHED: dict[str, dict[str, Any]] = json.loads((OLD / "finished.json").read_text())

Sfl = Callable[..., "CompletedProcess[str]"]
both_optimizers = pytest.mark.parametrize("optimizer", ["adam", "sgd"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of those runs: `images` as they were, and room for run directories."""
    for split, count in (("train", 12), ("test", 10)):
        for label, name in enumerate(("even", "odd")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                y, x, c = np.mgrid[:8, :8, :3]
                pattern = x * y * (i + 3) * (2 * label + 1)
                values = (37 * x + 11 * y * (label + 1) + 53 * c + 29 * i + pattern) % 256
                Image.fromarray(values.astype("uint8")).save(place / f"{i:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@both_optimizers
def test_a_stopped_run_goes_on_as_it_would_have(folder: Path, sfl: Sfl, optimizer: str) -> None:
    """Stopped within an epoch. To 1e-6: another processor may add up in another order."""
    run = folder / "runs" / f"{optimizer}-stopped"
    shutil.copytree(OLD / run.name, run)
    done = sfl("train", "--resume", run.name, "--runs", run.parent)
    assert done.returncode == 0, done.stderr
    expected = FINISHED[optimizer]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for key in ("train_loss", "train_accuracy"):
        assert [line[key] for line in lines] == pytest.approx(expected[key], abs=1e-6)
    result = json.loads((run / "result.json").read_text())
    assert result["accuracy"] == expected["accuracy"]
    assert result["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert np.load(run / "predictions.npy").tolist() == expected["predictions"]
    with safe_open(run / "last.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["sfl"])["format"] == FORMAT == "sfl-3"


@both_optimizers
def test_trained_weights_give_the_same_result(folder: Path, sfl: Sfl, optimizer: str) -> None:
    done = sfl("evaluate", OLD / f"{optimizer}-finished.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"] == FINISHED[optimizer]["accuracy"]
    assert result["loss"] == pytest.approx(FINISHED[optimizer]["loss"], abs=1e-6)


def test_filters_are_what_was_written(tmp_path: Path) -> None:
    shutil.copytree(OLD / "adam-stopped", tmp_path / "run")
    model = load_run(tmp_path / "run").model
    with safe_open(tmp_path / "run" / "best.safetensors", framework="pt") as file:
        layers = [m for m in model.named_modules() if isinstance(m[1], SpatialFeatureLayer)]
        assert len(layers) == 6
        for name, layer in layers:
            assert torch.equal(layer.filters(), file.get_tensor(f"model.{name}.weight"))
            assert layer.weight.is_contiguous()


def test_moments_turn_with_their_weights() -> None:
    tensors = read_checkpoint(OLD / "adam-stopped" / "last.safetensors").tensors
    weights = [
        name for name, tensor in tensors.items() if name.startswith("model.") and tensor.dim() == 6
    ]
    moments = [
        t.shape for name, t in tensors.items() if name.startswith("optimizer.") and t.dim() == 6
    ]
    assert len(weights) == 6
    assert sorted(moments) == sorted(tensors[name].shape for name in weights for _ in range(2))


@pytest.mark.parametrize(
    ("model", "turned"),
    [
        ("{layer: spatial, storage: local}", True),
        ("{layer: spatial, storage: dense}", False),
        ("{layer: conv, storage: null}", False),
    ],
)
def test_only_local_weights_turn(model: str, turned: bool) -> None:
    """Dense ones (C, H, W, O, OH, OW) have six dimensions too."""
    weight = nn.Parameter(torch.randn(2, 3, 4, 5, 6, 7))
    found = upgraded({"a": weight, "b": torch.ones(3)}, f"model: {model}")
    assert torch.equal(found["a"], weight.movedim(3, -1) if turned else weight)
    assert torch.equal(found["b"], torch.ones(3))


def test_damage_is_noticed_before_anything_is_brought_up_to_date(tmp_path: Path) -> None:
    whole = bytearray((OLD / "adam-finished.safetensors").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "best.safetensors").write_bytes(whole)
    with pytest.raises(UserError, match="damaged: its content is not what was written"):
        read_checkpoint(tmp_path / "best.safetensors")
