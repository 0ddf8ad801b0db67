"""The settings of the network."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sfl.config.settings import Count, Fraction, Settings
from sfl.nn.models.graphs import GRAPHS


def _number_or_pair(given: object) -> object:
    """Checks a kernel size with one message; pydantic would give one for each of the two types."""
    sizes = given if isinstance(given, list) and len(given) == 2 else [given]
    if all(type(size) is int and size >= 1 for size in sizes):
        return sizes[0] if len(set(sizes)) == 1 else given  # [3, 3] becomes 3: same graph, same run
    raise ValueError("expected a whole number of at least 1, or a pair of them")


Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
KernelSize = Annotated[Count | Pair, BeforeValidator(_number_or_pair)]


class ModelSettings(Settings):
    """Which network, and whether its weights are shared."""

    name: Literal["RegularConvNet", "SpatialDenseNet", "SimpleModel", "DeepNet"] = Field(
        description="The network."
    )
    layer: Literal["conv", "spatial"] | None = Field(
        None,
        description="conv shares its weights between positions, spatial does not. "
        "The default is the notebook's layer for this model; for DeepNet, spatial.",
    )
    storage: Literal["local", "dense"] | None = Field(
        None,
        description="local (default): only the weights inside the receptive fields exist. dense: "
        "as in the notebook, every unit has a weight for every input; after one step the layer is "
        "fully connected. Only with layer: spatial.",
    )
    init: Literal["receptive_field", "notebook"] = Field(
        "receptive_field",
        description="receptive_field: weights from U(±√(6 / fan-in)), where fan-in is each unit's "
        "number of inputs; zero bias. notebook: as in the notebook (conv: PyTorch's default).",
    )
    same_start: bool = Field(
        False,
        description="Every position of a spatial layer begins with the same kernel, drawn as a "
        "convolution's. Only with layer: spatial.",
    )
    channels: list[Count] | None = Field(
        None, description="Output channels of each conv or spatial layer."
    )
    strides: list[Count] | None = Field(
        None, description="Stride of each conv or spatial layer; only with DeepNet."
    )
    kernel_sizes: list[KernelSize] | None = Field(
        None, description="Kernel size of each conv or spatial layer: a number or a pair."
    )
    pool: Literal["stride", "max", "average"] | None = Field(
        None,
        description="Only with DeepNet. What makes maps smaller by the strides. stride (default): "
        "the layers. max, average: a pooling behind the ReLU; the layer itself has stride 1.",
    )
    shortcut: Literal["none", "identity"] | None = Field(
        None,
        description="Only with DeepNet. identity: behind the first layer each two are a block, to "
        "whose output its input is added, pooled and padded with zero channels. none (default): "
        "none.",
    )
    hidden_sizes: list[Count] | None = Field(
        None, description="Number of units of each hidden linear layer of the classifier."
    )
    dropout: Fraction | None = Field(
        None, description="Dropout probability before the first and the last linear layer."
    )
    dropout2d: Fraction | None = Field(
        None, description="Dropout probability of whole feature maps, before the last block."
    )
    norm: Literal["channel", "position", "none"] | None = Field(
        None,
        description="Batch normalisation. channel: one scale, one shift and statistics for each "
        "channel, over batch and positions, as is usual. position: for each unit its own, over the "
        "batch alone. none: none.",
    )

    @classmethod
    def defaults_beside(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        name = given.get("name")
        if not isinstance(name, str) or name not in GRAPHS:
            return {}  # reported when `name` is checked
        own = GRAPHS[name]
        local = given.get("layer", own["layer"]) == "spatial"
        return {"storage": "local", **own} if local else own

    @model_validator(mode="after")
    def _only_its_own(self) -> "ModelSettings":
        spatial, deep = self.layer != "conv", self.name == "DeepNet"
        self.only_if(deep, f"only for DeepNet, not for {self.name}", "strides", "pool", "shortcut")
        needs = "only for layer: spatial; all positions of a conv layer have one kernel"
        self.only_if(spatial, needs, "same_start")
        needs = f"{self.storage} is only for layer: spatial, not for conv; remove it, or use --set "
        self.only_if(spatial, needs + "model.storage=null", "storage")
        return self
