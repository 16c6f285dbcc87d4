"""The arguments that all data modules share."""

from collections.abc import Sequence
from typing import Literal, TypedDict

from alphabar.resolution import Resolution

Cropping = Literal["center", "random"]
Buckets = Sequence[Resolution] | Literal["auto"]


class Loading(TypedDict, total=False):
    """The arguments, by name, that each data module takes beside those of its source; see `ImageDataModule`."""

    batch_size: int
    seed: int
    flip: bool | None
    num_workers: int | None
    resident: bool | None
    max_resident_mb: int
    crop: Cropping
    buckets: Buckets | None
