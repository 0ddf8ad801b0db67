"""`sfl grid` as a command: what it says first, what it lists, what it prints."""

import json
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import call_sfl as sfl

ROOT = Path(__file__).parent.parent.parent
BASE = """\
model: {name: SimpleModel, channels: [2], kernel_sizes: [3]}
data: {source: shapes, shapes: {train: 40, test: 20}, validation: 20}
train: {epochs: 1, device: cpu}
"""
STUDY = """\
base: base.yaml
axes:
  sharing: {local: {}, conv: {model.layer: conv}}
  size: {s: {}, m: {model.channels: [3]}}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("study.yaml").write_text(STUDY)


def test_first_the_plan_then_the_runs_then_the_table(study: None) -> None:
    said = sfl("grid", "study.yaml", "--dry-run")
    assert said.returncode == 0 and not Path("checkpoints").exists()
    assert "study: 4 cells, 1 run each" in said.stderr
    assert "to be trained: 4 runs, about" in said.stderr
    more = sfl("grid", "study.yaml", "--seeds", "2", "--dry-run")
    assert "study: 4 cells, 2 runs each" in more.stderr and "trained: 8 runs" in more.stderr
    printed = sfl("grid", "study.yaml", "--json")
    assert printed.stderr.count("Drawing the training images") == 1  # not again for the runs
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
    found = json.loads(printed.stdout)
    jsonschema.validate(found, schema)
    assert [model["name"] for model in found["models"]] == [
        "local-s", "local-m", "conv-s", "conv-m",
    ]  # fmt: skip
    assert "all runs are there" in sfl("grid", "study.yaml", "--dry-run").stderr
    shown = sfl("grid", "study.yaml", "--no-train").stdout
    assert "sharing × size" in shown and "gap to local, points" in shown


def test_cells_of_other_images_are_told_before_anything_is_trained(study: None) -> None:
    axes = "base: base.yaml\naxes: {objects: {near: {}, far: {data.shapes.jitter: 9}}}\n"
    Path("study.yaml").write_text(axes)
    for options in ([], ["--dry-run"]):
        said = sfl("grid", "study.yaml", *options)
        assert said.returncode == 3 and not list(Path("checkpoints").glob("*"))
        assert "far-s0: does not have the train images of the first run (compare" in said.stderr
