"""A plot of loss and FID."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.training.loggers.metrics_file import read, series

HELD_OUT = (("held_out/loss", "black", "live"), ("held_out/loss_ema", "tab:purple", "averaged"))


class Curves(Callback):
    """Writes `curves.png` from `metrics.csv` at the end of training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (folder / "metrics.csv").exists():
            plot(folder / "metrics.csv", folder / "curves.png")


def plot(metrics: Path, path: Path) -> None:
    """Loss, loss by noise level, held-out loss and, if there is any, FID with its floor, over optimizer steps."""
    from matplotlib.figure import Figure  # half a second that only this needs

    rows = read(metrics)
    columns = list(rows[0]) if rows else []
    fids = [name for name in columns if name.startswith("fid/n")]
    figure = Figure(figsize=(11 if fids else 5.5, 5), layout="constrained")
    axes = figure.subplots(1, 2 if fids else 1, squeeze=False)[0]
    for name in columns:
        if name == "train/loss":
            axes[0].plot(*series(metrics, name), color="black", linewidth=2, label="all noise levels", zorder=3)
        elif name.startswith("train/loss_level_"):
            low, high = name.removeprefix("train/loss_level_").split("_")
            axes[0].plot(*series(metrics, name), linewidth=1, label=f"level {low} to {high}")
    for name, color, weights in HELD_OUT:
        if name in columns:
            points = [point for point in zip(*series(metrics, name), strict=True) if point[0] > 0]  # the training loss begins there
            label = f"held out, {weights} weights, no weighting"
            axes[0].plot(*zip(*points, strict=True), color=color, linestyle="--", linewidth=1, marker=".", label=label, zorder=4)
    axes[0].set(xlabel="optimizer step", ylabel="loss", yscale="log", title="loss")
    for name in fids:
        axes[1].plot(*series(metrics, name), marker="o", label=name)
        floor = series(metrics, name_of_floor(name, columns))[1]
        if floor:
            axes[1].axhline(floor[-1], color="grey", linestyle="--", label=f"floor, held-out images: {floor[-1]:.3g}")
    if fids:
        axes[1].set(xlabel="optimizer step", ylabel="FID", yscale="log", title="Frechet Inception distance")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_xlim(left=0)  # the same span of training in both, also where FID was measured once
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)  # below: on no curve
    figure.savefig(path, dpi=120)


def name_of_floor(name: str, columns: list[str]) -> str:
    """The column that holds the floor of the figure `name`."""
    protocol = name.removeprefix("fid/").rsplit("-", 2)[0]
    return next((column for column in columns if column == f"fid/floor-{protocol}"), "")
