"""What a config stands for on this machine, and what is refused before anything is written."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfl.data.dataset import Dataset, hold_out
from sfl.errors import Exit, UserError
from sfl.learning.world import World
from sfl.nn.models.networks import MODELS
from sfl.training import memory
from sfl.training.build import build
from sfl.training.images import image_sizes, load_images
from sfl.training.setup import build_learner, check_sizes, describe_model, set_up
from tests.training.tiny import SPATIAL, random_dataset, tiny_config, tiny_setup


def test_splits_constants_and_sizes() -> None:
    setup = tiny_setup("data.batch_size=30", "data.normalize.mean=[0.1, 0.2, 0.3]")
    assert (len(setup.train), setup.validation, len(setup.test)) == (64, None, 32)
    assert setup.steps_per_epoch == 3  # 30 + 30 + 4
    assert setup.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert setup.std.tolist() == pytest.approx([0.2023, 0.1994, 0.2010])
    assert setup.device == torch.device("cpu") and setup.precision == "float32"
    assert setup.summary.weights == (27 + 1) * 2 * 900 + (1800 + 1) * 10


def test_a_folders_own_validation_images_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    own = replace(random_dataset(), validation=random_dataset(12).train)
    setup = set_up(tiny_config(), own)
    assert setup.validation is not None and own.validation is not None
    assert torch.equal(setup.validation.images, own.validation.images)
    assert len(setup.train) == 64 and "validation: the 12 images" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"data\.validation: 20, but the folder has") as error:
        set_up(tiny_config("data.validation=20"), own)
    assert error.value.exit_code == Exit.USAGE


def test_validation_images_are_taken_from_the_training_images() -> None:
    setup = tiny_setup("data.validation=20")
    assert setup.validation is not None
    assert (len(setup.train), len(setup.validation)) == (44, 20)
    assert setup.validation.labels.bincount().tolist() == [2] * 10
    assert setup.steps_per_epoch == 2
    _, expected = hold_out(setup.dataset.train, 20, setup.dataset.classes)
    assert torch.equal(setup.validation.images, expected.images)
    other = tiny_setup("data.validation=20", "train.seed=5")
    assert other.validation is not None
    assert torch.equal(setup.validation.images, other.validation.images)
    with pytest.raises(UserError, match=r"data\.validation: 64"):
        tiny_setup("data.validation=64")


def test_sizes_that_do_not_fit_are_the_configs_mistake() -> None:
    config = tiny_config("model.kernel_sizes=[40]")
    for refused in (lambda: set_up(config), lambda: build(config, (3, 32, 32), 10)):
        with pytest.raises(
            UserError, match=r"model: SimpleModel: a kernel of 40 .* input of 32"
        ) as e:
            refused()
        assert e.value.exit_code == Exit.USAGE


# Its third block normalises maps of 1×1.
ONE_BY_ONE = """
model: {name: SpatialDenseNet, channels: [2, 2, 2, 2, 2, 2], kernel_sizes: [3, 3, 3, 3, 5, 1]}
data: {source: shapes, batch_size: 8, shapes: {train: 16, test: 8}}
train: {device: cpu}
"""


@pytest.mark.parametrize(
    ("settings", "workers", "said"),
    [
        ({"data.shapes.train": 17}, 1, "1 (of 17 training images, data.batch_size 8)"),
        ({"data.validation": 7}, 1, "1 (of 9 training images, data.batch_size 8)"),
        ({"data.batch_size": 1}, 1, "1 (of 16 training images, data.batch_size 1)"),
        ({"data.batch_size": 3}, 1, "1 (of 16 training images, data.batch_size 3)"),
        ({"data.batch_size": 6}, 3, "1 (of 16 training images, data.batch_size 6, 3 processes)"),
        ({"data.batch_size": 15}, 2, "1 (of 16 training images, data.batch_size 15, 2 processes)"),
    ],
    ids=str,
)
def test_a_last_batch_too_small_to_normalise_is_refused_before_images_are_read(
    settings: dict[str, int], workers: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [f"{key}={value}" for key, value in settings.items()]
    config = tiny_config(*changes, base=ONE_BY_ONE)
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError) as error:
        set_up(config, world=World(workers))
    assert error.value.exit_code == Exit.USAGE
    assert f"an epoch's last batch has too few images: {said}" in str(error.value)
    assert "SpatialDenseNet: features.14 BatchNormReLU:" in str(error.value)
    # What the hint names can be trained.
    (better,) = re.findall(r"set (data\.batch_size=\d+)", error.value.hint)
    keys = [change for change in changes if "batch_size" not in change]
    check_sizes(tiny_config(*keys, better, base=ONE_BY_ONE), world=World(workers))


def test_units_that_are_normalised_by_themselves_need_two_images() -> None:
    """Whatever the size of their maps, so that smaller kernels are no way out."""
    config = tiny_config("data.shapes.train=17", "model.norm=position", base=ONE_BY_ONE)
    with pytest.raises(UserError, match=r"features\.1 UnitBatchNormReLU:") as error:
        check_sizes(config)
    assert error.value.hint.endswith(", or model.norm=channel")
    assert check_sizes(tiny_config("model.norm=position", base=ONE_BY_ONE)).weights > 0


def test_last_batches_that_are_large_enough() -> None:
    """Also one image, where its maps are larger or nothing is normalised."""
    for config in (
        tiny_config(base=ONE_BY_ONE),
        tiny_config("data.shapes.train=18", base=ONE_BY_ONE),
        tiny_config("data.shapes.train=17", "model.kernel_sizes=[3,3,3,3,4,1]", base=ONE_BY_ONE),
        tiny_config("data.shapes.train=65"),
    ):
        assert check_sizes(config).weights > 0
    synchronized = tiny_config("data.batch_size=6", "train.sync_batchnorm=true", base=ONE_BY_ONE)
    assert check_sizes(synchronized, world=World(3)).weights > 0


def test_channels_of_images_and_normalize_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def grey(*arguments: object, **keywords: object) -> Dataset:
        return random_dataset(size=(1, 32, 32))

    monkeypatch.setattr("sfl.training.images.load_dataset", grey)
    with pytest.raises(UserError, match=r"data.normalize: 3 channels given, the images have 1"):
        load_images(tiny_config())
    config = tiny_config("data.normalize={mean: [0.5], std: [0.25]}", "data.source=folder")
    assert set_up(config).summary.layers[0].weights == (9 + 1) * 2 * 900


def test_a_device_that_is_not_there_is_refused_before_images_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError, match="no CUDA device"):
        tiny_setup("train.device=cuda")


def test_a_model_too_large_is_refused_without_allocating_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 24 * 10**9)
    overrides = ["model={name: RegularConvNet, layer: spatial, storage: dense}"]
    with pytest.raises(
        UserError, match=r"at least 68\.\d GB \(4,26\d,\d{3},\d{3} weights"
    ) as error:
        set_up(tiny_config(*overrides))
    assert error.value.exit_code == Exit.RESOURCES


def test_testing_alone_needs_no_memory_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    with pytest.raises(UserError, match="takes at least"):
        set_up(tiny_config())
    assert set_up(tiny_config(), training=False).summary.weights > 0


def test_describing_allocates_nothing() -> None:
    config = tiny_config("model={name: SpatialDenseNet, storage: dense}")
    before = torch.get_rng_state()
    assert describe_model(config, (3, 32, 32), 10).weights == 225_543_622
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn


@pytest.mark.parametrize(
    "learn", ["rule=fa", "rule=mirror", "route=dfa", "route=local", "route=frozen"]
)
@pytest.mark.parametrize("layer", ["spatial", "conv"])
def test_training_flops_are_those_of_a_step(learn: str, layer: str) -> None:
    noise = ["learn.mirror={every: 1, batches: 2, images: 4}"] * (learn == "rule=mirror")
    changes = [f"learn.{learn}", f"model.layer={layer}", *noise, "optimizer.clip_norm=null"]
    setup = tiny_setup(*changes, base=SPATIAL)
    learner = build_learner(setup)
    with FlopCounterMode(display=False) as counter:
        learner.step(torch.randn(32, 3, 32, 32), torch.arange(32) % 10, lr=0.1)
    assert counter.get_total_flops() == 32 * setup.summary.training_flops


def test_only_a_folder_is_read_for_the_shape_of_its_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: pytest.fail("loaded"))
    assert image_sizes(tiny_config())[:2] == ((3, 32, 32), 10)
    assert image_sizes(tiny_config("data.source=cifar10")) == ((3, 32, 32), 10, 50_000)
    small = random_dataset(classes=4, size=(3, 20, 24))
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: small)
    folder = tiny_config("data.source=folder", f"data.root={tmp_path}")
    assert image_sizes(folder)[:2] == ((3, 20, 24), 4)
    assert set_up(folder).summary.layers[-1].out_shape == (4,)


def test_a_model_that_cant_follow_the_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a user has added: its last layer has the first one's weights."""

    class Tied(nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).mean((2, 3))  # type: ignore[no-any-return]

    monkeypatch.setitem(MODELS, "SimpleModel", Tied)
    check_sizes(tiny_config())
    with pytest.raises(UserError, match=r"learn\.rule: fa: second and first have one weight") as e:
        check_sizes(tiny_config("learn.rule=fa"))
    assert e.value.exit_code == Exit.USAGE


def test_a_run_is_trained_on_a_subset_after_validation_images_are_held_out() -> None:
    whole = tiny_setup("data.validation=20")
    half = tiny_setup("data.validation=20", "data.train_images=22")
    assert (len(whole.train), len(half.train)) == (44, 22)
    assert half.validation and whole.validation
    assert torch.equal(half.validation.images, whole.validation.images)
    rows = {image.numpy().tobytes() for image in whole.train.images}
    assert all(image.numpy().tobytes() in rows for image in half.train.images)
    assert half.dataset.fingerprints == whole.dataset.fingerprints  # so that they can be compared
    with pytest.raises(UserError, match="45, but there are 44 training images after"):
        tiny_setup("data.validation=20", "data.train_images=45")
