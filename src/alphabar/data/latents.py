"""Latents of the training images, encoded once and kept on the disk."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer
from alphabar.files.cache import DiskCache
from alphabar.models.codecs import LatentCodec
from alphabar.runs.distributed import from_first, raise_together, rank_and_size, sum_over_ranks

log = logging.getLogger(__name__)
VERSION = 1
CHUNK = 64  # images of each rank, at a time
MAX_MEASURED = 10_000  # images, of which the mean and the standard deviation of latents are known to a few thousandths
MAX_HEADER = 2**20
ENTRY = "latents"


@dataclass(frozen=True)
class Stored:
    """What a file holds: float16 [num, 2, ...], means and standard deviations, in safetensors' format.

    digest: of the encoder. fingerprint: of the data. flip: whether the second half is of the mirrored images.
    """

    digest: str
    fingerprint: str
    flip: bool
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return 2 * prod(self.shape)

    def path(self, cache_dir: Path) -> Path:
        return DiskCache(cache_dir).path("latents", VERSION, self.digest, self.fingerprint, self.flip, suffix=".safetensors")

    def header(self) -> bytes:
        """Returns the bytes before the numbers: the length of the header in eight bytes, and the header in JSON."""
        known = {"digest": self.digest, "fingerprint": self.fingerprint, "flip": str(self.flip)}
        entry = {"dtype": "F16", "shape": list(self.shape), "data_offsets": [0, self.num_bytes]}
        text = json.dumps({"__metadata__": known, ENTRY: entry}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def take_latents(codec: LatentCodec, data: ImageDataModule, device: torch.device, with_images: bool) -> None:
    """Measures the spread of the codec's latents and, if they are cached, makes the data feed them; every process calls it.

    The spread is that of the first `MAX_MEASURED` training images, none mirrored, unless the codec knows it from a checkpoint.
    with_images: feed the images, too. Raises UserError if latents cannot be kept, or are of another encoder.
    """
    images = data.train_set
    num = min(MAX_MEASURED, len(images))
    if codec.cache_dir is not None:
        latents = kept(codec, images, data.flip, data.source.fingerprint(), codec.cache_dir, device)
        data.feed_latents(latents, with_images)
        if not codec.is_measured:
            codec.measure(*spread(sums(latents[:num].split(CHUNK))), num)
    elif not codec.is_measured:
        rank, world_size = rank_and_size()
        own = torch.arange(rank, max(num, world_size), world_size) % num  # with fewer images than processes, some twice
        found = sums(part for _, part in _encoded(codec, images, own))
        codec.measure(*spread(found if world_size == 1 else sum_over_ranks(found.to(device)).cpu()), num)


def kept(codec: LatentCodec, images: ImageSet, flip: bool, fingerprint: str, cache_dir: Path, device: torch.device) -> Tensor:
    """Returns the latents of the images, then of the mirrored images if `flip`: float16 [N, 2, ...], read when they are used.

    All processes share the work, and the folder: the first one writes. Raises UserError if it cannot, for a file that is of another
    encoder or other data, and for images that cannot be read or latents beyond half precision.
    """
    num = len(images) * (2 if flip else 1)
    wanted = Stored(codec.digest, fingerprint, flip, (num, 2, *codec.space(*images.shape)))
    path = wanted.path(cache_dir)
    if not from_first(lambda: is_there(path, wanted)):
        _make(codec, images, wanted, path, device)
    error = None
    if not path.is_file():
        error = UserError(f"codec.cache_dir: {path}, which the first process wrote, is not there for all: they need one folder")
    raise_together(error)
    numbers = np.memmap(path, np.float16, mode="c", offset=len(wanted.header()), shape=wanted.shape)
    return torch.from_numpy(numbers)


def is_there(path: Path, wanted: Stored) -> bool:
    """Whether the file holds what is wanted; of a damaged one, which is as good as none, a warning says so.

    Raises UserError for a file of other latents.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER)))
            known, entry = header["__metadata__"], header[ENTRY]
            size = file.tell() + entry["data_offsets"][1]
            found = Stored(known["digest"], known["fingerprint"], known["flip"] == "True", tuple(entry["shape"]))
        whole = path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        whole, found = False, wanted
    if not whole:
        log.warning("%s is damaged, so it is made again", path)
        return False
    for name in ("digest", "fingerprint", "shape", "flip"):
        there, need = vars(found)[name], vars(wanted)[name]
        if there != need:
            raise UserError(f"{path}: holds latents of another {name}: need {_short(need)}, found {_short(there)}; delete it")
    return True


