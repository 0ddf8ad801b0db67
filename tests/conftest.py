"""What all tests share. Imports nothing of sfl and no torch: some tests look at sys.modules."""

import contextlib
import io
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    """What a shell starts with `&` or nohup ignores signals, and so would all that tests start."""
    # Where a test doesn't say how many examples it wants; with --slow, hypothesis' usual hundred.
    # Without a deadline: no test asserts a time.
    count = 100 if config.getoption("--slow") else 30
    settings.register_profile("quick", settings.default, max_examples=count, deadline=None)
    settings.load_profile("quick")
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


@pytest.fixture(autouse=True)
def _no_settings_of_yours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test must neither read nor write the run directories of whoever runs it.

    Nor may what it expects depend on how busy the machine is.
    """
    monkeypatch.delenv("SFL_RUNS", raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Where a test's run directories live; not made yet, as for a new user."""
    return tmp_path / "runs"


def call_sfl(*arguments: object, stdin: str = "") -> "CompletedProcess[str]":
    """Runs a command line as the console script does, but in this process."""
    from sfl.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["sfl", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # main sets it; here it must go again
        try:
            with pytest.raises(SystemExit) as exit_:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
    code = exit_.value.code
    assert isinstance(code, int)
    return CompletedProcess(list(map(str, arguments)), int(code), out.getvalue(), err.getvalue())


def refusal(code: int, call: Callable[..., object], *arguments: object, **keywords: object) -> str:
    """The line that the user sees, with that exit code, instead of what is called."""
    from sfl.errors import UserError

    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    line = str(caught.value)
    assert caught.value.exit_code == code and "\n" not in line
    return line


@pytest.fixture(scope="session")
def sfl() -> "Callable[..., CompletedProcess[str]]":
    """`sfl("train", "--config", …)`: returncode, stdout, stderr."""
    return call_sfl


TINY = """\
model: {name: SimpleModel}
data: {source: shapes, shapes: {train: 64, test: 32}}
train: {epochs: 1, device: cpu, precision: float32}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that trains in well under a second."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that `sfl train` has really made. To be read only: all tests share it."""
    root = tmp_path_factory.mktemp("trained") / "runs"
    done = call_sfl("train", "--config", tiny, "--runs", root)
    assert done.returncode == 0, done.stderr
    return root / "tiny-s0"


ENVIRONMENT = {
    "sfl": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.14.1"}, "system": "Linux x86_64",
    "device": "a CPU", "threads": 2, "precision": "float32", "git": None,
}  # fmt: skip


def make_run(
    path: Path,
    config: str = TINY,
    right: "Sequence[bool] | None" = None,
    environment: "dict[str, object] | None" = None,
    **result: object,
) -> Path:
    """A finished run directory, made up without training: its small files, no tensors.

    right: which of the test images it gets right; None: as many of the first as its accuracy says.
    environment, result: in what environment.json and result.json differ from the usual ones.
    """
    import numpy as np

    from sfl.config.load import from_text

    values: dict[str, Any] = {
        "run": path.name, "model": "SimpleModel", "accuracy": 0.5, "accuracy_interval": [0.4, 0.6],
        "loss": 1.5, "n": 100, "per_class": {"disk": 0.75, "ring": 0.25},
        "confusion": [[3, 1], [3, 1]], "data": {"source": "shapes", "train": "aa", "test": "bb"},
        "weights": 1000, "weight_bytes": 4000, "flops_per_image": 2000,
        "training_flops_per_image": 5000, "train_images": 64, "peak_memory_bytes": 1_000_000,
        "epochs": 1, "seconds": 2.0, "seconds_per_epoch": 2.0,
    }  # fmt: skip
    values |= result
    if right is None and isinstance(values["accuracy"], float):
        count = round(values["accuracy"] * values["n"])
        right = [place < count for place in range(values["n"])]
    elif right is not None:
        values |= {"n": len(right), "accuracy": sum(right) / len(right)}
    labels = np.arange(values["n"]) % 2
    path.mkdir(parents=True)
    np.save(path / "labels.npy", labels)
    np.save(path / "predictions.npy", np.where(right if right else False, labels, 1 - labels))
    (path / "config.yaml").write_text(from_text(config, path.name).to_yaml(share=True))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT | (environment or {})))
    line = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "lr": 3e-4, "seconds": 2.0}
    line |= {"images_per_second": 32.0, "peak_memory_bytes": 1_000_000}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (path / "result.json").write_text(json.dumps(values))
    return path


@pytest.fixture(scope="session")
def made_run() -> Callable[..., Path]:
    return make_run
