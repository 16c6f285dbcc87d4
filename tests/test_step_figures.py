"""Figures that a callback of one's own logs with `pl_module.log`."""

import sys

import pytest

import runs

CALLBACK = """
import torch
from lightning.pytorch import Callback

class Rare(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("every", float(trainer.global_step))
        if trainer.global_step in (3, 4, 7, 8, 11):
            pl_module.log("rare", torch.tensor(float(trainer.global_step)))
"""


@pytest.fixture
def rare(tmp_path, monkeypatch):
    (tmp_path / "rarely.py").write_text(CALLBACK)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("rarely", None)


@pytest.mark.usefixtures("rare")
@pytest.mark.parametrize("batches", [1, 2], ids=["a batch a step", "two batches a step"])
def test_figures_of_single_steps_stand_at_these_and_those_of_all_steps_at_the_steps_of_the_log(command, tmp_path, batches):
    """Nothing is lost, neither of two steps in a row nor at the end; the log is of every 4 steps."""
    quick = (f"trainer.accumulate_grad_batches={batches}", "trainer.log_every_n_steps=4", "callbacks.held_out_loss=null")
    brief = (*runs.BRIEF[1:], *quick, "trainer.max_steps=14", "+callbacks.rare._target_=rarely.Rare")
    code, _, err = command("train", *runs.words(*brief, folder="out"))
    assert (code, err) == (0, "")
    rows = runs.table(tmp_path / "out" / "metrics.csv")
    written = {name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in ("rare", "every")}
    assert written["rare"] == {step: step for step in (3, 4, 7, 8, 11)}
    assert written["every"] == {step: step for step in (*range(2 - batches, 6 - batches), 4, 8, 12, 14)}
