"""Randomness as an explicit argument: every draw comes from (seed, purpose, epoch, …).

So any step can be repeated without stored generator states, on any device. Knows no config.
"""

import hashlib

import torch


def fold(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit number that depends on all of its arguments, the same on every machine."""
    text = "/".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(fold(seed, purpose, *counters))


def seed_global(seed: int, purpose: str, *counters: int) -> None:
    """Seeds torch's global generators (initialisation, dropout) on every device."""
    torch.manual_seed(fold(seed, purpose, *counters))
