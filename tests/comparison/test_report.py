"""One comparison, five outputs: the same numbers in all of them; whole pages and pictures."""

import csv
import html
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from subprocess import CompletedProcess

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from sfl.comparison.markdown import escaped
from sfl.comparison.schema import Comparison
from sfl.comparison.table import rows
from tests.conftest import call_sfl as sfl
from tests.conftest import make_run

ROOT = Path(__file__).parent.parent.parent
CONV = "model: {name: SimpleModel, layer: conv}"
SPATIAL = "model: {name: SimpleModel}"
DATA = "\ndata: {source: shapes, shapes: {train: 64, test: 40}}\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two models of two seeds each, whose images are not at hand; the arguments that name them."""
    monkeypatch.chdir(tmp_path)
    for name, model, accuracies, seconds in (
        ("conv", CONV, (0.7, 0.75), 3.21),
        ("a b|c", SPATIAL, (0.55, 0.5), 7.65),
    ):
        for seed, accuracy in enumerate(accuracies):
            make_run(
                tmp_path / "runs" / f"{name}-s{seed}",
                f"{model}{DATA}train: {{seed: {seed}}}\n",
                right=[place < 40 * accuracy for place in range(40)],
                seconds=seconds + seed,
                weights=1_376_242 + len(name),
                loss=1.2345 + seed,
            )
    return ["conv-s0", "a b|c-s0", "conv-s1", "a b|c-s1", "--no-train", "--runs", "runs"]


