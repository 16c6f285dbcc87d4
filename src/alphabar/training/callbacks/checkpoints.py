"""Checkpoints: the last ones, and those with the best FID."""

import logging
import math
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from alphabar.files.atomic import atomic_writer, make_folder, write_errors
from alphabar.files.versions import insert_version
from alphabar.runs.checkpoints.kept_checkpoints import UNNAMED, make_last, remove_unfinished, take_up_best
from alphabar.runs.checkpoints.torch_files import load_torch_file, verify_checksums
from alphabar.runs.folders.run_dir import BEST_CHECKPOINT, LAST_CHECKPOINT
from alphabar.runs.processes.distributed import from_first
from alphabar.training.callbacks.nonfinite import nonfinite_steps
from alphabar.training.callbacks.recurring import Recurring, is_any_due
from alphabar.training.callbacks.stopping import STOP_SIGNALS, stop
from alphabar.training.hooks import base_module, ends_step, log_every_n_steps
from alphabar.training.recovery.finite import nonfinite_weight

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, verifies it, flushes to disk, then renames: a checkpoint is the old one or the new one, and whole.

    It verifies again when it reads; see `load_torch_file`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        target = Path(path)
        with write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(target) as file:
            torch.save(checkpoint, file)
            file.flush()
            verify_checksums(Path(file.name))

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> Any:
        return load_torch_file(Path(path), f"checkpoint {path}")


class Checkpoints(Recurring, Checkpoint):
    """Writes `checkpoints/last.ckpt` every so many steps and at the end, and `checkpoints/best.ckpt` at every best FID.

    The earlier ones are `last-1.ckpt` and so on, the second best is `best-1.ckpt`. A new one is written and verified before any of
    them changes its name, and a best one before the last one, which knows of it. A resumed run takes up the best ones it finds.

    Weights or averages that are not finite are not written; a line says so, and the checkpoints that are there stay.

    keep_last, keep_best: how many of the last and of the best ones are kept. Raises ValueError unless both are >= 1.

    A signal to stop (see `StopSignals`) leaves a last.ckpt, too: of the step that was under way, or with several processes of the
    next one that is logged, where they can agree on it, or of the one whose figures or samples it cuts off. Lightning calls it
    after all other callbacks, so that the file has what they know of a step.
    If something ends training in the middle of a step (`max_time`), the step is finished first, so that no gradients are lost.
    """

    def __init__(self, every_n_steps: int, keep_last: int = 2, keep_best: int = 1) -> None:
        super().__init__(every_n_steps)
        if min(keep_last, keep_best) < 1:
            raise ValueError(f"need keep_last >= 1 and keep_best >= 1, got keep_last={keep_last}, keep_best={keep_best}")
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.best_fids: list[float] = []  # of the best checkpoints, ascending
        self.fid = math.inf  # of the newest of them
        self.last_was_skipped = False  # whether the step of last.ckpt was
        self.stops_after_step = False

    def state_dict(self) -> dict[str, Any]:
        best = min(self.best_fids, default=math.inf)
        return {**super().state_dict(), "best": best, "fid": self.fid, "last_was_skipped": self.last_was_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.last_was_skipped = state_dict.get("last_was_skipped", False)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._new_rank(pl_module) is not None:
            self.act_now(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._finish_step(trainer, batch_idx)
        can_agree = trainer.world_size == 1 or trainer.global_step % log_every_n_steps(trainer) == 0 or is_any_due(trainer)
        if ends_step(trainer, batch_idx) and can_agree:
            self._stop_if_asked(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if is_any_due(trainer):
            self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run, with a checkpoint, if any process has received a signal; all processes call it."""
        if (number := STOP_SIGNALS.agreed_signal(pl_module.device)) is not None:
            if self.last_step != trainer.global_step:
                self.act_now(trainer, pl_module)
            stop(number)

    def _finish_step(self, trainer: Trainer, batch_idx: int) -> None:
        """Puts the end of training off while gradients of an unfinished step wait for more batches."""
        if not ends_step(trainer, batch_idx):
            self.stops_after_step = self.stops_after_step or trainer.should_stop
            trainer.should_stop = False
        elif self.stops_after_step:
            trainer.should_stop = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fid = base_module(pl_module).figures.get("fid", math.inf)  # it was measured before the checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        STOP_SIGNALS.defer()
        self.best_fids = from_first(lambda: self._take_up(trainer))
        super().on_train_start(trainer, pl_module)

    def _take_up(self, trainer: Trainer) -> list[float]:
        """Finishes what a kill left half done in the folder of a resumed run; returns the FIDs of the best checkpoints."""
        if trainer.ckpt_path is None:
            return []
        folder = Path(trainer.default_root_dir)
        remove_unfinished(folder)
        make_last(Path(trainer.ckpt_path), folder)
        return take_up_best(folder, self.keep_best)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        STOP_SIGNALS.act_at_once()

    def _new_rank(self, pl_module: LightningModule) -> int | None:
        """Returns the rank among the best of a FID that has just been measured, or None if it is none of them."""
        fid = base_module(pl_module).figures.get("fid", math.inf)
        rank = bisect_left(self.best_fids, fid)
        is_new = math.isfinite(fid) and fid != self.fid and fid not in self.best_fids
        return rank if is_new and rank < self.keep_best else None

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        if (name := nonfinite_weight(trainer, pl_module)) is not None:
            log.warning("step %d: no checkpoint is written, since %s is not finite; earlier ones stay", trainer.global_step, name)
            return
        # Within a series of skipped steps the newest checkpoint is replaced, and the one from before the series is kept.
        self.is_due = is_any_due(trainer)  # so that it acts after what is due, and the newest checkpoint has that
        watch = nonfinite_steps(trainer)
        is_skipped = watch is not None and watch.newest_was_skipped()
        keep_last = 1 if is_skipped and self.last_was_skipped else self.keep_last
        self.last_was_skipped = is_skipped
        if (rank := self._new_rank(pl_module)) is not None:
            self.fid = base_module(pl_module).figures["fid"]
            self.best_fids = sorted([*self.best_fids, self.fid])[: self.keep_best]
            self._write(trainer, BEST_CHECKPOINT, self.keep_best, rank)
        self._write(trainer, LAST_CHECKPOINT, keep_last, 0)

    def _write(self, trainer: Trainer, name: str, keep: int, rank: int) -> None:
        """Writes a checkpoint as the version of the file `name` at `rank`; see `insert_version`."""
        path = Path(trainer.default_root_dir) / name
        if trainer.is_global_zero:
            make_folder(path.parent)
        trainer.save_checkpoint(path.with_name(UNNAMED), weights_only=False)
        if trainer.is_global_zero:
            insert_version(path.with_name(UNNAMED), path, keep, rank)
