"""The settings of what moves the weights, and of their average."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sfl.config.settings import Fraction, Positive, Settings


class OptimizerSettings(Settings):
    """The optimizer; the notebook's by default."""

    name: Literal["adam", "adamw", "sgd", "muon"] = Field(
        "adam",
        description="The optimizer. muon: steps of orthogonal matrices, of local layers one for "
        "each position; norms and biases as adamw.",
    )
    lr: Positive = Field(3e-4, description="Learning rate; with a schedule, the highest one.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="L2 penalty (adam, sgd) or decoupled decay (adamw, muon)."
    )
    decay: Literal["all", "weights"] = Field(
        "all",
        description="What weight_decay is for. all: all that is learnt. weights: weights between "
        "units, so neither biases nor the scales and shifts of norms.",
    )
    momentum: Fraction = Field(
        0.0, description="Momentum; only with sgd, and with muon, whose default is 0.95."
    )
    nesterov: bool = Field(False, description="Nesterov's momentum; only with sgd. muon has it.")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="Decay rates of the two moments; not with sgd."
    )
    clip_norm: Positive | None = Field(
        None, description="Largest global norm of the gradients; larger ones are scaled down to it."
    )

    @classmethod
    def defaults_beside(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"momentum": 0.95} if given.get("name") == "muon" else {}

    @model_validator(mode="after")
    def _only_its_own(self) -> "OptimizerSettings":
        sgd, adam = self.name == "sgd", self.name in ("adam", "adamw")
        self.only_if(not adam, f"only for sgd and muon; {self.name} has betas", "momentum")
        self.only_if(not sgd, "not for sgd, which has momentum", "betas")
        self.only_if(sgd and self.momentum, "only for sgd with a momentum", "nesterov")
        return self


class AverageSettings(Settings):
    """A running average of the weights and of the statistics of norms, which is what is tested."""

    decay: Fraction = Field(
        0.0,
        description="Share that the average keeps in a step; at most (1 + t) / (10 + t) in step t. "
        "0: no average.",
    )