def compare(made: list[str], *more: str) -> str:
    done = sfl("compare", *made, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_json_is_what_its_schema_says(made: list[str]) -> None:
    values = json.loads(compare(made, "--json"))
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(values, schema, cls=jsonschema.Draft202012Validator)
    assert values["schema_version"] == 1
    for broken in (
        {**values, "schema_version": 2},
        {**values, "more": 1},
        {key: value for key, value in values.items() if key != "conclusion"},
        {**values, "models": [{**values["models"][0], "accuracy": "high"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema, cls=jsonschema.Draft202012Validator)


def test_all_outputs_say_the_same(made: list[str], tmp_path: Path) -> None:
    """The JSON holds the numbers; every other output shows them, rounded as `rows` rounds."""
    out = tmp_path / "report"
    values = json.loads(compare(made, "--json", "--out", str(out)))
    comparison = Comparison.model_validate(values)
    expected = rows(comparison)
    names = [model.name for model in comparison.models]
    assert names == ["conv", "a b|c"]
    # By hand: that `rows` itself shows what the JSON holds.
    text = dict(expected)
    assert text["test accuracy"] == ["72.50 %", "52.50 %"]
    assert text["sd, points"] == ["3.54", "3.54"]  # 0.05 / √2
    assert text["95 % interval"] == ["40.73 % to 100.00 %", "20.73 % to 84.27 %"]  # ± 12.706 · 2.5
    assert text["loss"] == ["1.734", "1.734"]
    assert text["images that only this model gets right"] == ["–", "0"]
    assert text["runs (seeds)"][0] == "2 (0, 1)"
    assert text["difference from the first, points"] == ["–", "−20.00"]
    assert text["weights"] == ["1,376,246", "1,376,247"]
    assert text["training time"] == ["3.7 s", "8.2 s"]
    assert [m["accuracy"] for m in values["models"]] == pytest.approx([0.725, 0.525])

    terminal = compare(made)
    for label, cells in expected:
        line = next(one for one in terminal.splitlines() if one.strip().startswith(label.strip()))
        assert all(cell in line for cell in cells), (label, cells, line)
    for line in (*comparison.remarks, *comparison.conclusion):
        assert line in terminal

    for markdown in (compare(made, "--markdown"), (out / "report.md").read_text()):
        lines = [line for line in markdown.splitlines() if line.startswith("| ")]
        assert lines[0] == "|  | conv | a b\\|c |"
        assert lines[2:] == [
            f"| {label.strip()} | {' | '.join(cells)} |" for label, cells in expected
        ]
        assert all(line in markdown for line in (*comparison.remarks,))

    page = (out / "report.html").read_text().replace("&nbsp;", " ")
    cells = re.findall(r"<th scope=row[^>]*>(.*?)</th>(.*?)</tr>", page)
    found = [
        (html.unescape(cell[0]), list(map(html.unescape, re.findall(r"<td>(.*?)</td>", cell[1]))))
        for cell in cells
    ]
    assert found == [(label.strip(), row) for label, row in expected]
    assert all(html.escape(line) in page for line in comparison.conclusion)

    for table in (compare(made, "--csv"), (out / "comparison.csv").read_text()):
        for row, model in zip(csv.DictReader(table.splitlines()), values["models"], strict=True):
            for key in ("name", "accuracy", "accuracy_sd", "loss", "weights", "seconds"):
                assert row[key] == str(model[key])
            assert float(row["accuracy_interval_low"]) == model["accuracy_interval"][0]
        difference = values["differences"][0]
        assert float(row["difference.accuracy"]) == difference["accuracy"]
        assert float(row["difference.welch.p"]) == difference["welch"]["p"]
        assert int(row["difference.only_first"]) == len(difference["only_first"])
    assert json.loads((out / "comparison.json").read_text()) == values


def test_what_each_model_shares_and_transports(tmp_path: Path) -> None:
    """Its grades in the table, its layers in the page; of runs that don't say it, nothing."""
    layer = {
        "name": "features.3", "kind": "Conv2d", "sharing": "shared", "shared": 1234, "places": 25,
        "statistics": 0, "transport": "signs", "transported": 5000, "bits": 5000, "own_scales": 0,
    }  # fmt: skip
    sums = {key: value for key, value in layer.items() if key not in ("name", "kind", "places")}
    audit = {**sums, "in_words": ["grade of sharing, shared: <all>"], "layers": [layer]}
    make_run(tmp_path / "runs" / "new", f"{CONV}{DATA}", audit=audit)
    make_run(tmp_path / "runs" / "old", f"{SPATIAL}{DATA}")
    arguments = ("compare", "new", "old", "--no-train", "--runs", tmp_path / "runs")
    done = sfl(*arguments, "--json", "--out", tmp_path / "out")
    comparison = Comparison.model_validate_json(done.stdout)
    text = dict(rows(comparison))
    assert text["sharing"] == ["shared", "–"] and text["weight transport"] == ["signs", "–"]
    page = (tmp_path / "out" / "report.html").read_text()
    ((heading, section),) = re.findall(r"<h2>(\w+:.*?)</h2>(.*?)</ul>", page, re.DOTALL)
    assert heading.startswith("new:")
    cells = re.findall(r"<t[dh](?: scope=row)?>(.*?)</t", section)[1:]
    assert cells[:6] == ["features.3", "shared", "1,234 × 25", "signs", "5,000", "5.0 k"]
    assert cells[6:] == ["all", "shared", "1,234", "signs", "5,000", "5.0 k"]
    assert "<li>grade of sharing, shared: &lt;all&gt;</li>" in section


def test_what_cannot_reach_a_target_is_not_trained_first(tmp_path: Path, tiny: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny.read_text().replace("epochs: 1", "epochs: 1, test_every: 1"))
    done = sfl("compare", tiny, other, "--target", "0.5", "--runs", tmp_path / "runs")
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    assert f"{tiny} has data.validation: 0, train.test_every: 0" in the_error(done)


def test_pictures_of_an_earlier_report_go(made: list[str], tmp_path: Path) -> None:
    compare(made, "--out", "report")
    for mine in ("mine.png", "confusion-conv.pdf"):
        (tmp_path / "report" / mine).write_text("")
    (tmp_path / "runs" / "conv-s0").rename(tmp_path / "runs" / "first-s0")
    (tmp_path / "runs" / "conv-s1").rename(tmp_path / "runs" / "first-s1")
    renamed = [name.replace("conv", "first") for name in made]
    compare(renamed, "--out", "report")
    there = {path.name for path in (tmp_path / "report").iterdir()}
    assert there > {"confusion-first.svg", "mine.png", "confusion-conv.pdf"}
    assert [name for name in there if "conv" in name] == ["confusion-conv.pdf"]
    assert ".lock" not in there


@pytest.mark.parametrize(
    "name", ["$x_1$", "${body}", 'a*b_c`&lt;"', "n" * 100, "ü ñ 猫", "猫" * 60, "=1+1"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    """Neither mathematics nor a template nor a formula, nor too long for a file's name."""
    for each, config in ((name, CONV), ("other", SPATIAL)):
        path = tmp_path / "runs" / f"{each}-s0"
        classes = {f"{name}1": 0.75, f"{name}<&\n\x01\u202e": 0.25}
        make_run(path, f"{config}{DATA}", right=[True, False], per_class=classes)
    arguments = ("compare", f"{name}-s0", "other-s0", "--runs", tmp_path / "runs", "--no-train")
    done = sfl(*arguments, "--out", tmp_path / "report", "--csv", "--data-name", f"{name}\n<&")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") <= 6  # no flood of letters without a font
    row = next(csv.DictReader(io.StringIO(done.stdout)))
    assert row["name"] == ("'" if name.startswith("=") else "") + name
    for svg in (tmp_path / "report").glob("*.svg"):
        ElementTree.parse(svg)
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"<h1>{html.escape(name)} and other</h1>" in page
    assert f"# {escaped(name)} and other" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b & $x_1$ ~c~ &lt;", "a\\|b \\& \\$x\\_1\\$ \\~c\\~ \\&lt;"),
        ("a\nb\u202e", "a�b�"),  # a row of a table stays one
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        (">a", "\\>a"),
        ("+6.25", "+6.25"),
        ("72.50 %", "72.50 %"),
        ("---", "---"),
    ],
)
def test_no_sign_has_a_meaning_in_markdown(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_the_page_needs_nothing_else(made: list[str], tmp_path: Path) -> None:
    compare(made, "--out", "report", "--data-name", "Dots & <lines>")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Dots &amp; &lt;lines&gt;: 64 images to train on, 40 to test on" in page
    assert "{{" not in page
    links = re.findall(r'(?:src|srcset|href)="([^"]{0,40})', page)
    assert links and all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert page.count("prefers-color-scheme: dark") == 1 + page.count("<figure>")
    assert 'name="viewport"' in page
    markdown = (tmp_path / "report" / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (tmp_path / "report" / name).exists()


def test_pictures_are_whole_and_the_same_again(made: list[str], tmp_path: Path) -> None:
    done = sfl("compare", *made, "--out", "report")
    assert "no pictures of single images: shapes: these are not the images" in done.stderr
    folder = tmp_path / "report"
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {
        "accuracy", "loss", "accuracy-by-weights", "accuracy-by-flops", "accuracy-by-time",
        "classes", "confusion-conv", "confusion-a-b-c", "confusion-a-b-c-against-conv",
    }  # fmt: skip
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in names:
        ElementTree.parse(folder / f"{name}.svg")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert picture.mode == "RGBA"
    compare(made, "--out", "report")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_images_on_which_they_disagree(tmp_path: Path, tiny: Path) -> None:
    """Two trained models, whose images can be drawn again."""
    conv = tmp_path / "conv.yaml"
    conv.write_text(tiny.read_text().replace("SimpleModel", "SimpleModel, layer: conv"))
    arguments = ("compare", str(tiny), str(conv), "--runs", str(tmp_path / "runs"), "--json")
    done = sfl(*arguments, "--out", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    difference = json.loads(done.stdout)["differences"][0]
    assert difference["only_first"] or difference["only_second"]
    assert list((tmp_path / "report").glob("images-*.png"))


# --- what is refused


def the_error(done: "CompletedProcess[str]") -> str:
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--json", "--csv"], 2, "--json, --csv, --markdown and --latex: only one of them"),
        (["--target", "0.5"], 2, "--target: not all models log accuracy on the same images; conv"),
        (["--target", "2"], 2, "Invalid value for '--target'"),
        (["--out", "file"], 4, "file: not a folder (choose another with --out)"),
        (["--out", "file/below"], 4, "file: can't be written"),
    ],
)
def test_bad_input(made: list[str], tmp_path: Path, more: list[str], code: int, words: str) -> None:
    (tmp_path / "file").write_text("")
    done = sfl("compare", *made, *more)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in the_error(done)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "runs"}


def test_without_matplotlib_the_tables_still_work(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.pictures.find_spec", lambda name: None)
    expected = compare(made)
    done = sfl("compare", *made, "--out", "report")
    assert (done.returncode, done.stdout) == (0, expected)
    assert "no pictures: matplotlib is not installed (install it: pip install" in done.stderr
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "report.md", "comparison.json", "comparison.csv",
    }  # fmt: skip


def test_fail_if_worse(made: list[str], tmp_path: Path) -> None:
    """Worse beyond chance: the whole interval lies below 0."""
    for seed, accuracy in enumerate((0.70, 0.725)):
        right = [place < 40 * accuracy for place in range(40)]
        config = f"{SPATIAL}{DATA}optimizer: {{lr: 0.1}}\ntrain: {{seed: {seed}}}\n"
        make_run(tmp_path / "runs" / f"near-s{seed}", config, right=right)
    near = ["conv-s0", "conv-s1", "near-s0", "near-s1", "--runs", "runs", "--fail-if-worse"]
    assert sfl("compare", *near).returncode == 0  # a little worse, which may be chance
    single = ["conv-s0", "a b|c-s0", "--runs", "runs", "--fail-if-worse"]
    done = sfl("compare", *single)
    assert done.returncode == 7
    assert the_error(done) == "error: a b|c: worse than conv, beyond chance"
    assert "test accuracy" in done.stdout  # the table all the same
    better = ["a b|c-s0", "conv-s0", "--runs", "runs", "--fail-if-worse"]
    assert sfl("compare", *better).returncode == 0


def test_an_unfinished_run_is_tested_as_it_stands_if_asked_for(
    trained: Path, tmp_path: Path, tiny: Path
) -> None:
    import shutil

    runs = tmp_path / "runs"
    shutil.copytree(trained, runs / "tiny-s0")
    result = json.loads((runs / "tiny-s0" / "result.json").read_text())
    for name in ("result.json", "predictions.npy", "labels.npy"):
        (runs / "tiny-s0" / name).unlink()
    conv = tmp_path / "conv.yaml"
    conv.write_text(tiny.read_text().replace("SimpleModel", "SimpleModel, layer: conv"))
    assert sfl("train", "--config", str(conv), "--runs", str(runs)).returncode == 0
    arguments = ("compare", "tiny-s0", "conv-s0", "--runs", str(runs), "--no-train", "--json")
    done = sfl(*arguments)
    assert done.returncode == 4 and "tiny: no run has finished" in the_error(done)
    done = sfl(*arguments, "--unfinished")
    assert done.returncode == 0, done.stderr
    assert "not finished (1 of 1 epochs); tested as it is" in done.stderr
    compared = json.loads(done.stdout)
    assert compared["models"][0]["accuracy"] == result["accuracy"]
    assert compared["models"][0]["unfinished"] == ["tiny-s0"]
    assert "tiny-s0 has not finished: its best weights after 1 of 1 epochs" in compared["remarks"]
    assert not (runs / "tiny-s0" / "result.json").exists()
    # Trained on other images than lie there now: it says on which.
    environment = json.loads((runs / "tiny-s0" / "environment.json").read_text())
    environment["data"]["train"] = "others"
    (runs / "tiny-s0" / "environment.json").write_text(json.dumps(environment))
    done = sfl(*arguments, "--unfinished")
    assert done.returncode == 3 and "not made with the same train images" in the_error(done)


def test_each_picture_shows_what_it_says(made: list[str], tmp_path: Path) -> None:
    """Drawn into figures, whose axes are looked into."""
    from matplotlib.figure import Figure

    from sfl.comparison.compute import compare as compare_models
    from sfl.comparison.figures import pictures
    from sfl.comparison.plan import plan
    from sfl.comparison.results import read_results
    from sfl.plots.test_images import TestImages

    names = ["conv-s0", "a b|c-s0", "conv-s1", "a b|c-s1"]
    models = plan(names, [], None, tmp_path / "runs", training=False)
    read_results(models)
    pixels = torch.arange(40 * 3 * 4 * 4).remainder(256).to(torch.uint8).view(40, 3, 4, 4)
    labels = torch.from_numpy(models[0].results[0].labels)
    images = TestImages(pixels, labels, ("disk", "ring"))
    drawn = {}
    for picture in pictures(compare_models(models), models, images):
        drawn[picture.name] = figure = Figure()
        picture.draw(figure)
    (axes,) = drawn["loss"].axes
    assert [line.get_label() for line in axes.lines] == ["conv", "a b|c"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[2.0], [2.0]]  # type: ignore[union-attr]
    assert len(axes.collections) == 2  # the bands
    titles = {name: figure.get_suptitle() for name, figure in drawn.items()}
    for name in ("loss", "classes", "accuracy-by-weights"):  # the first is not of test images
        assert titles[name].endswith("n = 2") and (", 40 test images" in titles[name]) == (
            name != "loss"
        )
    (axes,) = drawn["classes"].axes
    assert [bar.get_width() for bar in axes.patches] == [25.0, 75.0, 25.0, 75.0]  # type: ignore[attr-defined]
    (axes,) = drawn["accuracy-by-weights"].axes
    assert [text.get_text() for text in axes.texts] == ["conv", "a b|c"]
    for name in ("confusion-conv", "confusion-a-b-c"):
        (axes,) = drawn[name].axes
        assert axes.images[0].get_array().tolist() == [[75, 25], [75, 25]]  # type: ignore[union-attr]
    (axes,) = drawn["confusion-a-b-c-against-conv"].axes
    assert axes.images[0].get_array().tolist() == [[0, 0], [0, 0]]  # type: ignore[union-attr]
    shown = [axes for axes in drawn["images-a-b-c"].axes if axes.images]
    # Places 20 to 27 only conv gets right in all its runs; a class each in turn.
    assert [axes.get_xlabel() for axes in shown] == [
        f"image {place}" for place in (22, 23, 24, 25, 26, 27, 20, 21)
    ]
    assert shown[0].get_title() == "is: disk\ntaken for: ring"
    assert len(drawn["images-a-b-c"].subfigs) == 1  # no part for images that only the other gets
    assert np.array_equal(np.asarray(shown[0].images[0].get_array()), images.as_picture(22))


def test_models_that_are_always_right_or_always_wrong(tmp_path: Path) -> None:
    """In classes of odd names; files of models whose names differ in a sign stay apart."""
    odd = {"95 % interval": 1.0, "only_first": None}
    for name, config, right in (("a b", CONV, True), ("a+b", SPATIAL, False)):
        interval = [0.9, 1 - 1e-16] if right else [1e-18, 0.1]
        path = tmp_path / "runs" / f"{name}-s0"
        values = {"accuracy_interval": interval, "per_class": odd}
        make_run(path, f"{config}{DATA}", right=[right] * 7, environment=None, **values)
    out = tmp_path / "report"
    done = sfl("compare", "a b-s0", "a+b-s0", "--runs", tmp_path / "runs", "--out", out, "--csv")
    assert done.returncode == 0, done.stderr
    assert "per_class.95 % interval" in done.stdout.splitlines()[0]
    assert {path.stem for path in out.glob("confusion-*.svg")} == {
        "confusion-a-b", "confusion-a-b-2", "confusion-a-b-against-a-b",
    }  # fmt: skip


def test_what_runs_measured_last_is_shown_of_models_whose_runs_all_have_it(
    made: list[str], tmp_path: Path
) -> None:
    def line(epoch: int, decrease: float, *angles: float | None) -> dict[str, object]:
        layers = [{} if angle is None else {"gradient_angle": angle} for angle in angles]
        measures = dict(zip("ab", layers, strict=True))
        return {"epoch": epoch, "measures": measures, "probe_decrease": decrease}

    metrics: dict[str, list[dict[str, object]]] = {
        "conv-s0": [line(1, 0.9, 80.0, 90.0), line(2, 0.25, 10.0, 30.0), {"epoch": 3}],
        "conv-s1": [line(2, 0.75, 20.0, 40.0)],
        "a b|c-s0": [line(2, 0.5, 0.0, None)],  # one layer learns, the other doesn't
        "a b|c-s1": [line(2, -1.1, 0.0, None)],
    }
    for run, lines in metrics.items():
        path = tmp_path / "runs" / run / "metrics.jsonl"
        first = json.loads(path.read_text())
        path.write_text("".join(json.dumps(first | each) + "\n" for each in lines))
    one, other = json.loads(compare(made, "--json"))["models"]
    assert one["gradient_angle"] == pytest.approx((20 + 30) / 2)
    assert one["probe_decrease"] == pytest.approx(0.5)
    assert other["gradient_angle"] is None and other["probe_decrease"] == pytest.approx(-0.3)
    table = compare(made, "--markdown")
    assert "| angle to true gradient | 25.0° |  |" in table
    assert "| loss decrease in one step | 0.5 | −0.3 |" in table
