"""The record of a training run: `receipt.json` with an entry for each start."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.evaluation.receipt import differences
from alphabar.runs.checkpoints.checkpoint import checkpoint_hash
from alphabar.runs.checkpoints.kept_checkpoints import LastCheckpoint
from alphabar.runs.folders.run_dir import BEST_CHECKPOINT, CONFIG, LAST_CHECKPOINT
from alphabar.runs.provenance.receipt import describe_start, recorded
from alphabar.runs.resume import NOT_COMPARED, is_in_module
from alphabar.training.callbacks.composition import composition_lines
from alphabar.training.hooks import image_data
from alphabar.training.modules.base import BaseModule


@contextmanager
def recorded_run(trainer: Trainer, module: BaseModule, stopped: LastCheckpoint | None) -> Iterator[None]:
    """Writes `receipt.json` of a run into its folder, before training and after it, however it ends; only the first process does.

    stopped: the checkpoint from which it goes on; its entry then says what was changed since. `config.yaml` has the configuration.
    """
    if not trainer.is_global_zero:
        yield
        return
    folder = Path(trainer.default_root_dir)
    details = {
        "config": CONFIG,
        "seed": module.seed,
        "sampler": module.config.get("sampler"),
        **({} if stopped is None else going_on(stopped, module.config)),
    }
    entry = describe_start(folder, trainer.strategy.root_device, trainer.world_size, details)
    with recorded(folder, entry) as start:
        try:
            yield
        finally:
            start |= outcome(trainer, module)


def going_on(stopped: LastCheckpoint, config: dict[str, Any]) -> dict[str, Any]:
    """Returns what the entry of a resumed run says: the checkpoint from which it goes on, and [before, now] of what was changed."""
    changes = differences([stopped.config, confined(config)])
    kept = {key: values for key, values in changes.items() if key.partition(".")[0] not in NOT_COMPARED and not is_in_module(key)}
    name, sha256 = f"checkpoints/{stopped.path.name}", checkpoint_hash(str(stopped.path.absolute()))
    return {"from": {"checkpoint": name, "sha256": sha256, "step": stopped.step}, "changes": kept}


def outcome(trainer: Trainer, module: BaseModule) -> dict[str, Any]:
    """Returns what the entry says at the end: steps, figures, the hashes of the checkpoints, the data, and the time of evaluations.

    It has the lines of the run's beginning as `composition`, and the number of training images as `num_images`.
    """
    folder, about = Path(trainer.default_root_dir).absolute(), {}
    if trainer.global_step > 0:
        with suppress(UserError, OSError):  # the data may have vanished, which ended the run
            data = image_data(trainer)
            about = {"data": data.source.fingerprint(), "num_images": len(data.train_set)}
            about["composition"] = composition_lines(trainer, module)
    names = [name for name in (LAST_CHECKPOINT, BEST_CHECKPOINT) if (folder / name).is_file()]
    return {
        "step": trainer.global_step,
        "figures": module.figures,
        "checkpoints": [{"checkpoint": name, "sha256": checkpoint_hash(str(folder / name))} for name in names],
        "evaluation_seconds": round(module.seconds_evaluating, 2),
        **about,
    }
