"""Settings of augmentation: what is refused, and that configs of earlier versions mean the same."""

from typing import Any

import pytest

from sfl.config.load import from_text, load
from sfl.config.schema import Config
from sfl.errors import Exit, UserError


def config(augment: str, more: str = "") -> Config:
    return from_text(
        f"model: {{name: SimpleModel}}\ndata: {{augment: {augment}}}\n{more}", "c.yaml"
    )


@pytest.mark.parametrize(
    ("flip", "resolved"),
    [("true", True), ("random", True), ("false", False), ("alternate", "alternate")],
)
def test_flip_is_a_bool_as_it_was_or_a_word(flip: str, resolved: Any) -> None:
    made = config(f"{{flip: {flip}}}")
    assert made.data.augment.flip is resolved or made.data.augment.flip == resolved
    written = from_text(made.to_yaml(), "config.yaml")
    assert written == made and written.identity() == made.identity()


def test_random_and_true_are_one_experiment() -> None:
    assert config("{flip: random}").identity() == config("{flip: true}").identity()
    assert config("{flip: alternate}").identity() != config("{flip: true}").identity()


def test_an_earlier_config_is_the_same_experiment() -> None:
    earlier = config("{crop_padding: 4, flip: true}")
    assert earlier.identity() == config("{}").identity()
    assert earlier.data.augment.policy == "none" and earlier.data.augment.crop_fill == "black"
    assert not (earlier.data.augment.cutout or earlier.data.augment.mixup)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("{policy: wide}", 'policy: expected none, trivial or rand, not "wide"'),
        ("{flip: 1}", "flip: expected true, false, random or alternate, not 1"),
        ("{flip: 'yes'}", 'flip: expected true, false, random or alternate, not "yes"'),
        ("{crop_fill: mirror}", 'crop_fill: expected black or reflect, not "mirror"'),
        ("{policy: rand, magnitude: 31}", "magnitude: must be at most 30, not 31"),
        ("{policy: rand, operations: 0}", "operations: must be at least 1, not 0"),
        ("{policy: trivial, magnitude: 5}", "magnitude: needs data.augment.policy: rand"),
        ("{operations: 3}", "operations: needs data.augment.policy: rand"),
        ("{cutmix_probability: 1.0}", "cutmix_probability: needs data.augment.cutmix"),
        ("{crop_fill: reflect, crop_padding: 0}", "crop_fill: needs data.augment.crop_padding"),
        ("{cutout: -1}", "cutout: must be at least 0, not -1"),
        ("{mixup: -0.1}", "mixup: must be at least 0, not -0.1"),
        ("{mixup: true}", "mixup: expected a number, not true"),
        ("{cutmix: 1.0, cutmix_probability: 0}", "cutmix_probability: must be above 0, not 0"),
    ],
)  # fmt: skip
def test_what_is_refused(augment: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load("quickstart", [f"data.augment={augment}"])
    assert raised.value.message == f"--set data.augment={augment}: data.augment.{message}"
    assert raised.value.exit_code == Exit.USAGE
