"""The settings of learning without weight transport, and of sharing in time.

What the words mean: docs/transport.md.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfl.config.settings import Count, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]


class MirrorSettings(Settings):
    """The noise phases of the weight mirror."""

    every: Count = Field(1, description="Number of training steps between noise phases.")
    batches: Count = Field(1, description="Number of noise batches in a phase.")
    images: Count = Field(64, description="Number of noise images in a batch.")
    rate: Part = Field(0.1, description="Weight of a batch in the feedback's running average.")


class SleepSettings(Settings):
    """Sleep (Pogodin et al. 2021): local weights are pulled towards their mean over positions."""

    every: Annotated[int, Field(ge=0)] = Field(
        0, description="Number of training steps between sleeps. 0: never."
    )
    strength: Part = Field(
        1.0, description="How far: w becomes w + strength (mean − w), so 1 makes the filters equal."
    )
    kernels: Literal["one", "k2"] = Field(
        "one",
        description="one: a mean over all positions. k2: for a k×k kernel k² groups of "
        "positions whose fields don't overlap, with a mean each, as in the paper.",
    )

    @model_validator(mode="after")
    def _only_if_it_sleeps(self) -> "SleepSettings":
        needs = "needs learn.sleep.every, without which nothing sleeps"
        self.only_if(self.every, needs, "strength", "kernels")
        return self


class LearnSettings(Settings):
    """How errors reach the weights, and whether information crosses positions beside that."""

    rule: Literal["backprop", "fa", "usf", "brsf", "frsf", "kp", "mirror"] = Field(
        "backprop",
        description="Which weights send errors back through a layer. backprop: its own (weight "
        "transport). fa: fixed random ones. usf, brsf, frsf: the signs of its own, with one, newly "
        "drawn or fixed magnitudes. kp: ones that learn with them (Kolen-Pollack). mirror: ones "
        "learnt from noise (weight mirror).",
    )
    route: Literal["chain", "dfa", "local", "frozen"] = Field(
        "chain",
        description="By which way errors reach a layer. chain: through the layers above. dfa: from "
        "the output, directly. local: from a loss of its own. frozen: not at all; only the last "
        "layer learns.",
    )
    alignment: Share = Field(
        0.0,
        description="Only with rule: fa. Cosine between feedback and forward weights at birth; "
        "above 0 the forward weights are copied once.",
    )
    scale: Literal["xavier", "kaiming"] = Field(
        "xavier",
        description="Size of the feedback weights that are drawn, and usf's in each step: standard "
        "deviation √(2 / (fan-in + fan-out)) or 1/√(3 fan-in).",
    )
    loss: Literal["pred", "sim", "predsim"] = Field(
        "predsim",
        description="Only with route: local. pred: cross entropy of a linear readout. sim: "
        "similarities between images as between their labels. predsim: 0.01 pred + 0.99 sim.",
    )
    mirror: MirrorSettings = Field(MirrorSettings(), description="Only with rule: mirror.")
    sleep: SleepSettings = Field(SleepSettings(), description="Sharing in time.")

    @model_validator(mode="after")
    def _only_its_own(self) -> "LearnSettings":
        if self.rule != "backprop" and self.route != "chain":
            raise ValueError(
                f"route: {self.route} sends no error through a layer, so rule: {self.rule} would "
                "do nothing; keep one of them"
            )
        rule, route = self.rule, self.route
        self.only_if(rule == "fa", f"only with rule: fa, not with {rule}", "alignment")
        self.only_if(rule == "mirror", f"only with rule: mirror, not with {rule}", "mirror")
        needs = "only with a rule that has feedback weights, not with backprop"
        self.only_if(rule != "backprop", needs, "scale")
        self.only_if(route == "local", f"only with route: local, not with {route}", "loss")
        return self
