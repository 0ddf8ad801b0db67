"""The real command line, in this process: what it prints where, its exit codes, what it leaves."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfl.cli.main import app
from tests.conftest import TINY, make_run
from tests.conftest import call_sfl as sfl

FILES = {
    "config.yaml", "environment.json", "metrics.jsonl", "last.safetensors", "best.safetensors",
    "result.json", "predictions.npy", "labels.npy",
}  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a tiny config in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def the_error(done: "CompletedProcess[str]") -> str:
    """The one line of a refusal; nothing on standard output, no traceback."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.rstrip("\n").split("\n")
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
    return lines[-1].removeprefix("error: ")


# --- bad input: one line, the right exit code, and nothing lost or left


@dataclass(frozen=True)
class Bad:
    """A command line that is refused, the files that it meets, and what its one line says."""

    name: str
    arguments: str
    code: int
    words: str
    files: dict[str, str | bytes | None] = field(default_factory=dict)  # None: a folder


def config(name: str, text: str | bytes, words: str) -> Bad:
    """A config that is refused."""
    return Bad(name, "train --config bad.yaml", 2, words, {"bad.yaml": text})


def setting(name: str, override: str, words: str, code: int = 2) -> Bad:
    """A setting that is refused on the command line."""
    return Bad(name, f"train --config tiny.yaml --set {shlex.quote(override)}", code, words)


def png(side: int = 8) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(written, "png")
    return written.getvalue()


def folder(name: str, words: str, files: dict[str, bytes | None]) -> Bad:
    """A folder of images that is refused."""
    images = {f"images/{path}": content for path, content in files.items()}
    arguments = "train --config tiny.yaml --set data.source=folder --set data.root=images"
    return Bad(name, arguments, 3, words, {"images": None, **images})


CIFAR = "train --config tiny.yaml --set data.source=cifar10"
NOWHERE = "--set data.mirror=http://127.0.0.1:9/none"
ONE: dict[str, bytes | None] = {"train/a/1.png": png(), "test/a/1.png": png()}
ARCHIVE = "data/cifar-10-python.tar.gz"

