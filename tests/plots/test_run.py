"""`sfl plot`: every picture is there and shows something; what can't be drawn is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import call_sfl as sfl

ALL = {"curves", "filters", "similarity-map", "similarity", "receptive-fields", "activations"}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs" / "tiny-s0")
    return tmp_path / "runs" / "tiny-s0"


def test_all_pictures_of_a_run(run: Path) -> None:
    done = sfl("plot", "tiny-s0", "--runs", run.parent)
    assert done.returncode == 0, done.stderr
    folder = run / "plots"
    assert {path.stem for path in folder.glob("*.png")} == ALL
    assert {path.stem for path in folder.glob("*.svg")} == ALL
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        f"{folder / name}.svg"
        for name in (
            "curves", "filters", "similarity-map", "similarity", "receptive-fields", "activations",
        )
    ]  # fmt: skip
    listed = json.loads(sfl("runs", "--runs", run.parent, "--json").stdout)["runs"]
    assert [row["run"] for row in listed] == ["tiny-s0"]  # the folder of pictures is no run


def test_what_is_shown_can_be_chosen(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ("--layer", "features.0", "--units", "1,4", "--images", "0, 31")
    done = sfl("plot", str(run), "--out", out, *chosen, "--json")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["run"] == "tiny-s0" and described["folder"] == str(out)
    assert {picture["name"] for picture in described["pictures"]} == ALL
    assert not (run / "plots").exists()


def test_a_file_of_weights(run: Path, tmp_path: Path) -> None:
    file = run / "published.safetensors"  # the curves there are not known to be of these weights
    assert sfl("export", "tiny-s0", file, "--runs", run.parent).returncode == 0
    done = sfl("plot", file, "--json")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert (described["run"], described["folder"]) == ("published", str(run / "plots"))
    assert {picture["name"] for picture in described["pictures"]} == ALL - {"curves"}


def test_shared_filters_and_the_leak_of_dense_storage(tmp_path: Path, tiny: Path) -> None:
    for name, setting in (("conv", "model.layer=conv"), ("dense", "model.storage=dense")):
        done = sfl(
            "train", "--config", tiny, "--name", name, "--set", setting, "--runs", tmp_path,
            "--set", "train.epochs=2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sfl("plot", name, "--runs", tmp_path).returncode == 0
    conv, dense = ({p.stem for p in (tmp_path / n / "plots").iterdir()} for n in ("conv", "dense"))
    assert conv == ALL and dense == ALL | {"leak"}


def test_without_the_images_the_rest_is_drawn(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            path = tmp_path / "images" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (90 * number, 20, 30)).save(path)
            path.with_name("broken.png").touch()
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {name: SimpleModel}\n"
        f"data: {{source: folder, skip_broken: true, root: {tmp_path / 'images'}}}\n"
        "train: {epochs: 1, device: cpu, precision: float32}\n"
    )
    runs = tmp_path / "runs"
    assert sfl("train", "--config", config, "--runs", runs).returncode == 0
    assert sfl("show", "c-s0", "--runs", runs).returncode == 0  # weights know their images' sizes
    done = sfl("plot", "c-s0", "--runs", runs)
    assert done.returncode == 0
    assert "no receptive fields and no activation maps: data does not exist" in done.stderr
    assert {p.stem for p in (runs / "c-s0" / "plots").iterdir()} == ALL - {
        "receptive-fields", "activations",
    }  # fmt: skip
    here = ("--set", f"data.root={tmp_path / 'images'}", "--images", "1")
    assert sfl("plot", "c-s0", "--runs", runs, *here).returncode == 0
    assert {p.stem for p in (runs / "c-s0" / "plots").iterdir()} == ALL


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--layer", "features.7"], 2, "--layer features.7: there are features.0"),
        (["--units", "5"], 2, "--units 5: features.0 has units 0 to 4"),
        (["--units", "a"], 2, "--units a: expected numbers from 0 on, as in 0,3,7"),
        (["--units", ""], 2, "--units : expected numbers"),
        (["--images", "0,32"], 2, "--images 0,32: there are test images 0 to 31"),
        (["--set", "no.such=1"], 2, "no.such"),
        (
            ["--set", "data.normalize={mean: [0.5], std: [0.5]}"],
            2,
            "1 channels given, the images have 3",
        ),
        (["--out", "result.json"], 4, "result.json: not a folder (choose another with --out)"),
    ],
)
def test_bad_input(
    run: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(run)
    done = sfl("plot", str(run), *more)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr.splitlines()[-1]
    assert not (run / "plots").exists()


def test_runs_that_are_not_there_or_have_no_weights(run: Path) -> None:
    done = sfl("plot", "other", "--runs", run.parent)
    assert done.returncode == 4 and "other: no such run" in done.stderr
    (run / "best.safetensors").unlink()
    done = sfl("plot", "tiny-s0", "--runs", run.parent)
    assert done.returncode == 4 and "has no trained weights" in done.stderr


def test_without_matplotlib_it_says_how_to_install_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.pictures.find_spec", lambda name: None)
    done = sfl("plot", "tiny-s0", "--runs", run.parent)
    assert done.returncode == 2
    assert done.stderr == "error: plot needs matplotlib (install it: pip install matplotlib)\n"


def test_each_picture_shows_what_it_says(run: Path) -> None:
    """Drawn into figures, whose axes are looked into."""
    from matplotlib.figure import Figure

    from sfl.plots.run import run_pictures
    from sfl.runs.directory import Run
    from sfl.training.load import load_run

    loaded, tested_on = load_run(run), Run(run).provenance
    assert tested_on is not None
    dims = loaded.in_dimensions
    shown = run_pictures(
        Run(run),
        loaded.config,
        loaded.model,
        dims,
        name="run",
        fingerprint=tested_on.test,
        units=[1, 3, 0, 4],
        places=[0, 5, 9],
    )
    drawn = {}
    for picture in shown:
        drawn[picture.name] = figure = Figure()
        picture.draw(figure)
    loss, accuracy = drawn["curves"].axes
    assert [line.get_label() for line in loss.lines] == ["train"]
    assert [line.get_label() for line in accuracy.lines] == ["train"]
    assert accuracy.lines[0].get_ydata() == pytest.approx(
        [100 * loaded.metrics[0]["train_accuracy"]]
    )
    panels = [axes for axes in drawn["filters"].axes if axes.images]
    assert [axes.get_title(loc="center") for axes in panels] == [
        "unit 1", "unit 3", "unit 0", "unit 4",
    ]  # fmt: skip
    mosaic = panels[0].images[0].get_array()
    assert mosaic is not None and mosaic.shape == (7 * 4 - 1, 7 * 4 - 1, 3)
    weight = loaded.model.get_submodule("features.0").filters().detach()  # type: ignore[operator]
    tile = weight[11, 11, 1]  # of 30 positions, seven around the centre begin at 11
    most = weight[11:18, 11:18, 1].abs().max()
    expected = (0.5 + tile / (2 * most)).permute(1, 2, 0)
    assert np.allclose(mosaic[:3, :3], expected.numpy(), atol=1e-6)
    assert np.all(mosaic[3] == 1)  # white between the filters
    (axes,) = drawn["similarity"].axes
    assert [line.get_label() for line in axes.lines][:1] == ["features.0"]
    assert len(axes.collections) == 1  # what chance would do
    assert sum(bool(axes.images) for axes in drawn["receptive-fields"].axes) == 4
    assert sum(bool(axes.images) for axes in drawn["activations"].axes) == 3 * 2
    places = [axes.get_ylabel().split("\n")[1:] for axes in drawn["activations"].axes[::2]]
    assert places == [["image 0"], ["image 5"], ["image 9"]]
