"""What was done, in sentences: what models have in common, in what they differ, who has what."""

from pathlib import Path

import pytest

from sfl.comparison.compute import compare
from sfl.comparison.grid import run_grid
from sfl.comparison.methods import INITS, LAYERS, NORMS, ROUTES, RULES, methods
from sfl.comparison.model import ComparedModel
from sfl.comparison.recipe import NAMES
from sfl.comparison.results import read_result
from sfl.config.fields import choice
from sfl.config.grid import Grid
from sfl.config.load import from_text
from sfl.config.schema import Config
from sfl.runs.directory import Run
from tests.comparison.test_grid import study
from tests.conftest import ENVIRONMENT, make_run
from tests.stand_ins import configs, images, trained

__all__ = ["configs", "images", "study", "trained"]


def model(
    path: Path, config: str, seeds: int = 1, environment: dict[str, object] | None = None
) -> ComparedModel:
    made = [
        make_run(path / f"s{seed}", f"{config}\ntrain: {{seed: {seed}, epochs: 2}}",
                 accuracy=0.5 + seed / 10, environment=environment)
        for seed in range(seeds)
    ]  # fmt: skip
    results = [read_result(Run(run)) for run in made]
    return ComparedModel(path.name, from_text(config, "c.yaml"), results=results)


def test_what_is_common_is_said_once_and_what_differs_by_model(tmp_path: Path) -> None:
    plain = "model: {name: SimpleModel}\ndata: {batch_size: 32, augment: {flip: false}}"
    other = (
        f"{plain}\noptimizer: {{name: sgd, lr: 0.01, momentum: 0.9}}\n"
        "learn: {route: local, loss: sim}"
    )
    resumed: dict[str, object] = {"resumed": [ENVIRONMENT | {"device": "B", "threads": 1}]}
    models = [
        model(tmp_path / "a", plain, 2),
        model(tmp_path / "b", other, 2),
        model(tmp_path / "c", plain.replace("}\n", ", layer: conv}\n"), 2, resumed),
    ]
    found = compare(models, data_name="Dots").methods
    assert found[:2] == [
        "The images are Dots: 64 to train on and 100 to test on.",
        "The network is SimpleModel, with layers of 5 channels, kernels of 3×3, no hidden linear "
        "layer, no normalisation.",
    ]
    assert found[-4:] == [
        "Learning is by backpropagation (a, c); a local loss for each layer (sim) (b).",
        "The optimizer is Adam, β = 0.9, 0.999, weight decay 0 (a, c); SGD, momentum 0.9, weight "
        "decay 0 (b).",
        "The learning rate is 0.0003 (a, c); 0.01 (b).",
        "Trained on a CPU with 2 threads in float32 (a, b); a CPU with 2 threads in float32 and B "
        "with 1 thread in float32 (c).",
    ]
    for said in (
        "Training takes 5 epochs with batches of 32 images and cross entropy.",
        "Augmentation: random crops after padding by 4 pixels.",
        "Tested are the weights of the last epoch.",
        "Seeds: 0 and 1.",
        "Software: sfl 0.1.0, PyTorch 2.14.1 and Python 3.11.7.",
    ):
        assert said in found[2:-4]


def test_of_a_study_the_variants_are_named_and_what_was_tuned(study: Grid, runs_dir: Path) -> None:
    found = run_grid(study, runs_dir)[0].methods
    local, conv = "locally connected layers, with other filters at each position", "convolutio"
    assert any(f"are {local} (sharing: local); {conv}" in line for line in found)
    assert any(line.endswith("feedback weights of xavier size (learning: fa).") for line in found)
    rates = "The learning rate is 0.2 (local-backprop); 0.3 (learning: fa); 0.1 (sharing: conv)."
    assert rates in found
    assert found[-1] == (
        "Chosen for each cell by itself: optimizer.lr of 0.1, 0.2 and 0.3, by validation accuracy "
        "after 1 epoch with seed 0; the test images chose nothing."
    )


