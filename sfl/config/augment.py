"""The settings of augmentation: what is done to training images, and to no others.

What the words mean: docs/data.md.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sfl.config.settings import Settings

Pixels = Annotated[int, Field(ge=0, le=1024)]
Alpha = Annotated[float, Field(ge=0, le=100)]


class AugmentSettings(Settings):
    """Augmentation of the training images; the notebook's by default."""

    crop_padding: Pixels = Field(
        4, description="Pixels added on each side; then a random crop of the original size."
    )
    crop_fill: Literal["black", "reflect"] = Field(
        "black", description="What the added pixels show: black, or the image mirrored."
    )
    flip: Literal[True, False, "random", "alternate"] = Field(
        True,
        description="Mirror images left to right. true or random: each with probability 1/2. "
        "alternate: each in every second epoch.",
    )
    policy: Literal["none", "trivial", "rand"] = Field(
        "none",
        description="trivial: TrivialAugmentWide, one operation of random strength for each image. "
        "rand: RandAugment.",
    )
    operations: Annotated[int, Field(ge=1, le=16)] = Field(
        2, description="Only with policy: rand. Number of operations for each image."
    )
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="Only with policy: rand. Strength of all operations."
    )
    cutout: Pixels = Field(
        0, description="Side in pixels of a square that gets the mean colour. 0: none."
    )
    mixup: Alpha = Field(
        0.0, description="alpha of mixup, where two images become a weighted mean. 0: none."
    )
    cutmix: Alpha = Field(
        0.0, description="alpha of CutMix, where a box of one image is put into another. 0: none."
    )
    cutmix_probability: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Only with cutmix. Share of the batches that get it."
    )

    @field_validator("flip", mode="before")
    @classmethod
    def _one_word(cls, flip: Any) -> Any:
        if isinstance(flip, int | float) and not isinstance(flip, bool):  # 1 equals True
            raise ValueError("expected true, false, random or alternate")
        return True if flip == "random" else flip  # so that both are one experiment

    @model_validator(mode="after")
    def _only_if_used(self) -> "AugmentSettings":
        rand = self.policy == "rand"
        self.only_if(rand, "needs data.augment.policy: rand", "operations", "magnitude")
        self.only_if(self.cutmix, "needs data.augment.cutmix", "cutmix_probability")
        self.only_if(self.crop_padding, "needs data.augment.crop_padding", "crop_fill")
        return self
