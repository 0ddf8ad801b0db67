"""What the tests of the data share."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor


@pytest.fixture
def only_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes what FakeTensorMode lets pass raise: reading a value, indexing with a CPU tensor."""
    index = Tensor.__getitem__

    def refuse(*_: object) -> None:
        raise AssertionError("waits for the device")

    def checked(tensor: Tensor, key: Any) -> Tensor:
        if isinstance(key, Tensor):
            assert key.device == tensor.device, "copies the index to the device for each batch"
        return index(tensor, key)

    def install() -> None:
        for name in ("item", "tolist", "__bool__", "numpy", "nonzero"):
            monkeypatch.setattr(Tensor, name, refuse)
        monkeypatch.setattr(Tensor, "__getitem__", checked)

    return install
