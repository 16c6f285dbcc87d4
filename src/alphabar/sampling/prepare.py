"""What the metrics of `evaluate.py` share: the data of a checkpoint, and a folder that goes again after a complaint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric import Fabric
from omegaconf import OmegaConf

from alphabar.config.build import build
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.runs.run_dir import withdraw
from alphabar.sampling.model import Loaded


@contextmanager
def withdrawn_on_complaint(run_dir: str) -> Iterator[None]:
    """Takes the folder of a command away again where a UserError ends it before anything was measured."""
    try:
        yield
    except UserError:
        withdraw(Path(run_dir))
        raise


def data_of(loaded: Loaded, data_root: str | None, fabric: Fabric) -> ImageDataModule:
    """The data that a checkpoint was trained on, under `data_root` if that is given; its conditioner, and those of the models
    before it, know their captions.

    Raises UserError if they are not at hand, or for a `data_root` where the data has no root.
    """
    config = loaded.config
    if data_root is not None:
        if "root" not in config.data:
            raise UserError(f"data_root={data_root}: this checkpoint was trained on data without a root")
        OmegaConf.update(config, "data.root", data_root)
    data = prepared(build(config.data, "data"), fabric)
    with fabric.rank_zero_first():  # what it computes, it keeps for the others
        for each in loaded.chain:
            each.model.conditioner.attach_captions(data.captions)
    return data


def prepared(data: ImageDataModule, fabric: Fabric) -> ImageDataModule:
    """The same, once its files are there."""
    with fabric.rank_zero_first():
        data.prepare_data()
    return data
