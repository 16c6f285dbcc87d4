"""Preparation of a command on a checkpoint: its data, and its folder, which is removed if it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric import Fabric
from omegaconf import DictConfig

from alphabar.config.build import check_file
from alphabar.config.interpolation import unresolved_container
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.sources.own_datamodule import build_data
from alphabar.errors import UserError
from alphabar.runs.checkpoints.data_root import names_data_root, set_data_root
from alphabar.runs.folders.run_dir import withdraw
from alphabar.sampling.conditions import attach_captions
from alphabar.sampling.model import LoadedModel


@contextmanager
def removed_on_error(run_dir: str) -> Iterator[None]:
    """Removes the folder of a command again if a UserError ends it before anything was measured."""
    try:
        yield
    except UserError:
        withdraw(Path(run_dir))
        raise


def load_data(loaded: LoadedModel, data_root: str | None, fabric: Fabric, reads_captions: bool = False) -> ImageDataModule:
    """Returns the data that a checkpoint was trained on, and attaches their captions to its conditioner and to upstream models.

    data_root: where the data lie now, or the name of a dataset of the hub, which is fetched; None: where they lay in training.
    reads_captions: whether captions are read even if none of the models is conditioned on them.
    Raises UserError if they are not at hand, if there is a `data_root` and the data have no root, or if the checkpoint names as its
    data what is none.
    """
    config = loaded.config
    if not isinstance(config.get("data"), DictConfig):
        raise UserError("this checkpoint does not say on what data it was trained")
    check_file({"data": unresolved_container(config.data)}, "checkpoint")
    if data_root is not None:
        set_data_root(config, data_root, "this checkpoint")
    with names_data_root():
        is_conditioned = any(stage.model.conditioner.reads_captions for stage in loaded.cascade)
        data = prepare_data(build_data(config), fabric, reads_captions or is_conditioned)
    with fabric.rank_zero_first():  # stores its results for the other processes
        for stage in loaded.cascade:
            attach_captions(stage.model.conditioner, data)
    return data


def prepare_data(data: ImageDataModule, fabric: Fabric, reads_captions: bool) -> ImageDataModule:
    """Returns the data after its files were prepared, by one process first; without captions unless something reads them."""
    if not reads_captions:
        data.leave_out_captions()
    with fabric.rank_zero_first():
        data.prepare_data()
    return data
