"""What the metrics of `evaluate.py` share: the data of a checkpoint, and how figures are written down."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric import Fabric
from omegaconf import OmegaConf

from alphabar.errors import UserError
from alphabar.training.checkpoint import Loaded
from alphabar.training.config import build
from alphabar.training.data.datamodule import ImageDataModule
from alphabar.training.inference import Command
from alphabar.training.run_dir import withdraw
from alphabar.training.screen import shown


@contextmanager
def withdrawn_on_complaint(command: Command) -> Iterator[None]:
    """Takes the command's folder away again where a UserError ends it before anything was measured."""
    try:
        yield
    except UserError:
        withdraw(Path(command.run_dir))
        raise


def data_of(loaded: Loaded, data_root: str | None, fabric: Fabric) -> ImageDataModule:
    """The data that a checkpoint was trained on, under `data_root` if that is given.

    Raises UserError if they are not at hand, or for a `data_root` where the data has no root.
    """
    config = loaded.config
    if data_root is not None:
        if "root" not in config.data:
            raise UserError(f"data_root={data_root}: this checkpoint was trained on data without a root")
        OmegaConf.update(config, "data.root", data_root)
    datamodule: ImageDataModule = build(config.data, "data")
    with fabric.rank_zero_first():
        datamodule.prepare_data()
    return datamodule


def report(command: Command, step: int, figures: Mapping[str, float], details: Mapping[str, object]) -> None:
    """Writes `figures.json`, with what the figures depend on, and prints them; on the first process alone.

    step: of the checkpoint. details: what matters for these figures besides the checkpoint, the weights and the seed.
    """
    receipt = {
        "figures": figures,
        "checkpoint": command.checkpoint,
        "step": step,
        "weights": command.weights_label,
        "seed": command.seed,
        **details,
        "precision": command.precision,
    }
    file = Path(command.run_dir) / "figures.json"
    file.write_text(json.dumps(receipt, indent=2, default=named) + "\n", encoding="utf-8")
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value:.4g}")
    print(f"written down in {shown(file)}")


def named(settings: object) -> dict[str, object]:
    """A dataclass, such as a sampler or its grid, as its class's name with its settings."""
    return {"name": type(settings).__name__, **vars(settings)}
