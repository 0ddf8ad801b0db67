"""What runs found on copies of the test images, in comparisons: means, rows, columns, pictures."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from sfl.comparison.compute import compare
from sfl.comparison.copies import of_copies
from sfl.comparison.model import ComparedModel
from sfl.comparison.results import read_result
from sfl.comparison.schema import Comparison
from sfl.comparison.sentences import OTHER_CORRUPTIONS
from sfl.comparison.table import rows, to_csv
from sfl.config.load import from_text
from sfl.errors import UserError
from sfl.plots import copies
from sfl.runs.directory import COPIES, Run
from tests.conftest import TINY, make_run


def shifts(*accuracies: float, pixels: int = 1) -> dict[str, Any]:
    size = 2 * pixels + 1
    rows = [[accuracies[0]] * size for _ in range(size)]
    rows[0][-1] = accuracies[-1]
    return {"shifts": {"pixels": pixels, "fill": "black", "accuracy": rows}}


def views(accuracy: float, count: int = 18) -> dict[str, Any]:
    more = {"accuracy_interval": [0.1, 0.9], "loss": 1.0}
    return {"views": {"count": count, "fill": "black", "accuracy": accuracy, **more}}


def corrupted(*fog: float) -> dict[str, Any]:
    mean = {"mean_error": sum(fog) / len(fog), "in_the_mean": ["fog"]}
    return {"corrupted": {"error": {"fog": list(fog)}, **mean}}


def model(path: Path, name: str, *kept: dict[str, Any] | None) -> ComparedModel:
    """With a run for each of the kept results; None: nothing was kept."""
    results = []
    for seed, found in enumerate(kept):
        config = TINY.replace("epochs: 1", f"epochs: 1, seed: {seed}")
        run = make_run(path / f"{name}-s{seed}", config)
        if found is not None:
            (run / COPIES).write_text(json.dumps(found))
        results.append(read_result(Run(run)))
    return ComparedModel(name, from_text(TINY, "c.yaml"), results=results)


def test_means_over_the_runs_that_were_tested_in_the_same_way(tmp_path: Path) -> None:
    kept = [None, shifts(0.5, 0.8) | views(0.6), shifts(0.3, 0.4) | views(0.8, 50)]
    found = of_copies(model(tmp_path, "a", *kept, shifts(0.9, pixels=2)))
    assert found["shifts"].runs == 2 and found["shifts"].pixels == 1
    assert found["shifts"].accuracy[0] == pytest.approx([0.4, 0.4, 0.6])
    assert found["shifts"].mean == pytest.approx((8 * 0.4 + 0.6) / 9)
    assert (found["views"].count, found["views"].runs, found["views"].accuracy) == (18, 1, 0.6)
    assert "corrupted" not in found


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    kept = shifts(0.5) | views(0.6) | corrupted(0.2, 0.4)
    first = model(tmp_path, "a", kept, corrupted(0.4, 0.6))
    return compare([first, model(tmp_path, "b", None)])


def test_they_are_rows_of_the_table(compared: Comparison) -> None:
    found = dict(rows(compared))
    assert found["accuracy, mean over views"] == ["60.00 % (18 views; 1 of 2 runs)", ""]
    assert found["accuracy, images moved"] == ["50.00 % (up to 1 pixels; 1 of 2 runs)", ""]
    assert found["error, images corrupted"] == ["40.00 % (mean of 1)", ""]


def test_means_over_other_corruptions_are_told_apart(tmp_path: Path) -> None:
    other = {"error": {"frost": [0.3]}, "mean_error": 0.3, "in_the_mean": ["frost"]}
    first, second = model(tmp_path, "a", corrupted(0.2)), model(tmp_path, "b", corrupted(0.3))
    third = model(tmp_path, "c", {"corrupted": other})
    assert OTHER_CORRUPTIONS not in compare([first, second]).remarks
    assert OTHER_CORRUPTIONS in compare([first, third]).remarks


def test_csv_has_the_same_columns_with_and_without_them(
    compared: Comparison, tmp_path: Path
) -> None:
    without = compare([model(tmp_path / "c", name, None) for name in "ab"])
    every = views(0.6) | shifts(0.5) | corrupted(0.2)
    all_of_them = compare([model(tmp_path / "d", name, every) for name in "ab"])
    one, other, third = (
        list(csv.DictReader(io.StringIO(to_csv(each)))) for each in (compared, without, all_of_them)
    )
    assert list(one[0]) == list(other[0]) == list(third[0])
    assert one[0]["corrupted.mean_error"] == "0.4" and one[1]["shifts.mean"] == ""
    assert json.loads(compared.model_dump_json())["models"][0]["shifts"]["accuracy"]


def test_pictures_show_every_model_that_has_them(compared: Comparison) -> None:
    first = compared.models[0]
    assert first.shifts and first.corrupted
    five = {f"m{n}": first.model_copy(update={"corrupted": None}) for n in range(5)}
    both = dict.fromkeys("ab", first.model_copy(update={"shifts": None}))
    maps, errors = copies.pictures(five | both, "title")
    drawn, bars = Figure(figsize=maps.size), Figure(figsize=errors.size)
    maps.draw(drawn)
    titles = [axes.get_title("left") or axes.get_title() for axes in drawn.axes]
    runs = first.shifts.runs
    assert [title for title in titles if title] == [f"{name}, n = {runs}" for name in five]
    errors.draw(bars)
    (axes,) = bars.axes
    found: list[Any] = [line.get_xdata() for line in axes.lines]
    means, severities = [pytest.approx(40)], pytest.approx([30, 50])
    assert [list(each) for each in found] == [severities, means] * 2
    assert copies.pictures({"c": compared.models[1]}, "title") == []


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copies.json: missing or wrong: shifts"):
        of_copies(model(tmp_path, "a", {"shifts": {"pixels": "many"}}))