def sums(parts: Iterable[Tensor]) -> Tensor:
    """Returns sums over all images and positions of 1, mean and mean^2 + std^2 of distributions [B, 2, c, ...]: float64 [3, c]."""
    found = torch.zeros(())
    for part in parts:
        mean, std = (values.transpose(0, 1).flatten(1) for values in part.cpu().double().unbind(1))
        found = found + torch.stack([torch.ones_like(mean), mean, mean**2 + std**2]).sum(2)
    return found


def spread(found: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (mean [c], std [c]) of latents z with these `sums` of their distributions: Var[z] = E[mean^2 + std^2] - E[z]^2."""
    count, first, second = found
    mean = first / count
    return mean.float(), (second / count - mean**2).clamp(min=1e-12).sqrt().float()


def _make(codec: LatentCodec, images: ImageSet, wanted: Stored, path: Path, device: torch.device) -> None:
    """Encodes the images on all processes and writes their latents, atomically, on the first one."""
    rank, world_size = rank_and_size()
    file: BinaryIO | None = None
    error: UserError | None = None
    with ExitStack() as output:
        if rank == 0:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = output.enter_context(atomic_writer(path))
                file.write(wanted.header())
            except OSError as problem:
                error = _refusal(path, problem)
        raise_together(error)
        with tqdm(total=wanted.shape[0], desc="encoding images", unit="img", delay=2, leave=False, disable=rank > 0 or None) as bar:
            for part in _shared(codec, images, wanted, device, rank, world_size):
                if file is not None and error is None:
                    try:
                        file.write(part.numpy().tobytes())
                    except OSError as problem:  # said at the end, since the others wait for this one's share
                        error = _refusal(path, problem)
                bar.update(len(part))
        if error is None:
            try:
                output.close()
            except OSError as problem:
                error = _refusal(path, problem)
        raise_together(error)


def _shared(
    codec: LatentCodec, images: ImageSet, wanted: Stored, device: torch.device, rank: int, world_size: int
) -> Iterator[Tensor]:
    """Returns all latents in their order, float16 [n, 2, ...] on the CPU, on every process; each encodes its share."""
    for mirrored in (False, True) if wanted.flip else (False,):
        for indices in torch.arange(len(images)).split(CHUNK * world_size):
            own = torch.arange(rank, len(indices), world_size)
            part, error = torch.zeros(len(indices), *wanted.shape[1:], device=device), None
            try:
                for places, latents in _encoded(codec, images, indices[own], mirrored, all_of_them=True):
                    part[own[places]] = latents.to(device)
            except UserError as problem:
                error = problem
            raise_together(error)
            yield sum_over_ranks(part).half().cpu()  # zero on all processes but one


def _encoded(
    codec: LatentCodec, images: ImageSet, indices: Tensor, mirrored: bool = False, all_of_them: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (positions among `indices`, latents [B, 2, ...]).

    all_of_them: to be kept. Raises UserError then for an image that cannot be read, in whose place its set gives another, and for
    numbers beyond half precision.
    """
    for places in torch.arange(len(indices)).split(CHUNK):
        if len(places) == 0:
            continue
        batch, facts = images.batch(indices[places]), images.metadata(indices[places])
        if all_of_them and any(not torch.equal(batch[name].cpu(), known.cpu()) for name, known in facts.items()):
            raise UserError(
                "data: there are images that cannot be read, which have no latents; take them out, or codec.cache=false"
            )
        image = batch["image"].flip(-1) if mirrored else batch["image"]
        with torch.no_grad():
            latents = codec.distribution(image)
        if all_of_them and not latents.half().isfinite().all():
            raise UserError("codec: the autoencoder gives latents beyond half precision, which cannot be kept; codec.cache=false")
        yield places, latents


def _refusal(path: Path, problem: OSError) -> UserError:
    reason = problem.strerror or type(problem).__name__
    return UserError(f"codec.cache_dir: cannot write {path} ({reason}); codec.cache=false encodes at every step")


def _short(value: object) -> str:
    return f"{value[:16]}..." if isinstance(value, str) and len(value) > 16 else str(value)
