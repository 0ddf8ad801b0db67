"""What Triton kernels become on GPUs that aren't there: registers, spills, memory, instructions.

Run as a program, beside the tests: `python offline.py CAPABILITY DTYPE BATCH LAYERS` prints a JSON
list. Triton's own compiler and its disassembler do it, without a GPU.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sfl.nn.engine.gpu import launch, norm
from sfl.nn.engine.gpu.blocks import WARPS
from sfl.nn.engine.gpu.launch import KERNELS, Kernel
from sfl.nn.window import window_of

NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
PROCESSORS = {75: 40, 80: 108, 90: 132, 100: 148, 120: 170}
# (channels in, side, channels out, kernel, stride, padding)
LAYERS: dict[str, tuple[tuple[int, int, int, int, int, int], ...]] = {
    "SpatialDenseNet": (
        (3, 32, 10, 3, 1, 0), (10, 30, 20, 3, 1, 0), (20, 14, 32, 3, 1, 0), (32, 12, 64, 3, 1, 0),
        (64, 5, 128, 2, 1, 0), (128, 4, 256, 2, 1, 0),
    ),
    "RegularConvNet": (
        (3, 32, 32, 3, 1, 1), (32, 32, 64, 3, 1, 1), (64, 16, 128, 3, 1, 1),
        (128, 16, 128, 3, 1, 1), (128, 8, 256, 3, 1, 1), (256, 8, 256, 3, 1, 1),
    ),
    "deep": (
        (3, 32, 15, 3, 1, 1), (15, 32, 30, 3, 2, 1), (30, 16, 30, 3, 1, 1), (30, 16, 60, 3, 2, 1),
        (60, 8, 60, 3, 1, 1), (60, 8, 120, 3, 2, 1), (120, 4, 120, 3, 1, 1), (120, 4, 240, 3, 2, 1),
    ),
    "one": ((30, 16, 60, 3, 2, 1),),
}  # fmt: skip


def kernels_of(capability: int, dtype: torch.dtype, batch: int, layers: str) -> list[Kernel]:
    """The kernels of those layers, with weights of float32."""
    launch._processors = lambda device: PROCESSORS[capability]  # type: ignore[assignment]
    found = []
    for channels, side, out_channels, kernel, stride, padding in LAYERS[layers]:
        window, (oh, ow) = window_of((side, side), kernel, stride, padding)
        x = torch.empty(side, side, channels, batch, dtype=dtype, device="meta")
        y = torch.empty(oh, ow, out_channels, batch, dtype=dtype, device="meta")
        weight = torch.empty(oh, ow, out_channels, kernel, kernel, channels, device="meta")
        bias = torch.empty(out_channels, oh, ow, device="meta")
        for name in KERNELS:
            if name != "input_gradient" or channels > 3:
                given = bias if name == "forward" else None
                found.append(launch.kernel_for(name, x, weight, given, y, window, 1))
    return found


def compiled(kernel: Kernel, capability: int) -> dict[str, Any]:
    """What the kernel needs of a multiprocessor, and the units that multiply."""
    types = dict.fromkeys("xy", NAMES[kernel.dtype]) | dict.fromkeys(("w", "bias"), "*fp32")
    options = {"num_warps": WARPS, "num_stages": kernel.blocks.stages}
    function, by_16 = KERNELS[kernel.name], kernel.batch == "16n"
    about = {"kernel": kernel.name, "channels": [kernel.channels, kernel.out_channels]}
    about["blocks"] = kernel.blocks
    return about | needs(function, capability, types, "i32", kernel.constants(), by_16, options)


def compiled_norm(function: Any, capability: int, dtype: torch.dtype, batch: int) -> dict[str, Any]:
    """The same for a kernel of batch normalisation."""
    columns = min(triton.next_power_of_2(batch), 1024)
    constants = {"ROWS": norm.TILE // columns, "COLUMNS": columns, "PARTS": norm.PARTS}
    types = dict.fromkeys((*norm.GENERAL, "batch"), "i32") | {"eps": "fp32"}
    types |= dict.fromkeys(("x", "y", "dx", "dy"), NAMES[dtype])
    found = needs(function, capability, types, "*fp32", constants, batch % 16 == 0, {})
    return {"kernel": function.__name__, **found}


def needs(
    function: Any, capability: int, types: dict[str, str], other: str, constants: dict[str, Any],
    by_16: bool, options: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    """What compiled code needs of a multiprocessor, and the units that multiply.

    types: of arguments by name; other: of those that aren't there. by_16: whether 16 divides the
    batch.
    """
    names, attributes = function.arg_names, {}
    signature = types | dict.fromkeys(constants, "constexpr")
    signature = {name: signature.get(name, other) for name in names}
    for place, name in enumerate(names):
        if signature[name].startswith("*") or (name == "batch" and by_16):
            attributes[(place,)] = [["tt.divisibility", 16]]
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=places, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        use = _said(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        code = _said(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
    instructions = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", code, re.M)
    registers = re.search(r"REG:(\d+)", use)
    assert registers and instructions
    return {
        "registers": int(registers[1]),
        "spills": sum(each in ("LDL", "STL") for each in instructions),
        "shared": made.metadata.shared,
        # Hopper's product goes on while its registers may be written anew.
        "in_flight": bool(re.search(r"HGMMA\S*\s+R\d+,\s*R\d+", code)),
        "units": sorted({"HMMA", "HGMMA", "UTCHMMA", "FFMA", "FFMA2"} & set(instructions)),
    }


def _said(program: str, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    dtype_name, which = sys.argv[2], sys.argv[4]
    given, batch_size, kind = int(sys.argv[1]), int(sys.argv[3]), getattr(torch, dtype_name)
    if which == "norm":
        each_norm = (norm._sums, norm._normalise, norm._backward_sums, norm._backward)
        found = [compiled_norm(each, given, kind, batch_size) for each in each_norm]
    else:
        all_kernels = dict.fromkeys(kernels_of(given, kind, batch_size, which))
        found = [compiled(each, given) for each in all_kernels]
    print(json.dumps(found))
