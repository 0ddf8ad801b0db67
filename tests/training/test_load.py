"""A finished run, back in Python."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sfl
from sfl.data.batches import test_batches as batches_of
from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, PREDICTIONS, Run
from sfl.training.fit import fit
from sfl.training.load import load_run
from tests.training.tiny import SPATIAL, new_run, tiny_setup


@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_the_model_predicts_what_the_run_wrote_down(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny_setup(f"model.layer={layer}", base=SPATIAL)
    run = new_run(tmp_path)
    fit(setup, run)
    monkeypatch.setenv("SFL_RUNS", str(run.path.parent))
    loaded = load_run(run.name)
    assert not loaded.model.training
    assert all(p.device.type == "cpu" for p in loaded.model.parameters())
    ((images, _),) = batches_of(setup.test, batch_size=100, mean=setup.mean, std=setup.std)
    with torch.no_grad():
        predictions = loaded.model(images).argmax(dim=1)
    assert predictions.tolist() == np.load(run.path / PREDICTIONS).tolist()
    assert loaded.config == setup.config
    assert loaded.metrics == Run(run.path).metrics and len(loaded.metrics) == 3
    state = sfl.load_run(str(run.path)).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.model.state_dict().items())


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint") as error:
        load_run(tmp_path / "nothing")
    assert error.value.exit_code == Exit.RUN
    (tmp_path / BEST).write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a checkpoint") as error:
        load_run(tmp_path)
    assert error.value.exit_code == Exit.RUN
