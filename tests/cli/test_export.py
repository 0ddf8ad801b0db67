"""`sfl export`: the file says what it is, is half as large, and is tested like any other."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_run

Sfl = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_are_tested_in_float32(
    sfl: Sfl, trained: Path, tmp_path: Path, dtype: str
) -> None:
    file = tmp_path / "w.safetensors"
    told = ("--dtype", dtype, "--data-name", "drawn images", "--json")
    done = sfl("export", trained, file, *told)
    assert done.returncode == 0, done.stderr
    said, result = json.loads(done.stdout), json.loads((trained / "result.json").read_text())
    whole = (trained / "best.safetensors").stat().st_size
    assert said["bytes"] == file.stat().st_size < 0.6 * whole
    rounded, exact = load_file(file), load_file(trained / "best.safetensors")
    for name, tensor in rounded.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, exact[name].to(tensor.dtype))
    evaluated = json.loads(sfl("evaluate", file, "--json").stdout)
    assert evaluated["published"] == {
        "run": trained.name, "images": "drawn images", "accuracy": result["accuracy"],
        "n": result["n"], "label": "pure", "dtype": dtype,
    }  # fmt: skip
    assert abs(evaluated["accuracy"] - result["accuracy"]) < 0.2
    assert evaluated["label"] == result["label"] == "pure"
    assert sfl("show", file, "--json").stdout == sfl("show", trained, "--json").stdout
    first = sfl("evaluate", file).stdout.splitlines()[0]
    assert first.startswith(f"{trained.name}, pure: accuracy ") and first.endswith(dtype)


def test_statistics_are_not_rounded(sfl: Sfl, tmp_path: Path) -> None:
    config = tmp_path / "norm.yaml"
    config.write_text(
        "model: {name: SpatialDenseNet, channels: [2, 2, 2, 2, 2, 2], hidden_sizes: [4]}\n"
        "data: {source: shapes, shapes: {train: 64, test: 20}}\n"
        "train: {epochs: 1, device: cpu, precision: float32}\n"
    )
    assert sfl("train", "--config", config, "--runs", tmp_path).returncode == 0
    file = tmp_path / "w.safetensors"
    assert sfl("export", "norm-s0", file, "--runs", tmp_path).returncode == 0
    exact = load_file(tmp_path / "norm-s0" / "best.safetensors")
    kept = {name: t for name, t in load_file(file).items() if t.dtype != torch.bfloat16}
    assert any("running_var" in name for name in kept)
    assert all(torch.equal(tensor, exact[name]) for name, tensor in kept.items())


def test_what_cannot_be_exported_is_one_line(sfl: Sfl, trained: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    done = sfl("export", trained, there)
    assert done.returncode == 4 and f"{there}: exists" in done.stderr
    assert there.read_text() == "mine"
    empty = make_run(tmp_path / "runs" / "empty")
    done = sfl("export", empty, tmp_path / "w")
    assert done.returncode == 4 and "has no trained weights" in done.stderr
    assert sfl("export", "no-run", tmp_path / "w", "--runs", tmp_path).returncode == 4
    assert not (tmp_path / "w").exists()
