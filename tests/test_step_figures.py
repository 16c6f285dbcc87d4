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
        if trainer.global_step in (3, 5, 11):
            pl_module.log("rare", torch.tensor(float(trainer.global_step)))
"""


@pytest.fixture
def rare(tmp_path, monkeypatch):
    (tmp_path / "rarely.py").write_text(CALLBACK)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("rarely", None)


@pytest.mark.usefixtures("rare")
def test_figures_of_single_steps_stand_at_these_and_those_of_all_steps_at_the_steps_of_the_log(command, tmp_path):
    """Once each, and nothing is lost at the end; the log is of every 7 steps."""
    brief = (*runs.BRIEF[1:], "trainer.max_steps=12", "callbacks.held_out_loss=null", "+callbacks.rare._target_=rarely.Rare")
    code, _, err = command("train", *runs.words(*brief, folder="out"))
    assert (code, err) == (0, "")
    rows = runs.table(tmp_path / "out" / "metrics.csv")
    written = {name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in ("rare", "every")}
    assert written["rare"] == {3: 3, 5: 5, 11: 11}
    assert written["every"] == {1: 1, 7: 7, 12: 12}
