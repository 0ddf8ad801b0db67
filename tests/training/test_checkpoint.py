"""Files of weights and optimizer state: bit for bit, without pickle, and refused when foreign."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sfl.errors import Exit, UserError
from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.training.checkpoint import (
    FORMAT,
    Checkpoint,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from tests.training.tiny import same

IMAGES = {"classes": ["a", "b"], "in_dimensions": [3, 8, 8]}
METRICS: list[dict[str, Any]] = [{"epoch": 1, "train_loss": 0.1 + 0.2}]
CONFIG = "model: {name: SimpleModel}  # µ\n"


def model(width: int = 4) -> nn.Module:
    """Weights, buffers, a whole number; in the order in memory that conv nets are trained in."""
    net = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 2)
    )
    return net.to(memory_format=torch.channels_last)


def learner_of(net: nn.Module, **settings: Any) -> Learner:
    return Learner(net, build_optimizer(net, **settings), nn.CrossEntropyLoss())


def train(learner: Learner, *, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(3):
        learner.step(torch.randn(5, 3, 8, 8), torch.randint(0, 2, (5,)), lr=1e-2)


def save(path: Path, learner: Learner) -> None:
    write_checkpoint(Checkpoint(path, learner.state(), CONFIG, IMAGES, METRICS))


def save_weights(path: Path, net: nn.Module) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    write_checkpoint(Checkpoint(path, tensors, CONFIG, IMAGES))


OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "adam"},
    {"name": "adamw", "weight_decay": 0.1},
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9},
]


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_training_goes_on_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    net = model()
    learner = learner_of(net, **settings)
    train(learner, seed=1)
    save(path, learner)

    other = model()
    other_learner = learner_of(other, **settings)
    other_learner.load_state(read_checkpoint(path).tensors)
    assert same(net.state_dict(), other.state_dict())
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        states = learner.optimizer.state[ours], other_learner.optimizer.state[theirs]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            loaded = states[1][key]
            if value is None:
                assert loaded is None
                continue
            assert torch.equal(value, loaded) and value.dtype == loaded.dtype
            assert value.stride() == loaded.stride()

    train(learner, seed=2)
    train(other_learner, seed=2)
    assert same(net.state_dict(), other.state_dict())


def test_what_a_file_says_besides_tensors(tmp_path: Path) -> None:
    net = model()
    save(tmp_path / "last", learner_of(net))
    save_weights(tmp_path / "best", net)
    last, best = read_checkpoint(tmp_path / "last"), read_checkpoint(tmp_path / "best")
    assert last.path == tmp_path / "last"
    assert last.config == best.config == CONFIG
    assert last.images == best.images == IMAGES
    assert last.metrics == METRICS and best.metrics is None
    assert set(best.tensors) == {f"model.{name}" for name in net.state_dict()}


def test_there_is_no_pickle_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("pickle")

    for module, names in ((pickle, ("load", "loads", "dump", "dumps")), (torch, ("load", "save"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    net = model()
    learner = learner_of(net)
    train(learner, seed=0)
    path = tmp_path / "last.safetensors"
    save(path, learner)
    learner.load_state(read_checkpoint(path).tensors)
    # The file itself: a length, then JSON that names every tensor, then their numbers.
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["sfl"])["format"] == FORMAT
    assert len(header) == 1 + len(read_checkpoint(path).tensors)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, model())
    before = path.read_bytes()

    def half(tensors: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("sfl.training.checkpoint.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, model())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- what is refused


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file)
    return file.getvalue()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, model())
    whole = path.read_bytes()
    contents = [b"", b"hello", b"\0" * 100, whole[:50], whole[:-1], torch_file(), pickle.dumps([1])]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=r"best\.safetensors: not a checkpoint, or damaged"
        ) as e:
            read_checkpoint(path)
        assert e.value.exit_code == Exit.RUN
        assert "\n" not in str(e.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such checkpoint"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=message) as error:
            read_checkpoint(path)
        assert error.value.exit_code == Exit.RUN


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "not a checkpoint of sfl"),
        ({"format": "pt"}, "its format is 'pt', expected 'sfl-3'"),
        ({"format": FORMAT}, "damaged"),
        ({"format": FORMAT, "config": CONFIG}, "damaged"),
        ({"format": FORMAT, "config": CONFIG, "progress": "{"}, "damaged"),
        ({"format": FORMAT, "config": CONFIG, "progress": "[]"}, "damaged"),
        ({"format": FORMAT, "config": CONFIG, "progress": "{}"}, "damaged"),
        ({"format": FORMAT, "progress": '{"images": {}}'}, "damaged"),
        ({"sfl": "{"}, "damaged"),
        ({"sfl": "[]"}, "damaged"),
        ({"sfl": '{"format": 3}'}, "damaged"),
        ({"sfl": "{}"}, "not a checkpoint of sfl"),
    ],
)
def test_another_programs_file(tmp_path: Path, metadata: Any, message: str) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(path)
    assert error.value.exit_code == Exit.RUN


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (model(5), r"0\.bias is \(4,\) there, the config's model has \(5,\)"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3)),
            r"1\.bias is \(4,\) there, the config's model has none",
        ),
        (nn.Sequential(model(), nn.Linear(2, 2)), r"0\.0\.bias is none there, .* has \(4,\)"),
    ],
    ids=["widths", "fewer layers", "more layers"],
)
def test_weights_of_another_model(tmp_path: Path, other: nn.Module, message: str) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, model())
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=f"a checkpoint of another model: {message}") as error:
        load_weights(read_checkpoint(path), other)
    assert error.value.exit_code == Exit.RUN
    assert same(before, other.state_dict())


def test_any_safetensors_reader_finds_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    net = model()
    save_weights(path, net)
    weights = load_file(path)
    assert torch.equal(weights["model.0.weight"], net.state_dict()["0.weight"])
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["sfl"])["config"] == CONFIG


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    net = model()
    for number in range(8):  # one alone might be the same by chance
        save_weights(tmp_path / str(number), net)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_what_earlier_versions_wrote_can_be_read(tmp_path: Path) -> None:
    save_weights(tmp_path / "new", model())
    with safe_open(tmp_path / "new", framework="pt") as file:
        parts = json.loads(file.metadata()["sfl"])
    save_file(load_file(tmp_path / "new"), tmp_path / "old", parts)
    new, old = read_checkpoint(tmp_path / "new"), read_checkpoint(tmp_path / "old")
    assert same(new.tensors, old.tensors) and (old.config, old.images) == (CONFIG, IMAGES)


# --- damage


def test_a_flipped_byte_or_a_lost_end_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    net = model(1)
    save(path, learner_of(net))
    whole = path.read_bytes()

    @settings(deadline=None, max_examples=150)
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def flipped(place: int, change: int) -> None:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        refused()

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, len(whole) - 1))
    def truncated(length: int) -> None:
        path.write_bytes(whole[:length])
        refused()

    def refused() -> None:
        with pytest.raises(UserError) as error:
            read_checkpoint(path)
        assert error.value.exit_code == Exit.RUN and "\n" not in str(error.value)

    flipped()
    truncated()


def test_an_earlier_format_is_named(tmp_path: Path) -> None:
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "last", {"format": "sfl-1"})
    with pytest.raises(UserError, match=r"another version of sfl .*sfl-1, this one reads sfl-3"):
        read_checkpoint(tmp_path / "last")