@pytest.mark.parametrize(
    ("section", "setting", "words"),
    [
        ("learn", "rule", RULES), ("learn", "route", {**ROUTES, "chain": ""}),
        ("model", "norm", NORMS), ("model", "init", INITS), ("optimizer", "name", NAMES),
        ("model", "storage", LAYERS),
    ],
)  # fmt: skip
def test_every_choice_has_its_words(
    section: str, setting: str, words: dict[str | None, str]
) -> None:
    settings = Config.model_fields[section].annotation
    allowed = choice(settings.model_fields[setting])  # type: ignore[union-attr]
    assert set(allowed) == set(words) - {None}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("train: {schedule: cosine, warmup: 1}", "a cosine, after 1 epochs of warm-up."),
        ("data: {validation: 7}", "Tested are the weights of the epoch best on 7 images held out"),
        ("learn: {sleep: {every: 10}}", "towards one mean over the positions every 10 steps"),
        ("learn: {rule: fa, alignment: 0.5}", "drawn with cosine 0.5 to the forward weights."),
        ("learn: {rule: mirror}", "1 batches of 64 noise images every 1 steps, rate 0.1."),
        ("data: {augment: {flip: false, crop_padding: 0}}", "Augmentation: none."),
        ("data: {augment: {policy: trivial, flip: alternate, crop_fill: reflect, cutout: 8}}",
         "Augmentation: random crops after padding by 4 mirrored pixels, flips left to right in "
         "every second epoch, TrivialAugmentWide and cutout of 8 pixels."),
        ("data: {augment: {policy: rand, mixup: 0.2, cutmix: 1.0}}",
         "Augmentation: random crops after padding by 4 pixels, random flips left to right, "
         "RandAugment (2 operations, magnitude 9), mixup (alpha 0.2) and CutMix (alpha 1, "
         "probability 0.5)."),
        ("data: {source: folder, resize: 8}", "Pixels are resized to 8×8, scaled to [0, 1] and"),
        ("optimizer: {clip_norm: 2}", "weight decay 0, gradients clipped to a norm of 2."),
        ("train: {label_smoothing: 0.1}", "and cross entropy with label smoothing 0.1."),
        ("train: {average: {decay: 0.9}}", "running average (decay 0.9) after the last epoch."),
        ("train: {teacher: conv}", "0.9 of the loss being the answers of conv at temperature 4."),
        (
            "optimizer: {name: sgd, momentum: 0.9, nesterov: true, decay: weights}",
            "SGD, Nesterov momentum 0.9, weight decay 0 of the weights alone.",
        ),
        ("optimizer: {name: muon}", "Muon, Nesterov momentum 0.95, β = 0.9, 0.999 of AdamW for"),
    ],
)  # fmt: skip
def test_a_recipe_in_words(tmp_path: Path, more: str, said: str) -> None:
    run = model(tmp_path / "a", "model: {name: SimpleModel}")
    images = compare([run]).data
    config = from_text(f"model: {{name: SimpleModel}}\n{more}", "c.yaml")
    found = methods([ComparedModel("a", config, results=run.results)], images)
    assert any(said in line for line in found), found


def test_a_deep_network_in_words(tmp_path: Path) -> None:
    run = model(tmp_path / "a", "model: {name: SimpleModel}")
    text = "{name: DeepNet, channels: [4, 5], kernel_sizes: [3, 3], same_start: true"
    more = f"model: {text}, strides: [1, 2], pool: average, shortcut: identity}}"
    compared = ComparedModel("a", from_text(more, "c.yaml"), results=run.results)
    found = methods([compared], compare([run]).data)
    said = "average pooling by 1 and 2, identity shortcuts."
    assert any(line.endswith(said) for line in found), found
    assert any(line.endswith("zero biases, the same at every position.") for line in found)


def test_local_layers_in_float32_are_told(tmp_path: Path) -> None:
    environment: dict[str, object] = {"precision": "bfloat16", "local_precision": "float32"}
    one, two = (
        model(tmp_path / name, "model: {name: SimpleModel}\n", 1, environment) for name in "ab"
    )
    found = compare([one, two]).methods
    assert any("2 threads in bfloat16 (local layers in float32)." in line for line in found)
