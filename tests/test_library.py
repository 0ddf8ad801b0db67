"""sfl.train, sfl.evaluate, sfl.compare, sfl.grid: what the commands do, from Python."""

import ast
import inspect
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfl
from sfl.errors import Exit
from sfl.library import as_overrides
from tests.conftest import TINY, call_sfl

DOCS = Path(__file__).parent.parent / "docs"
DICT: Any = {"a": 1}
LIST: Any = ["a", "b"]
INTEGER: Any = np.int64(0)


def stripped(values: Any) -> Any:
    """Without times and speeds."""
    return {
        key: value for key, value in values.items() if "second" not in key and "peak" not in key
    }


def test_train_is_sfl_train(tiny: Path, trained: Path, tmp_path: Path) -> None:
    run = sfl.train(tiny, runs=tmp_path, seed=0)
    assert run.path == tmp_path / "tiny-s0"
    written = json.loads((run.path / "result.json").read_text())
    assert run.to_dict() == written
    assert stripped(written) == stripped(json.loads((trained / "result.json").read_text()))
    assert run.config.train.seed == 0
    assert repr(run) == str(run) and repr(run).startswith("test accuracy ")
    assert repr(run).endswith(f"saved in {run.path}") and repr(run).count("\n") < 4
    assert "<table>" in run._repr_html_() and str(run.path) in run._repr_html_()
    assert sfl.load_run(run).config == run.config


def test_settings_are_nested_or_dotted_and_of_any_number(tiny: Path, tmp_path: Path) -> None:
    given = {
        "optimizer.lr": np.float32(0.5),
        "train": {"epochs": np.int64(2), "tensorboard": False},
        "data": {"root": Path("a b"), "augment": {"flip": True}},
        "model": {"kernel_sizes": [np.int64(3), 3], "storage": None},
        "data.normalize.mean": np.array([0.5, 0.25, 0.5]),
    }
    overrides = as_overrides(given)
    assert overrides == [
        "optimizer.lr=0.5", "train.epochs=2", "train.tensorboard=false", "data.root=a b",
        "data.augment.flip=true", "model.kernel_sizes=[3, 3]", "model.storage=null",
        "data.normalize.mean=[0.5, 0.25, 0.5]",
    ]  # fmt: skip
    with pytest.raises(sfl.UserError, match="did you mean train"):
        sfl.train(tiny, runs=tmp_path / "runs", epochs=3)
    assert not (tmp_path / "runs").exists()


def test_evaluate_is_sfl_evaluate(trained: Path) -> None:
    tested = sfl.evaluate("tiny-s0", runs=trained.parent)
    printed = call_sfl("evaluate", "tiny-s0", "--runs", trained.parent, "--json")
    assert tested.to_dict() == json.loads(printed.stdout)
    assert sum(answer["correct"] for answer in tested.answers) == tested.accuracy * tested.n
    assert tested.file in tested._repr_html_()
    assert sfl.evaluate(trained / "best.safetensors").accuracy == tested.accuracy


