"""Map-style datasets of the user: objects with `__len__` and `__getitem__`."""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, TypeVar, Unpack

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import IterableDataset

from alphabar.bits import Bits
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.decoding.raw_images import RawImage, content_of, to_raw_image
from alphabar.data.decoding.unreadable import unreadable_message
from alphabar.data.image_sets.numbered import Metadata, NumberedImages, NumberedSource
from alphabar.data.loading.options import Loading
from alphabar.errors import UserError
from alphabar.progress import show_progress
from alphabar.resolution import Resolution

NUM_LOOKED_AT = 64  # items, spread evenly, that a fingerprint is made of
ONE_AT_A_TIME = Lock()  # the code of the dataset need not be thread-safe
KEYS = ("image", "label", "caption", "vector")
T = TypeVar("T")


class MapStyleDataset(ABC):
    """The interface of map-style datasets, as in torch; a dataset need not derive from it."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> Any: ...

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return all(any(name in vars(base) for base in other.__mro__) for name in ("__len__", "__getitem__"))


class Item(NamedTuple):
    """An image with its metadata; None for those that it does not have."""

    image: RawImage
    label: int | None = None
    caption: str | None = None
    vector: tuple[float, ...] | None = None

    @property
    def kinds(self) -> list[str]:
        """The names of the metadata that the item has."""
        return [name for name in KEYS[1:] if getattr(self, name) is not None]


def read_item(value: object) -> Item:
    """Returns an item of a dataset: an image, a pair (image, metadata), or a mapping with keys of `KEYS`.

    The metadata of a pair are a label (a whole number), a caption (a text) or a vector (several numbers). Raises ValueError for
    anything else.
    """
    if isinstance(value, Mapping):
        known = {key: entry for key, entry in value.items() if entry is not None}
        if "image" not in known or not set(known) <= set(KEYS):
            found = ", ".join(map(str, value))
            raise ValueError(f"need a mapping with the key image and perhaps {', '.join(KEYS[1:])}, got the keys {found or 'none'}")
        caption = known.get("caption")
        if caption is not None and not (isinstance(caption, str) and caption.strip()):
            raise ValueError(f"need a caption of letters, got {caption!r}")
        label, vector = known.get("label"), known.get("vector")
        return Item(
            to_raw_image(known["image"]),
            None if label is None else _to_label(label),
            None if caption is None else caption.strip(),
            None if vector is None else _to_vector(vector),
        )
    if not isinstance(value, tuple | list):
        return Item(to_raw_image(value))
    if len(value) not in (1, 2):
        raise ValueError(f"need an image or (image, label), got {len(value)} values; a mapping may have {', '.join(KEYS)}")
    image, known = (*value, None)[:2]
    kind = _kind_of(known)
    return read_item({"image": image} | ({} if kind is None else {kind: known}))


def _kind_of(value: object) -> str | None:
    """Returns the key of `KEYS` for the metadata in a pair."""
    if value is None:
        return None
    if isinstance(value, str):
        return "caption"
    is_vector = isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Tensor) and value.ndim > 0)
    return "vector" if is_vector else "label"


def _to_label(value: Any) -> int:
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"need a label that is a whole number, got {value!r}; numbers of any kind are a vector, [0.5]") from error


def _to_vector(value: Any) -> tuple[float, ...]:
    """Returns a vector as float32."""
    try:
        numbers = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"need a vector of numbers, got {str(value)[:60]}") from error
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"need a vector of finite numbers [D], got {str(value)[:60]}")
    return tuple(numbers.tolist())


class DatasetImages(NumberedImages):
    """The items of a dataset, see `read_item`. Its attributes `classes` and `targets` are used as in torchvision.

    key: the configuration key of the dataset, in messages. Raises ValueError for an object that is no map-style dataset.
    """

    def __init__(self, dataset: MapStyleDataset, key: str) -> None:
        kind = type(dataset).__name__
        if isinstance(dataset, IterableDataset):
            raise ValueError(f"{key}={kind}: need a dataset with __len__ and __getitem__, this one can only be iterated")
        if not isinstance(dataset, MapStyleDataset):
            raise ValueError(f"{key}={kind}: need a dataset with __len__ and __getitem__")
        self.dataset = dataset
        self.kind = kind

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, number: int) -> RawImage:
        return self._item(number).image

    def name(self, number: int) -> str:
        return f"item {number} of {self.kind}"

    def metadata(self, reads_captions: bool) -> Metadata:
        kinds = self._checked(0, self._item).kinds
        if not kinds or (kinds == ["caption"] and not reads_captions):
            return Metadata()
        if kinds == ["label"] and (targets := self._targets) is not None:
            return Metadata(torch.tensor(targets, dtype=torch.int64))
        items: list[Item] = []
        with show_progress("reading items", len(self), "item", rank_zero_only.rank == 0) as bar:
            for number in range(len(self)):
                items.append(self._checked(number, self._known)._replace(image=torch.empty(0)))
                bar.update()
        return self._joined(items, kinds)

    @property
    def classes(self) -> Sequence[str] | None:
        names = getattr(self.dataset, "classes", None)
        return [str(name) for name in names] if isinstance(names, list | tuple) else None

    @property
    def remarks(self) -> Mapping[str, str]:
        first, again = (content_of(self._checked(0, self.read)) for _ in range(2))
        if first == again:
            return {}
        line = f"{self.name(0)} is another image whenever it is read, so that no run can be repeated"
        return {"random": f"{line}; data.flip=true mirrors at random"}

    def fingerprint(self) -> str:
        content = hashlib.blake2b(f"{type(self.dataset).__module__}.{self.kind} {len(self)}".encode(), digest_size=16)
        for number in np.linspace(0, len(self) - 1, min(NUM_LOOKED_AT, len(self))).astype(int).tolist():
            image, *known = self._checked(number, self._item)
            content.update(content_of(image) + repr(known).encode(errors="surrogateescape"))
        return content.hexdigest()

    def _item(self, number: int) -> Item:
        with ONE_AT_A_TIME:
            value = self.dataset[number]
        return read_item(value)

    def _known(self, number: int) -> Item:
        """Returns an item. Raises ValueError unless it has the same kinds of metadata as the first item."""
        item = self._item(number)
        first = self._first_kinds
        if item.kinds != first:
            words = [", ".join(kinds) or "nothing" for kinds in (first, item.kinds)]
            raise ValueError(f"need {words[0]} beside the image, as of item 0, got {words[1]}")
        return item

    @cached_property
    def _first_kinds(self) -> list[str]:
        return self._item(0).kinds

    def _checked(self, number: int, read: Callable[[int], T]) -> T:
        try:
            return read(number)
        except Exception as error:  # any kind: it is other people's code
            raise UserError(unreadable_message(self.name(number), error)) from error

    @cached_property
    def _targets(self) -> list[int] | None:
        """Returns the attribute `targets` of the dataset as labels, or None unless it agrees with the labels of some items."""
        targets = getattr(self.dataset, "targets", None)
        if not isinstance(targets, list | np.ndarray | Tensor) or len(targets) != len(self):
            return None
        try:
            labels = [_to_label(target) for target in targets]
        except ValueError:
            return None
        some = {0, len(self) // 2, len(self) - 1}
        return labels if all(self._checked(number, self._item).label == labels[number] for number in some) else None

    def _joined(self, items: list[Item], kinds: list[str]) -> Metadata:
        """Returns the metadata of all items. Raises UserError for vectors of different lengths."""
        lengths = {len(item.vector) for item in items if item.vector is not None}
        if len(lengths) > 1:
            first = len(items[0].vector or ())
            odd = next(number for number, item in enumerate(items) if len(item.vector or ()) != first)
            raise UserError(f"{self.name(odd)} has a vector of {len(items[odd].vector or ())} numbers, item 0 has one of {first}")
        return Metadata(
            torch.tensor([item.label for item in items], dtype=torch.int64) if "label" in kinds else None,
            [item.caption or "" for item in items] if "caption" in kinds else None,
            torch.tensor([item.vector for item in items], dtype=torch.float32) if "vector" in kinds else None,
        )


class MapDataset(ImageDataModule):
    """The data module of a map-style dataset, see `DatasetImages`; other arguments as in `NumberedSource`.

    held_out_dataset: a dataset that is never trained on; None: the fraction `held_out` of `dataset`.
    """

    def __init__(
        self,
        dataset: MapStyleDataset,
        held_out_dataset: MapStyleDataset | None = None,
        *,
        held_out: float = 0.1,
        resolution: Resolution | None = None,
        channels: int | None = None,
        classes: Sequence[str] | None = None,
        bits: Bits = 8,
        **loading: Unpack[Loading],
    ) -> None:
        images = DatasetImages(dataset, "dataset")
        others = None if held_out_dataset is None else DatasetImages(held_out_dataset, "held_out_dataset")
        source = NumberedSource(images, others, held_out, resolution, channels, classes, bits=bits)
        super().__init__(source, title=type(dataset).__name__, **loading)
