"""The settings tree: defaults that are the notebook's, and what makes two runs the same."""

from typing import Any

import pytest

from sfl.config.load import from_text, load, override
from sfl.config.schema import Config
from sfl.config.yamlfile import parse
from sfl.errors import UserError


def config(text: str = "{name: SimpleModel}", **others: str) -> Config:
    sections = "".join(f"{name}: {value}\n" for name, value in others.items())
    return from_text(f"model: {text}\n{sections}", "c.yaml")


def test_the_defaults_are_the_notebooks() -> None:
    made = config()
    assert made.optimizer.name == "adam" and made.optimizer.lr == 3e-4
    assert made.optimizer.weight_decay == 0 and made.optimizer.betas == [0.9, 0.999]
    assert made.data.source == "cifar10" and made.data.batch_size == 64
    assert made.data.augment.crop_padding == 4 and made.data.augment.flip is True
    assert made.data.normalize.mean == [0.4914, 0.4822, 0.4465]
    assert made.data.normalize.std == [0.2023, 0.1994, 0.2010]
    assert made.train.epochs == 5 and made.train.schedule == "constant"
    assert made.data.validation == 0


@pytest.mark.parametrize(
    ("model", "layer", "storage"),
    [
        ("{name: RegularConvNet}", "conv", None),
        ("{name: SpatialDenseNet}", "spatial", "local"),
        ("{name: SimpleModel}", "spatial", "local"),
        ("{name: RegularConvNet, layer: spatial}", "spatial", "local"),
        ("{name: SpatialDenseNet, layer: conv}", "conv", None),
        ("{name: SimpleModel, storage: dense}", "spatial", "dense"),
    ],
)
def test_layer_and_storage_that_are_not_given(model: str, layer: str, storage: object) -> None:
    made = config(model)
    assert (made.model.layer, made.model.storage) == (layer, storage)


def test_null_takes_a_setting_back_to_its_default() -> None:
    made = config(
        "{name: SimpleModel, layer: conv, storage: null}", train="{epochs: null}", data=""
    )
    assert made == config("{name: SimpleModel, layer: conv}")
    assert made.train.epochs == 5


def test_statistics_of_units_are_not_shared_between_processes() -> None:
    """In one line, whatever the device."""
    with pytest.raises(UserError, match=r"sync_batchnorm: only for model\.norm: channel"):
        config("{name: SpatialDenseNet, norm: position}", train="{sync_batchnorm: true}")
    assert config("{name: SpatialDenseNet, norm: none}", train="{sync_batchnorm: true}")


def test_a_config_says_the_whole_graph() -> None:
    """Or a run of one version of sfl would be another experiment in the next."""
    written = config("{name: SpatialDenseNet, dropout: null}").to_dict()["model"]
    assert written == {
        "name": "SpatialDenseNet",
        "layer": "spatial",
        "storage": "local",
        "init": "receptive_field",
        "same_start": False,
        "channels": [10, 20, 32, 64, 128, 256],
        "kernel_sizes": [3, 3, 3, 3, 2, 2],
        "hidden_sizes": [512],
        "dropout": 0.1,
        "dropout2d": 0.05,
        "norm": "channel",
    }


def test_defaults_written_out_are_the_same_experiment() -> None:
    given = config("{name: SimpleModel, channels: [5], kernel_sizes: [[3, 3]], hidden_sizes: []}")
    assert given.identity() == config().identity()


def test_an_unknown_key_is_one_even_if_it_is_null() -> None:
    with pytest.raises(UserError, match="chanels"):
        config("{name: SimpleModel, chanels: null}")


def test_sizes_can_be_given() -> None:
    made = config("{name: SimpleModel, channels: [7], kernel_sizes: [[3, 5]], hidden_sizes: [9]}")
    assert made.model.kernel_sizes == [[3, 5]]
    assert (made.model.channels, made.model.hidden_sizes) == ([7], [9])


def test_a_number_may_be_written_without_a_point() -> None:
    assert config(optimizer="{lr: 1}").optimizer.lr == 1.0
    assert config(optimizer="{lr: 1e-3}").optimizer.lr == 0.001


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(config().train, "epochs", 3)  # noqa: B010  (mypy knows that it can't be set)


EXAMPLES = [
    config(),
    config("{name: SimpleModel, layer: conv, channels: [3]}", data="{source: shapes}"),
    config(data="{source: folder, root: '1e-3', resize: 16}", train="{warmup: 1}"),
    config(optimizer="{name: sgd, momentum: 0.9, lr: 1e-05, clip_norm: 1}"),
]


@pytest.mark.parametrize("made", EXAMPLES)
def test_a_resolved_config_reads_as_itself(made: Config) -> None:
    again = from_text(made.to_yaml(), "c.yaml")
    assert again.to_dict() == made.to_dict()
    assert again.identity() == made.identity()
    assert parse(made.to_yaml(), "c.yaml").values == made.to_dict()


@pytest.mark.parametrize(
    ("root", "kept"), [("/home/me/images", False), ("images", True), ("~/images", True)]
)
def test_what_is_shared_names_no_folder_of_this_machine(root: str, kept: bool) -> None:
    made = config(data=f"{{source: folder, root: {root}}}")
    assert ("root" in made.to_dict(share=True)["data"]) is kept
    assert made.to_dict()["data"]["root"] == root
    assert ("/home/me" in made.to_yaml(share=True)) is False


def test_what_is_shared_names_no_server_of_this_machine() -> None:
    made = config(data="{mirror: 'http://me:secret@intranet/cifar'}")
    assert "intranet" in made.to_yaml()
    assert "intranet" not in made.to_yaml(share=True)


def changed(path: str, value: object) -> dict[str, Any]:
    section, key = path.split(".")
    return {"model": {"name": "SimpleModel"}, section: {key: value}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.seed", 7),
        ("train.device", "cpu"),
        ("train.keep", "weights"),
        ("train.checkpoint_every", 3),
        ("data.root", "elsewhere"),
        ("data.mirror", "http://x"),
    ],
)
def test_what_makes_no_other_experiment(path: str, value: object) -> None:
    assert Config.model_validate(changed(path, value)).identity() == config().identity()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.epochs", 6),
        ("train.precision", "bfloat16"),
        ("train.schedule", "cosine"),
        ("data.batch_size", 65),
        ("data.source", "folder"),
        ("data.validation", 10),
        ("optimizer.lr", 1e-3),
    ],
)
def test_what_makes_another_experiment(path: str, value: object) -> None:
    assert Config.model_validate(changed(path, value)).identity() != config().identity()


def test_resizing_is_of_a_folder_alone() -> None:
    one, two = (config(data=f"{{source: folder, resize: {n}}}") for n in (16, 32))
    assert one.identity() != two.identity()
    with pytest.raises(UserError, match="resize: only with source: folder, not with cifar10"):
        config(data="{resize: 16}")


def test_settings_of_shapes_count_only_with_shapes() -> None:
    assert config(data="{shapes: {jitter: 1}}").identity() == config().identity()
    one, two = (config(data=f"{{source: shapes, shapes: {{jitter: {j}}}}}") for j in (1, 2))
    assert one.identity() != two.identity()


def test_experiments_with_and_without_a_rule_differ_in_the_rule_alone() -> None:
    plain = load("spatial")
    ruled = override(plain, ["learn.rule=fa"]).identity()["learn"]
    differing = {key for key, value in plain.identity()["learn"].items() if ruled[key] != value}
    assert differing == {"rule"}