def test_compare_is_sfl_compare(
    tmp_path: Path, made_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the package's name, whichever of its modules were imported before."""
    made_run(tmp_path / "<a>", right=[True] * 30 + [False] * 10)
    conv = TINY.replace("SimpleModel", "SimpleModel, layer: conv")
    other = made_run(tmp_path / "b", conv, right=[True] * 20 + [False] * 20)
    import sfl.comparison.plan

    monkeypatch.setenv("SFL_RUNS", str(tmp_path))
    monkeypatch.setattr("sfl.pictures.has_matplotlib", lambda: False)  # drawing takes long
    compared = sfl.compare("<a>", other, no_train=True, out=tmp_path / "report")
    printed = call_sfl("compare", "<a>", other, "--runs", tmp_path, "--no-train", "--json")
    assert compared.to_dict() == json.loads(printed.stdout)
    assert (tmp_path / "report" / "report.html").exists()
    assert re.fullmatch(r"<Compared: <a> [\d.]+ %, b [\d.]+ %>", repr(compared))
    assert str(compared).startswith("|  | ") and "**Methods.**" in str(compared)
    html = compared._repr_html_()
    assert "<th scope=col>&lt;a&gt;</th><th scope=col>b</th>" in html
    assert html.count("<tr") > 10
    assert list(inspect.signature(sfl.compare).parameters)[:2] == ["models", "seeds"]


@pytest.mark.parametrize(
    ("call", "said", "code"),
    [
        (lambda: sfl.compare("conv", "spatial", seeds=0), "seeds=0", Exit.USAGE),
        (lambda: sfl.compare("a", "b", jobs_per_gpu="2"), "jobs_per_gpu=2", Exit.USAGE),  # type: ignore[arg-type]
        (lambda: sfl.compare("conv", "spatial", target=50), "target=50", Exit.USAGE),
        (lambda: sfl.compare("conv", "spatial", jobs=0), "--jobs 0", Exit.USAGE),
        (lambda: sfl.grid("grids/small", jobs_per_gpu=0), "jobs_per_gpu=0", Exit.USAGE),
        (lambda: sfl.grid("grids/smal"), "did you mean", Exit.USAGE),
        (lambda: sfl.train(), "train needs", Exit.USAGE),
        (lambda: sfl.train("conv", resume="a"), "train needs", Exit.USAGE),
        (lambda: sfl.train(resume="a", seed=1), "--resume can be used", Exit.USAGE),
        (lambda: sfl.train(resume="a"), "no such run", Exit.RUN),
        (lambda: sfl.evaluate(), "no finished run", Exit.RUN),
        (lambda: sfl.train(DICT), "config: expected a name or a path, not a dict", Exit.USAGE),
        (
            lambda: sfl.compare(LIST),
            "model: expected a name or a path, not a list",
            Exit.USAGE,
        ),
        (lambda: sfl.compare("conv", "spatial", seeds=INTEGER), "seeds=0", Exit.USAGE),
    ],
)
def test_mistakes_are_user_errors(
    call: Callable[[], object], said: str, code: Exit, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sfl.UserError, match=re.escape(said)) as caught:
        call()
    assert caught.value.exit_code == code
    assert not list(tmp_path.iterdir())


def test_a_stopped_cell_raises_what_python_raises(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.training.looks.asked", lambda: signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        sfl.train(tiny, runs=tmp_path, name="one")
    monkeypatch.undo()
    assert sfl.train(resume=tmp_path / "one").path == tmp_path / "one"


def test_grid_and_resume(tiny: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(f"base: {tiny}\naxes:\n  rate: {{low: {{}}, high: {{optimizer.lr: 1e-3}}}}\n")
    found = sfl.grid(study, runs=tmp_path / "runs", train={"seed": 3})
    assert found.grid is not None
    assert [model.seeds for model in found.models] == [[3], [3]]
    run = sfl.train(resume=tmp_path / "runs" / found.models[0].runs[0], train={"epochs": 2})
    assert run.epochs == 2


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "library.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["run"].path == Path("checkpoints/simple-s1")


def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each cell as a notebook does, on fewer images; what a cell ends with is shown."""
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    shown: list[Any] = []
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in code:
        text = "".join(cell["source"]).replace("= 3, 5000, 1000", "= 1, 64, 32")
        *before, last = ast.parse(text).body
        exec(compile(ast.Module(before, []), "tutorial", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "tutorial", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "tutorial", "exec"), names)
    assert (names["EPOCHS"], names["TRAIN"]) == (1, 64)
    assert [type(one).__name__ for one in shown if hasattr(one, "to_dict")] == [
        "TrainedRun", "Compared", "Compared"
    ]  # fmt: skip
    assert "24,300 weights that are not zero\n2,764,800 after one step" in capsys.readouterr().out
    assert len(names["figure"].axes) == 100
    assert [model.transport for model in names["rules"].models] == [
        "transports", "strict", "strict"
    ]  # fmt: skip
    names["plt"].close(names["figure"])
