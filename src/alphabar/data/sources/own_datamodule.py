"""A LightningDataModule of the user as data; its datasets are used, in the run's own order."""

from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from alphabar.bits import DTYPE_OF_BITS
from alphabar.config.build import build
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.numbered import NumberedSource
from alphabar.data.sources.dataset import DatasetImages
from alphabar.errors import UserError

HELD_OUT = 0.1  # of the images of a module without validation data
T = TypeVar("T")


def build_data(config: DictConfig) -> ImageDataModule:
    """Returns the data module of the node `data` of a configuration, adapted if it is not an `ImageDataModule`.

    Raises UserError as `adapted` and `build` do.
    """
    found: LightningDataModule = build(config.data, "data")
    return found if isinstance(found, ImageDataModule) else adapted(found, config.seed)


def adapted(datamodule: LightningDataModule, seed: int) -> ImageDataModule:
    """Returns the datasets of a LightningDataModule as data, in batches of the size of its DataLoader for training.

    Its validation data are held out; without any, a tenth of its images is. Order, sampler and `collate_fn` of its loaders are not
    used, so that resuming is exact. Its attribute `bits` gives the bits per channel, 8 by default.

    Raises UserError for loaders other than torch's, for datasets without `__len__` and `__getitem__`, for other bits, and for
    errors that the module raises.
    """
    name = type(datamodule).__name__
    bits: Any = getattr(datamodule, "bits", 8)
    if bits not in DTYPE_OF_BITS:
        raise UserError(f"data: {name}.bits is {bits!r}, need 8 or 16")

    def call(method: Callable[..., T], *args: object) -> T:
        try:
            return method(*args)
        except Exception as error:  # any kind: it is other people's code
            raise UserError(f"data: {name}.{method.__name__}: {type(error).__name__}: {' '.join(str(error).split())}") from error

    def images(method: Callable[[], object]) -> tuple[DatasetImages, int | None]:
        loader = call(method)
        if not isinstance(loader, DataLoader):
            raise UserError(f"data: {name}.{method.__name__}: need a torch.utils.data.DataLoader, got {type(loader).__name__}")
        try:
            dataset: Any = loader.dataset
            return DatasetImages(dataset, f"{name}.{method.__name__}"), loader.batch_size
        except ValueError as error:
            raise UserError(f"data: {error}") from error

    call(datamodule.prepare_data)
    call(datamodule.setup, "fit")
    train, batch_size = images(datamodule.train_dataloader)
    has_held_out = is_overridden("val_dataloader", datamodule, LightningDataModule)
    held_out = images(datamodule.val_dataloader)[0] if has_held_out else None
    remark = f"the datasets of {name} are used, not the order, the sampler and the collate_fn of its loaders"
    source = NumberedSource(train, held_out, HELD_OUT, None, None, None, {"data module": remark}, bits)
    return ImageDataModule(source, *(() if batch_size is None else (batch_size,)), seed=seed, title=name)
