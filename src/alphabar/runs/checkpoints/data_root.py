"""Data that lie elsewhere than when a run began: where they are now, and whether they are the same."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alphabar.errors import DataNotFound, UserError
from alphabar.files.paths import user_path
from alphabar.runs.checkpoints.kept_checkpoints import LastCheckpoint

log = logging.getLogger(__name__)


def set_data_root(config: DictConfig, data_root: str, owner: str) -> None:
    """Changes where the data of a stored configuration lie, or the name of their dataset on the hub, which may then be fetched.

    owner: what has been trained on the data, in messages. Raises UserError if the data have neither.
    """
    key = next((key for key in ("root", "path", "shards", "name") if key in config.data), None)
    if key is None:
        raise UserError(f"data_root={data_root}: {owner} was trained on data without a root")
    OmegaConf.update(config, f"data.{key}", data_root if key == "name" else str(user_path(data_root).absolute()))
    if key == "name":  # of a dataset of the hub, which this command names
        OmegaConf.update(config, "data.download", True, force_add=True)


@contextmanager
def names_data_root() -> Iterator[None]:
    """Makes the message about data that are not there name the key that says where they lie now."""
    try:
        yield
    except UserError as error:
        cause = error if isinstance(error, DataNotFound) else error.__cause__
        if not isinstance(cause, DataNotFound):
            raise
        raise UserError(f"{cause.problem}; data_root=... says where the data lie now") from error


def compare_image_files(config: DictConfig, found: Mapping[str, Any] | None, stopped: LastCheckpoint | None) -> None:
    """Compares the images with those that the run began with, and notes these in its configuration.

    found: their number and a hash of their names and sizes; None for data that are not files of the user's. stopped: the checkpoint
    from which the run goes on; None for one that begins.
    Raises UserError if a command has said where they lie and they are others; otherwise a line says so.
    """
    if found is None:
        return
    known = None if stopped is None else _image_files(config.get("image_files")) or _image_files(stopped.config.get("image_files"))
    data_root = config.get("data_root")
    if known is not None and known != found:
        numbers = f"{found['num']:,} images, {known['num']:,} then" if found["num"] != known["num"] else "other names or sizes"
        if data_root is not None:
            raise UserError(f"data_root={data_root}: these are not the images that the run began with: {numbers}")
        log.warning("the images are no longer those that the run began with: %s", numbers)
    elif known is None and data_root is not None:
        log.warning("data_root=%s: this run of an earlier version did not note its images, so they are not compared", data_root)
    config.image_files = known or dict(found)


def _image_files(content: Any) -> dict[str, Any] | None:
    """Returns what a stored configuration notes of the images; None if it notes nothing, or nothing that a run writes."""
    noted = {str(key): value for key, value in content.items()} if isinstance(content, Mapping | DictConfig) else {}
    return noted if isinstance(noted.get("num"), int) and isinstance(noted.get("names_and_sizes"), str) else None
