"""A finished run's weights as one file to publish: rounded, with its config and what it reached."""

from dataclasses import replace
from pathlib import Path

import torch

from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, Run
from sfl.runs.labels import label
from sfl.runs.records import Published
from sfl.training.audit import audit_model
from sfl.training.checkpoint import read_checkpoint, write_checkpoint
from sfl.training.load import restore

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(run: Run, path: Path, dtype: str, data_name: str) -> Published:
    """Writes the run's best weights into a new file, and returns what that says of itself.

    dtype: of the learnt weights; statistics of normalisations stay as they are. data_name: what the
    images are called. The file is read as any file of weights is, into float32.

    Raises UserError (exit 4) for a run without result or weights, and for a file that exists or
    can't be written; (exit 2) for weights that the type has no numbers for.
    """
    if path.exists():
        raise UserError(f"{path}: exists", "choose another name", Exit.RUN)
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder", "make it first", Exit.RUN)
    if run.result is None:
        raise UserError(f"{run.path}: has not finished", "wait, or go on with it", Exit.RUN)
    checkpoint = read_checkpoint(run.path / BEST)
    config = checkpoint.settings
    learnt = {f"model.{name}" for name, _ in restore(checkpoint, config).named_parameters()}
    tensors = {
        name: tensor.to(TYPES[dtype]) if name in learnt else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    if not all(bool(tensors[name].isfinite().all()) for name in learnt):
        raise UserError(f"--dtype {dtype}: has no numbers so large", "choose bfloat16")
    audited = audit_model(config, *checkpoint.sizes)
    published = Published(
        run=run.name,
        images=data_name,
        accuracy=run.result.accuracy,
        n=run.result.n,
        label=label(config, audited.sharing, checkpoint.taught_by),
        dtype=dtype,
    )
    said = published.to_dict()
    write_checkpoint(replace(checkpoint, path=path, tensors=tensors, published=said))
    return published
