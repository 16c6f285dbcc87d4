"""A plot of loss and FID."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.plotting.run_curves import draw_curves
from alphabar.runs.metrics_csv import read_metrics


class Curves(Callback):
    """Writes `curves.png` from `metrics.csv` at the end of training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            draw_curves(read_metrics(folder / "metrics.csv"), folder / "curves.png")