BAD = [
    # configs
    config("unknown key", TINY + "trian: 1\n", "bad.yaml:4: unknown key trian: did you mean train"),
    config("misspelt key", TINY.replace("epochs", "epohcs"), "unknown key train.epohcs: did you"),
    config("wrong type", TINY.replace("epochs: 1", "epochs: one"), "expected a whole number"),
    config("duplicate key", TINY + "train: {}\n", "bad.yaml:4: train is given twice, first in lin"),
    config("unknown model", TINY.replace("SimpleModel", "ResNet"), 'DeepNet, not "ResNet"'),
    config("empty", "", "bad.yaml: the file is empty"),
    config("list", "- a\n- b\n", "bad.yaml: expected keys and values, found a list"),
    config("binary", b"\x80\x02\xff", "bad.yaml: not a text file (UTF-8)"),
    config("control characters", "a: \x07\n", "bad.yaml: not YAML: unacceptable character"),
    config("not YAML", "a: [1\n", "bad.yaml:2: not YAML"),
    config("recursive", "model: &a {name: *a}\n", "bad.yaml:1: a value that contains itself"),
    config("code", "a: !!python/object/apply:os.mkdir [ran]\n", "bad.yaml:1: the tag tag:yaml.org"),
    config(
        "a billion laughs",
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(
            f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
            for old, new in zip("abcd", "bcde", strict=True)
        ),
        "more than 10,000 values: not a config",
    ),
    config("extends nothing", "extends: no.yaml\n", "bad.yaml:1: extends: no.yaml: no such file"),
    Bad("no such config", "train --config none.yaml", 2, "none.yaml: no such config"),
    Bad("misspelt config", "train --config spatail", 2, "did you mean spatial?"),
    Bad("a folder as config", "train --config .", 2, ".: a folder, not a config file"),
    Bad("a checkpoint as config", "train --config x", 2, "x: not a text", {"x": b"\xd0\x07\xff"}),
    # settings
    setting("negative", "optimizer.lr=-1e-3", "optimizer.lr: must be above 0, not -0.001"),
    setting("zero", "data.batch_size=0", "data.batch_size: must be at least 1, not 0"),
    setting("nan", "optimizer.lr=.nan", "optimizer.lr: must be a finite number, not NaN"),
    setting("infinite", "optimizer.weight_decay=.inf", "must be a finite number, not Infinity"),
    setting("no value", "train.epochs", "--set train.epochs: expected a.b=value, as in train.epo"),
    setting("no key", "=3", "--set =3: expected a.b=value"),
    setting("no YAML", "train.epochs=[1", "--set train.epochs=[1: '[1' is not a YAML value"),
    setting("code on the command line", "train.seed=!!python/name:os.system", "is not allowed"),
    setting("a kernel larger than its input", "model.kernel_sizes=[33]", "33 is larger than its"),
    setting("sizes of another model", "model.channels=[5, 5]", "channels: 2 given"),
    setting("more held out than there is", "data.validation=64", "data.validation: 64"),
    setting("more images than there are", "data.train_images=65", "data.train_images: 65, but"),
    setting("a class without images", "data.train_images=9", "data.train_images: 9, but"),
    setting("too much memory", "data.batch_size=1000000000", "training this model takes at", 6),
    Bad("negative seed", "train --config tiny.yaml --seed -1", 2, "must be at least 0, not -1"),
    Bad("no seed", "train --config tiny.yaml --seed q", 2, 'expected a whole number, not "q"'),
    # data
    folder("no data", "images", {}),
    folder("no images", "contains no images", {"train/a/notes.txt": b"x", "test/a/n.txt": b"x"}),
    folder("cut off", "images/train/a/2.png can't be read", ONE | {"train/a/2.png": png()[:50]}),
    folder("other classes", "different classes; not in test: b", ONE | {"train/b/1.png": png()}),
    folder("different sizes", "images differ in size", ONE | {"train/a/2.png": png(9)}),
    Bad(
        "no network",
        f"{CIFAR} {NOWHERE}",
        3,
        "cifar-10-python.tar.gz can't be downloaded from",
        {"data": None},
    ),
    Bad("corrupt archive", f"{CIFAR} {NOWHERE}", 3, f"{ARCHIVE} is damaged", {ARCHIVE: b"\x1f"}),
    Bad("data of nothing", "data --set data.source=folder --set data.root=no", 3, "no does not ex"),
    # runs and checkpoints
    Bad("evaluate without runs", "evaluate", 4, "checkpoints: no finished run (train one: sfl tr"),
    Bad("evaluate an unknown run", "evaluate nope", 4, "nope: no such run in checkpoints"),
    Bad("evaluate a folder", "evaluate some", 4, "some: no such run", {"some": None}),
    Bad("evaluate another file", "evaluate tiny.yaml", 4, "tiny.yaml: not a checkpoint"),
    Bad("evaluate an empty file", "evaluate e", 4, "e: not a checkpoint", {"e": b""}),
    Bad("compare one", "compare conv", 2, "compare needs two models or more, not conv alone"),
    Bad("compare one twice", "compare conv conv", 2, "conv is named twice"),
    Bad("compare an unknown one", "compare conv sptial", 2, "sptial: no such config: did you mea"),
    Bad("compare no seeds", "compare conv spatial --seeds 0", 2, "Invalid value for '--seeds': "),
    Bad("compare by no jobs", "compare conv spatial --jobs 0", 2, "--jobs 0: expected a number fr"),
    Bad("compare by some", "compare conv spatial --jobs x", 2, "--jobs x: expected a number fr"),
    Bad("compare what is not there", "compare conv spatial --no-train", 4, "conv-s0, spatial-s0"),
    Bad("show nothing", "show none", 2, "none: no such config"),
    Bad("resume an unknown run", "train --resume none", 4, "none: no such run in checkpoints"),
    Bad("resume with a name", "train --resume a --name b", 2, "--resume can be used with --set"),
    Bad("delete an unknown run", "runs rm none --yes", 4, "none: no such run in checkpoints"),
    Bad("watch into a file", "runs --watch", 2, "--watch needs a terminal and can't be used with"),
    Bad("delete nothing", "runs rm", 2, "Missing argument 'RUN'. (see what there is: sfl runs rm"),
    Bad("a name with a path", "train --config tiny.yaml --name a/b", 2, "--name 'a/b': expected"),
    Bad("a long name", f"train --config tiny.yaml --name {'n' * 300}", 2, "up to 200 letters"),
    Bad("a name like an option", "train --config tiny.yaml --name=-x", 2, "'-x': expected a name"),
    setting("an empty value", "optimizer.lr=", "optimizer.lr=: has no value"),
    setting("too many channels", "model.channels=[1000000000000]", "must be at most 1000000000"),
    Bad("an empty name", "train --config tiny.yaml --name ''", 2, "--name '': expected a name"),
    Bad("runs are a file", "train --config tiny.yaml --runs f", 4, "f: not a folder", {"f": b""}),
    Bad("runs in a file", "train --config tiny.yaml --runs f/g", 4, "can't be written", {"f": b""}),
    # usage
    Bad("neither config nor run", "train", 2, "train needs --config FILE or --resume RUN"),
    Bad("both", "train --config tiny.yaml --resume a", 2, "one of the two"),
    Bad("unknown command", "trian", 2, "No such command 'trian'."),
    Bad("unknown option", "train --confg x", 2, "No such option: --confg"),
    Bad(
        "an option of commands",
        "--runs x runs",
        2,
        "No such option: --runs (see what there is: sfl --help)",
    ),
    Bad(
        "two configs", "train --config a --config b", 2, "--config is given 2 times (give it once)"
    ),
    Bad("two folders of runs", "runs --runs a --runs b", 2, "--runs is given 2 times"),
    Bad("two seeds", "train --config tiny.yaml --seed 1 --seed=2", 2, "--seed is given 2 times"),
    Bad("an option without value", "train --config", 2, "Option '--config' requires an argument"),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_bad_input_gets_one_line_and_leaves_nothing(bad: Bad, here: Path) -> None:
    for name, content in bad.files.items():
        path = here / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = tree(here)
    done = sfl(*shlex.split(bad.arguments))
    line = the_error(done)
    assert bad.words in line
    assert done.returncode == bad.code, line
    assert tree(here) == before


def test_several_mistakes_are_told_at_once_a_line_each(here: Path) -> None:
    (here / "bad.yaml").write_text("model: {nmae: x}\ntrain: {epochs: 0}\n")
    done = sfl("train", "--config", "bad.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    places = [line.split(": ")[:2] for line in done.stderr.rstrip("\n").split("\n")]
    assert places == [
        ["error", "bad.yaml:1"],
        ["bad.yaml:1", "unknown key model.nmae"],
        ["bad.yaml:2", "train.epochs"],
    ]


def test_a_learning_rate_may_be_written_1e_3(here: Path) -> None:
    (here / "good.yaml").write_text(TINY + "optimizer: {lr: 1e-3}\n")
    done = sfl("train", "--config", "good.yaml", "--dry-run", "--json")
    assert json.loads(done.stdout)["config"]["optimizer"]["lr"] == 0.001
    assert not (here / "checkpoints").exists()


def test_cuda_where_there_is_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = sfl("train", "--config", "tiny.yaml", "--set", "train.device=cuda")
    line = the_error(done)
    assert done.returncode == 2
    assert line.startswith("train.device: cuda: PyTorch sees no CUDA device; ")
    assert line.endswith("(nvidia-smi says whether the driver sees one; else use auto or cpu)")
    assert tree(here).keys() == {"tiny.yaml"}


def test_a_model_that_cannot_fit_into_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RegularConvNet without sharing, as the notebook stored it: 4.3 G weights."""
    monkeypatch.setattr("sfl.training.memory.available_bytes", lambda device: 16_000_000_000)
    settings = ("model.name=RegularConvNet", "model.layer=spatial", "model.storage=dense")
    overrides = [word for setting in settings for word in ("--set", setting)]
    done = sfl("train", "--config", "tiny.yaml", *overrides)
    line = the_error(done)
    assert done.returncode == 6
    assert line.startswith("training this model takes at least ")
    assert "GB (4,266,335,562 weights, batch 64)" in line
    assert "has 16.0 GB free (choose model.storage=local" in line
    assert tree(here).keys() == {"tiny.yaml"}


def test_memory_that_runs_out_while_training(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_epoch(*arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr("sfl.training.fit.train_epoch", train_epoch)
    done = sfl("train", "--config", "tiny.yaml")
    assert the_error(done).startswith("out of memory")
    assert done.returncode == 6
    assert tree(here).keys() == {"tiny.yaml", "checkpoints"}  # no run directory


def test_training_that_diverges(here: Path) -> None:
    arguments = ("--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e30")
    done = sfl("train", "--config", "tiny.yaml", *arguments, "--set", "data.batch_size=8")
    line = the_error(done)
    assert done.returncode == 5
    assert "diverged" in line and "lower optimizer.lr" in line


def test_a_name_that_is_taken(here: Path, trained: Path) -> None:
    before = tree(trained)
    arguments = ("--name", trained.name, "--runs", trained.parent)
    done = sfl("train", "--config", "tiny.yaml", *arguments)
    assert done.returncode == 4
    assert f"{trained}: a run of this name exists (choose another" in the_error(done)
    assert tree(trained) == before


def test_a_finished_run_is_not_gone_on_with(trained: Path) -> None:
    before = tree(trained)
    done = sfl("train", "--resume", trained.name, "--runs", trained.parent)
    assert done.returncode == 4
    assert the_error(done) == (
        f"{trained}: has finished (more epochs: --set train.epochs=N; see it with: "
        f"sfl evaluate {trained})"
    )
    assert tree(trained) == before


def test_resume_does_not_change_the_experiment(here: Path, trained: Path) -> None:
    run = here / "checkpoints" / "a"
    shutil.copytree(trained, run)
    (run / "result.json").unlink()
    before = tree(run)
    done = sfl("train", "--resume", "a", "--set", "optimizer.lr=0.1")
    assert done.returncode == 2
    assert "--resume a: these settings would make it another experiment (only" in the_error(done)
    assert tree(run) == before


def damaged(trained: Path, here: Path, how: str) -> Path:
    path = here / f"{how}.safetensors"
    content = (trained / "best.safetensors").read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-100])
    elif how == "cut-in-its-head":
        path.write_bytes(content[:50])
    elif how == "pickle":
        path.write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07sfl run\x94.")
    elif how == "foreign":
        from safetensors.numpy import save_file

        save_file({"weight": np.zeros(3, dtype=np.float32)}, path)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("how", "overrides", "words"),
    [
        ("truncated", [], "truncated.safetensors: not a checkpoint, or damaged"),
        ("cut-in-its-head", [], "not a checkpoint, or damaged"),
        ("pickle", [], "not a checkpoint, or damaged"),
        ("foreign", [], "not a checkpoint of sfl"),
        ("whole", ["--set", "model.channels=[7]"], "a checkpoint of another model"),
    ],
)
def test_checkpoints_that_cannot_be_used(
    here: Path, trained: Path, how: str, overrides: list[str], words: str
) -> None:
    path = damaged(trained, here, how)
    done = sfl("evaluate", path, *overrides)
    assert done.returncode == 4, done.stderr
    assert words in the_error(done)


@pytest.mark.parametrize("how", ["truncated", "foreign"])
def test_a_run_is_not_lost_when_its_checkpoint_is_damaged(
    here: Path, trained: Path, how: str
) -> None:
    run = here / "checkpoints" / "a"
    shutil.copytree(trained, run)
    (run / "result.json").unlink()
    shutil.move(damaged(trained, here, how), run / "last.safetensors")
    before = tree(run)
    done = sfl("train", "--resume", "a")
    assert done.returncode == 4
    assert f"{run.relative_to(here)}/last.safetensors: not a checkpoint" in the_error(done)
    after = tree(run)
    after.pop(".lock", None)
    assert after == before


def test_a_full_disk_is_exit_6_and_no_half_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    done = sfl("train", "--config", "tiny.yaml")
    assert done.returncode == 6
    assert "no space left on the disk" in the_error(done)
    assert tree(here).keys() == {"tiny.yaml", "checkpoints"}


# --- what a run leaves behind


def test_a_run_directory_holds_what_the_design_says(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == FILES
    (line,) = (trained / "metrics.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {
        "epoch", "train_loss", "train_accuracy", "lr", "seconds", "images_per_second",
        "peak_memory_bytes",
    }  # fmt: skip
    result = json.loads((trained / "result.json").read_text())
    assert set(result) == {
        "run", "model", "accuracy", "accuracy_interval", "loss", "n", "per_class", "confusion",
        "data", "weights", "weight_bytes", "flops_per_image", "training_flops_per_image",
        "train_images", "peak_memory_bytes", "epochs", "seconds", "seconds_per_epoch",
        "majority_share", "audit", "label",
    }  # fmt: skip
    assert (result["run"], result["model"], result["n"]) == (trained.name, "SimpleModel", 32)
    assert result["weights"] == 171_010
    predictions = np.load(trained / "predictions.npy")
    assert predictions.shape == (32,) and predictions.dtype == np.int64
    confusion = np.array(result["confusion"])
    assert confusion.sum() == 32
    assert np.array_equal(confusion.sum(axis=0), np.bincount(predictions, minlength=10))
    assert result["accuracy"] == confusion.trace() / 32


def without_times(lines: str) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second", "seconds_per_epoch", "peak_memory_bytes", "run")
    return [
        {key: value for key, value in json.loads(line).items() if key not in times}
        for line in lines.splitlines()
    ]


def weights(run: Path) -> dict[str, bytes]:
    """The trained weights, bit for bit. (The file's head holds its entries in any order.)"""
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(run / "best.safetensors").items()}


def test_the_config_of_a_run_repeats_it(trained: Path, runs_dir: Path) -> None:
    config = trained / "config.yaml"
    done = sfl("train", "--config", config, "--runs", runs_dir, "--name", "again", "--json")
    assert done.returncode == 0, done.stderr
    again = runs_dir / "again"
    assert {path.name for path in again.iterdir()} == FILES
    for name in ("config.yaml", "predictions.npy"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    assert weights(again) == weights(trained)
    old, new = ((run / "metrics.jsonl").read_text() for run in (trained, again))
    assert without_times(old) == without_times(new)
    (result,) = without_times(json.dumps(json.loads((trained / "result.json").read_text())))
    assert without_times(json.dumps(json.loads(done.stdout))) == [result]


# --- being stopped


def stopped_by(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when the first epoch is shown."""
    from sfl.progress import TrainingDisplay

    real = TrainingDisplay.epoch

    def epoch(shown: TrainingDisplay, line: dict[str, Any]) -> None:
        real(shown, line)
        monkeypatch.setattr(TrainingDisplay, "epoch", real)
        signal.raise_signal(number)

    monkeypatch.setattr(TrainingDisplay, "epoch", epoch)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_stopped_run_says_how_to_go_on_and_can_be(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    stopped_by(number, monkeypatch)
    two = ("--set", "train.epochs=2")
    done = sfl("train", "--config", "tiny.yaml", *two)
    assert (done.returncode, done.stdout) == (code, "")
    last = done.stderr.rstrip("\n").split("\n")[-1]
    assert last == "stopped; resume with: sfl train --resume checkpoints/tiny-s0"
    (row,) = json.loads(sfl("runs", "--json").stdout)["runs"]
    assert (row["status"], row["epochs_done"], row["epochs"]) == ("interrupted", 1, 2)

    done = sfl(*shlex.split(last.split("sfl ", 1)[1]))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in Path("checkpoints/tiny-s0").iterdir()} == FILES

    assert sfl("train", "--config", "tiny.yaml", *two, "--name", "whole").returncode == 0
    one, other = Path("checkpoints/tiny-s0"), Path("checkpoints/whole")
    assert weights(one) == weights(other)
    assert (one / "predictions.npy").read_bytes() == (other / "predictions.npy").read_bytes()
    lines = [without_times((run / "metrics.jsonl").read_text()) for run in (one, other)]
    assert lines[0] == lines[1]


def test_a_comparison_goes_on_with_what_was_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "other.yaml").write_text(TINY.replace("SimpleModel", "SimpleModel, layer: conv"))
    stopped_by(signal.SIGINT, monkeypatch)
    compare = ("compare", "tiny.yaml", "other.yaml", "--set", "train.epochs=2", "--json")
    assert sfl(*compare).returncode == 130
    done = sfl(*compare)
    assert done.returncode == 0, done.stderr
    assert [row["epochs"] for row in json.loads(done.stdout)["models"]] == [[2], [2]]
    assert sorted(os.listdir("checkpoints")) == ["other-s0", "tiny-s0"]


# --- what is printed where


def json_of(done: "CompletedProcess[str]") -> dict[str, Any]:
    """One JSON object, and nothing else, on standard output."""
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert isinstance(values, dict)
    return values


def test_json_is_one_object_and_nothing_else(here: Path, trained: Path) -> None:
    runs = ("--runs", here / "runs", "--json")
    shutil.copytree(trained, here / "runs" / "tiny-s0")
    (here / "other.yaml").write_text(TINY.replace("SimpleModel", "SimpleModel, layer: conv"))
    result = json.loads((trained / "result.json").read_text())

    evaluated = json_of(sfl("evaluate", *runs))
    assert evaluated.pop("file").endswith("runs/tiny-s0/best.safetensors")
    assert evaluated == {key: result[key] for key in evaluated}
    assert {"accuracy", "accuracy_interval", "loss", "n", "confusion"} <= set(evaluated)

    compared = json_of(sfl("compare", "tiny.yaml", "other.yaml", *runs))
    names = [(row["name"], row["n"]) for row in compared["models"]]
    assert names == [("tiny.yaml", 1), ("other.yaml", 1)]
    assert compared["models"][0]["accuracy"] == result["accuracy"]
    assert sorted(os.listdir("runs")) == ["other-s0", "tiny-s0"]

    listed = json_of(sfl("runs", *runs))["runs"]
    assert {(row["run"], row["status"]) for row in listed} == {
        ("tiny-s0", "finished"),
        ("other-s0", "finished"),
    }
    shown = json_of(sfl("show", "tiny.yaml", *runs))
    assert (shown["model"], shown["weights"]) == ("SimpleModel", 171_010)
    assert json_of(sfl("show", "tiny-s0", *runs)) == shown
    planned = json_of(sfl("train", "--config", "tiny.yaml", "--dry-run", "--json"))
    assert shown["audit"] == planned["audit"] == evaluated["audit"] == result["audit"]
    assert (shown["audit"]["sharing"], shown["audit"]["transport"]) == ("strict", "transports")
    described = json_of(sfl("data", "--config", "tiny.yaml", "--json"))
    assert described["source"] == "shapes" and described["train_images"] == 64


def test_train_prints_its_result_as_json(here: Path) -> None:
    printed = json_of(sfl("train", "--config", "tiny.yaml", "--seed", 3, "--json"))
    assert printed["run"] == "tiny-s3"
    assert printed == json.loads((here / "checkpoints/tiny-s3/result.json").read_text())


def test_a_dry_run_trains_nothing(here: Path) -> None:
    done = sfl("train", "--config", "tiny.yaml", "--dry-run")
    assert done.returncode == 0
    assert "name: SimpleModel" in done.stdout and "SpatialFeatureLayer" in done.stdout
    planned = json_of(sfl("train", "--config", "tiny.yaml", "--dry-run", "--json"))
    assert planned["weights"] == 171_010
    assert planned["threads"] >= 1
    done = sfl("train", "--config", "tiny.yaml", "--dry-run", "--set", "train.threads=3")
    assert "  threads: 3\n" in done.stdout and done.stdout.endswith("\nthreads: 3\n")
    done = sfl("train", "--config", "tiny.yaml", "--dry-run", "--set", "data.validation=64")
    assert (done.returncode, done.stdout) == (2, "") and "leave none for training" in done.stderr
    assert tree(here).keys() == {"tiny.yaml"}


def test_results_go_to_stdout_and_progress_to_stderr(here: Path) -> None:
    done = sfl("train", "--config", "tiny.yaml")
    assert re.fullmatch(
        r"test accuracy \d+\.\d\d% \(95 % interval .*, 32 images\)  loss .*\n"
        r"always answering disk gets 12\.50%: classes are unequal\nlabel: pure\n",
        done.stdout,
    )
    assert "epoch 1/1  loss " in done.stderr
    assert "saved in checkpoints/tiny-s0\n" in done.stderr
    following = done.stderr.rstrip("\n").split("\n")[-1]
    assert following == "next: sfl evaluate checkpoints/tiny-s0"
    assert sfl(*following.removeprefix("next: sfl ").split()).returncode == 0


ODD_ROOTS = ["images #2", "a: b", "it's $HOME \\", "a\nb", "a\n", "😀"]


@pytest.mark.parametrize("root", ODD_ROOTS)
def test_the_command_that_is_printed_tests_on_the_same_images(root: str, here: Path) -> None:
    """Read by sh; beside a folder whose name is the beginning of the other's."""
    for name, colour in ((root, "red"), (re.split(r"[^a-z]", root)[0] or "b", "blue")):
        for place in ("train/x", "train/y", "test/x", "test/y"):
            folder = here / name / place
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour).save(folder / "1.png")
    settings = ("data.source=folder", f"data.root={here / root}")
    done = sfl("train", "--config", "tiny.yaml", *(f"--set={given}" for given in settings))
    assert done.returncode == 0, done.stderr
    following = done.stderr.rstrip("\n").split("\n")[-1].removeprefix("next: ")
    script = f"sfl() {{ printf '%s\\0' \"$@\"; }}\n{following}"
    words = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    evaluated = sfl(*words.decode().split("\0")[:-1])
    assert evaluated.returncode == 0, evaluated.stderr
    assert "these are not the images of its run" not in evaluated.stderr


def test_tables_for_people(here: Path, trained: Path) -> None:
    runs = ("--runs", trained.parent)
    evaluated = sfl("evaluate", *runs).stdout
    assert evaluated.startswith("test accuracy ") and "\ncrescent " in evaluated
    assert "tiny-s0  finished     1/1" in sfl("runs", *runs).stdout
    assert "171,010" in sfl("show", "tiny-s0", *runs).stdout
    assert "train images" in sfl("data", "--config", "tiny.yaml").stdout


def test_without_runs_there_is_a_hint(here: Path) -> None:
    done = sfl("runs")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "checkpoints: no runs yet; train one: sfl train --config configs/quickstart.yaml\n"
    )


def test_sfl_runs_may_stand_in_the_environment(
    here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFL_RUNS", str(trained.parent))
    assert json_of(sfl("runs", "--json"))["runs"][0]["run"] == "tiny-s0"


def test_a_home_that_no_shell_expands(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFL_RUNS='~/runs' once made a folder named ~."""
    make_run(here / "home" / "runs" / "a")
    monkeypatch.setenv("HOME", str(here / "home"))
    assert json_of(sfl("runs", "--runs=~/runs", "--json"))["runs"][0]["run"] == "a"
    monkeypatch.setenv("SFL_RUNS", "~/runs")
    assert json_of(sfl("runs", "--json"))["runs"][0]["run"] == "a"
    assert sfl("runs", "--runs", "other", "rm", "a", "--runs=~/runs", "--yes").returncode == 0
    for place in ("train/x", "test/x"):
        (here / "home" / "images" / place).mkdir(parents=True)
        (here / "home" / "images" / place / "1.png").write_bytes(png())
    images = ("--set", "data.source=folder", "--set", "data.root=~/images")
    assert sfl("data", *images).returncode == 0
    lost = sfl("data", *images[:-1], "data.root=~nobody-of-this-name/x")
    assert (lost.returncode, "~nobody-of-this-name/x" in lost.stderr) == (3, True)
    assert not (here / "~").exists()


# --- deleting


@pytest.fixture
def three(here: Path) -> Path:
    root = here / "checkpoints"
    for name in ("a", "b", "c"):
        make_run(root / name)
    return root


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_runs_rm_asks_and_takes_no_for_an_answer(three: Path, answer: str) -> None:
    done = sfl("runs", "rm", "a", stdin=answer)
    assert done.returncode == 130
    assert "checkpoints/a  finished" in done.stderr and "Delete 1 run? [y/N]" in done.stderr
    no_answer = "stopped, nothing was done (--yes answers the question)\n"
    assert done.stderr.endswith("nothing was deleted\n" if answer else no_answer)
    assert "error" not in done.stderr  # the user decided so
    assert sorted(os.listdir(three)) == ["a", "b", "c"]


def test_runs_rm_deletes_what_was_named(three: Path) -> None:
    assert sfl("runs", "rm", "a", "checkpoints/c", "a", stdin="y\n").returncode == 0
    assert os.listdir(three) == ["b"]


def test_runs_rm_deletes_nothing_where_one_is_unknown(three: Path) -> None:
    assert sfl("runs", "rm", "a", "none", "--yes").returncode == 4
    assert sorted(os.listdir(three)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "arguments", [["--runs", "other", "rm", "a"], ["rm", "a", "--runs", "other"]]
)
def test_runs_rm_deletes_in_the_folder_that_was_meant(three: Path, arguments: list[str]) -> None:
    make_run(three.parent / "other" / "a")
    assert sfl("runs", *arguments, "--yes").returncode == 0
    assert (three / "a").is_dir() and not (three.parent / "other" / "a").exists()


def test_runs_rm_takes_the_folder_of_the_environment(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(three.parent / "other" / "a")
    monkeypatch.setenv("SFL_RUNS", "other")
    assert sfl("runs", "rm", "a", "--yes").returncode == 0
    assert (three / "a").is_dir() and not (three.parent / "other" / "a").exists()


# --- as a process


def test_help_and_version() -> None:
    from importlib.metadata import version

    assert sfl("--version").stdout == f"sfl {version('sfl')}\n"
    for arguments in ((), ("--help",)):
        done = sfl(*arguments)
        assert done.returncode == 0
        for command in ("train", "evaluate", "compare", "show", "data", "runs", "--debug"):
            assert f"  {command}" in done.stdout


COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
COMMANDS += ["runs", "runs rm"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str) -> None:
    done = sfl(*command.split(), "--help")
    assert done.returncode == 0
    assert f"sfl {command}" in done.stdout.split("Example", 1)[1]


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_help_fits_and_is_whole(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = sfl(*command.split(), "--help").stdout.split("\n")
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(("...", "…")) and "Usage" not in line]


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "sfl"], [str(Path(sys.executable).with_name("sfl"))]]
)
def test_as_a_process_of_its_own(command: list[str], here: Path) -> None:
    if not Path(command[0]).exists():
        pytest.skip("no console script beside this Python")
    done = subprocess.run(
        [*command, "train", "--config", "none"], capture_output=True, text=True, cwd=here
    )
    assert done.returncode == 2
    assert the_error(done).startswith("none: no such config")


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [
        (["--help"], "stdout"),
        (["runs", "--json"], "stdout"),
        (["show", "tiny.yaml"], "stdout"),
        (["train", "--config", "tiny.yaml"], "stderr"),  # its progress has a reader no more
    ],
)
def test_whoever_stops_reading_does_no_harm(here: Path, arguments: list[str], closed: str) -> None:
    """`sfl … | head`, in a process of its own: click and rich would end it with 1."""
    reading, writing = os.pipe()
    os.close(reading)
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "sfl", *arguments]
    process = subprocess.Popen(command, **(streams | {closed: writing}))  # type: ignore[call-overload]
    os.close(writing)
    output, error = process.communicate(timeout=120)
    assert (process.returncode, error or b"") == (0, b"")
    if closed == "stderr":
        assert output.startswith(b"test accuracy ")


def test_closed_streams_do_no_harm(here: Path) -> None:
    command = f"{sys.executable} -m sfl show tiny.yaml >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_results_that_cannot_be_written(here: Path) -> None:
    command = f"{sys.executable} -m sfl show tiny.yaml >/dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done.stderr
    assert "no space left on the disk" in done.stderr


def test_an_unknown_engine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFL_ENGINE", "plain")
    done = sfl("show", "simple")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: SFL_ENGINE is 'plain': expected reference, or leave it out\n"
