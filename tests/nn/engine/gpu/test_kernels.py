"""The Triton kernels: their numbers, in Triton's interpreter; and what they become, compiled."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
BOUNDS = {
    "torch.float32": {"y": 1e-6, "dx": 1e-6, "dw": 1e-6},
    "torch.bfloat16": {"y": 2e-2, "dx": 2e-2, "dw": 1e-6},
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def said(program: str, *arguments: object, interpret: bool = False) -> list[dict[str, Any]]:
    """What a program beside this file prints; in its own process, since Triton reads at import
    whether it interprets."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, str(HERE / program), *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert found
    return found


@pytest.mark.parametrize(
    "count", [0, pytest.param(200, marks=pytest.mark.slow)], ids=["fixed", "random"]
)
def test_they_equal_the_reference_in_float64(count: int) -> None:
    """Whatever the shape, and every number is written."""
    found = said("interpreted.py", "products", count, 1, interpret=True)
    assert len(found) == (count or 15) and {each["dtype"] for each in found} == set(BOUNDS)
    for each in found:
        for name, bound in BOUNDS[each["dtype"]].items():
            assert each[name] <= bound, each  # NaN isn't


def test_normalisation_equals_pytorchs_in_float64() -> None:
    found = said("interpreted.py", "norm", interpret=True)
    assert {each["dtype"] for each in found} == set(BOUNDS)
    for each in found:
        bound = 1e-5 if each["dtype"] == "torch.float32" else 1e-2
        errors = [error for error in each.values() if isinstance(error, float)]
        assert len(errors) == 7 and all(error < bound for error in errors), each  # NaN isn't


NETS = ("SpatialDenseNet", "RegularConvNet", "deep", "norm")


@pytest.mark.parametrize(
    ("capability", "dtype", "batch", "layers"),
    [
        (90, "bfloat16", 512, "one"),
        *(
            pytest.param(capability, "bfloat16", batch, "deep", marks=pytest.mark.slow)
            for capability, batch in (
                (80, 456), (90, 456), (100, 456), (120, 512),
            )
        ),
        *(
            pytest.param(capability, dtype, batch, layers, marks=pytest.mark.slow)
            for capability, dtype in (
                (75, "float32"), (80, "bfloat16"), (80, "float32"), (90, "bfloat16"),
                (90, "float32"), (100, "bfloat16"), (100, "float32"),
            )
            for layers in NETS
            for batch in (64, 512)
        ),
    ],
)  # fmt: skip
def test_compiled_they_need_little(capability: int, dtype: str, batch: int, layers: str) -> None:
    """No register spilt, at most 168 of them, 48 KB of shared memory; bfloat16 on tensor cores; no
    product goes on while its registers may be written.
    """
    for each in said("offline.py", capability, dtype, batch, layers):
        assert each["spills"] == 0 and each["registers"] <= 168, each
        assert each["shared"] <= 48 << 10, each
        assert not each["in_flight"], each
        if dtype == "bfloat16" and layers != "norm":  # which multiplies no matrices
            assert {"HMMA", "HGMMA", "UTCHMMA"} & set(each["units"]), each
