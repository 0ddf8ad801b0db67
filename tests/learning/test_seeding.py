"""Draws depend on all that is named, and on nothing else."""

import hashlib
from itertools import combinations

import pytest
import torch

from sfl.learning.seeding import fold, generator, seed_global

PLACES: list[tuple[int, str, tuple[int, ...]]] = [
    (0, "order", (1,)),
    (1, "order", (1,)),
    (0, "dropout", (1,)),
    (0, "order", (2,)),
    (0, "order", (1, 0)),
    (0, "order", (0, 1)),
    (0, "order", ()),
    (0, "order", (11,)),
    (0, "order", (1, 1)),
    (1, "order", (10,)),
]


def test_every_argument_counts() -> None:
    for (a, b, c), (d, e, f) in combinations(PLACES, 2):
        assert fold(a, b, *c) != fold(d, e, *f)


def test_values_are_the_same_on_every_machine() -> None:
    # The first 8 bytes of SHA-256 of the text, least significant first, without the lowest bit.
    assert hashlib.sha256(b"0/order/1").hexdigest()[:16] == "7c9b834547ac6879"
    assert fold(0, "order", 1) == 4_374_215_849_138_048_446
    assert fold(7, "initialisation") == 4_244_875_590_005_997_095
    assert fold(2**63 - 1, "dropout", 3, 4) == 303_085_338_377_849_466


def test_numbers_fit_torchs_generators() -> None:
    for seed in range(1000):
        assert 0 <= fold(seed, "order") < 2**63


def test_a_generator_repeats_its_draws_whatever_was_drawn_elsewhere() -> None:
    first = torch.rand(5, generator=generator(0, "order", 1))
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=generator(0, "order", 1)), first)
    assert not torch.equal(torch.rand(5, generator=generator(0, "order", 2)), first)
    assert generator(0, "order").device.type == "cpu"


def test_a_generator_leaves_the_global_one_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    torch.rand(3, generator=generator(5, "order"))
    assert torch.equal(torch.rand(3), expected)


def test_seed_global_sets_what_dropout_and_initialisation_draw_from() -> None:
    drawn = []
    for purpose in ("dropout", "dropout", "initialisation"):
        seed_global(3, purpose, 1, 2)
        drawn.append(torch.nn.functional.dropout(torch.ones(50)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_seed_global_sets_every_gpu_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    seed_global(0, "dropout", 1)
    assert not seeded
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seed_global(0, "dropout", 1)
    assert seeded == [fold(0, "dropout", 1)]
