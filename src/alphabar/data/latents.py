"""Latents of the training images, encoded once and kept on the disk."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.cache import DiskCache
from alphabar.models.codecs import LatentCodec
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import from_first, raise_together, rank_and_size, sum_over_ranks

VERSION = 2  # the version of the cached files
CHUNK = 64  # images that each process encodes at a time
MAX_MEASURED = 10_000  # images that give the mean and the standard deviation of latents to a few thousandths


def prepare_latents(codec: LatentCodec, data: ImageDataModule, device: torch.device, with_images: bool) -> None:
    """Measures mean and standard deviation of latents and, if they are cached, puts them into batches; every process calls it.

    Mean and standard deviation are those of the first `MAX_MEASURED` training images, none mirrored, unless the codec knows them
    from a checkpoint. with_images: whether batches have the images, too. Raises UserError if latents cannot be cached.
    """
    images = data.train_set
    num = min(MAX_MEASURED, len(images))
    if codec.cache_dir is not None:
        if data.crops or data.buckets is not None:
            key = "data.crop=random" if data.crops else "data.buckets"
            raise UserError(f"{key}: latents are cached of images cropped in their centre to one size; need codec.cache=false")
        latents = cached_latents(codec, images, data.flip, data.source.fingerprint(), codec.cache_dir, device)
        data.use_latents(latents, with_images)
        if not codec.is_measured:
            codec.measure(*mean_and_std(moment_sums(latents[:num].split(CHUNK))), num)
    elif not codec.is_measured:
        rank, world_size = rank_and_size()
        own = torch.arange(rank, max(num, world_size), world_size) % num  # with fewer images than processes, some twice
        sums = moment_sums(part for _, part in _encoded(codec, images, own))
        codec.measure(*mean_and_std(sums if world_size == 1 else sum_over_ranks(sums.to(device)).cpu()), num)


def cached_latents(
    codec: LatentCodec, images: ImageSet, flip: bool, fingerprint: str, cache_dir: Path, device: torch.device
) -> Tensor:
    """Returns the latents of the images, then of the mirrored images if `flip`: float16 [N, 2, ...], read when they are used.

    [:, 0] are means and [:, 1] standard deviations. All processes share the work and the folder; the first one writes. Raises
    UserError if the file cannot be written, for images that cannot be read and for latents beyond half precision.
    """
    cache, (rank, _) = DiskCache(cache_dir), rank_and_size()
    shape = (len(images) * (2 if flip else 1), 2, *codec.space(*images.shape))
    path = cache.path("latents", VERSION, codec.digest, fingerprint, flip, shape)
    with cache.locked(path) if rank == 0 else nullcontext():
        if not from_first(lambda: cache.is_intact(path)):
            _encode_to_file(codec, images, flip, shape, cache, path, device)
    error = None
    if not path.is_file():
        error = UserError(f"codec.cache_dir: {path}, which the first process wrote, is not there for all: they need one folder")
    raise_together(error)
    return torch.from_numpy(cache.map_array(path, np.float16, shape))


def moment_sums(parts: Iterable[Tensor]) -> Tensor:
    """Returns sums over all images and positions of 1, mean and mean^2 + std^2 of distributions [B, 2, c, ...]: float64 [3, c]."""
    sums = torch.zeros(())
    for part in parts:
        mean, std = (values.transpose(0, 1).flatten(1) for values in part.cpu().double().unbind(1))
        sums = sums + torch.stack([torch.ones_like(mean), mean, mean**2 + std**2]).sum(2)
    return sums


def mean_and_std(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (mean [c], std [c]) of latents z from `moment_sums`: Var[z] = E[mean^2 + std^2] - E[z]^2."""
    count, first, second = sums
    mean = first / count
    return mean.float(), (second / count - mean**2).clamp(min=1e-12).sqrt().float()


def _encode_to_file(
    codec: LatentCodec,
    images: ImageSet,
    flip: bool,
    shape: tuple[int, ...],
    cache: DiskCache,
    path: Path,
    device: torch.device,
) -> None:
    """Encodes the images on all processes, each its share, and writes their latents, float16 of `shape`, on the first one.

    The entry is written atomically. An error of one process is raised on all of them, that of writing with the next chunk.
    """
    rank, world_size = rank_and_size()
    chunks = [
        (mirrored, rows) for mirrored in sorted({False, flip}) for rows in torch.arange(len(images)).split(CHUNK * world_size)
    ]
    error: UserError | None = None
    with show_progress("encoding images", shape[0], "img", rank == 0) as bar, ExitStack() as output:
        write = None
        for mirrored, rows in chunks:
            own = torch.arange(rank, len(rows), world_size)
            part = torch.zeros(len(rows), *shape[1:], device=device)
            try:
                if write is None and rank == 0:
                    write = output.enter_context(cache.writer(path))
                for places, latents in _encoded(codec, images, rows[own], mirrored, is_cached=True):
                    part[own[places]] = latents.to(device)
            except (UserError, OSError) as problem:
                error = error or _as_user_error(path, problem)
            raise_together(error)
            part = sum_over_ranks(part).half().cpu()  # zero on all processes but one
            try:
                if write is not None:
                    write(part.numpy().tobytes())
            except OSError as problem:
                error = _as_user_error(path, problem)
            bar.update(len(part))
        try:
            output.close()
        except OSError as problem:
            error = error or _as_user_error(path, problem)
        raise_together(error)


def _as_user_error(path: Path, error: UserError | OSError) -> UserError:
    """Returns the error, or the line for one that occurred when the file was written."""
    if isinstance(error, UserError):
        return error
    reason = error.strerror or type(error).__name__
    return UserError(f"codec.cache_dir: cannot write {path} ({reason}); codec.cache=false encodes at every step")


def _encoded(
    codec: LatentCodec, images: ImageSet, indices: Tensor, mirrored: bool = False, is_cached: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (positions among `indices`, latents [B, 2, ...]).

    is_cached: whether they are to be cached. Raises UserError then for an image that cannot be read, in whose place its set gives
    another, and for numbers beyond half precision.
    """
    for places in torch.arange(len(indices)).split(CHUNK):
        if len(places) == 0:
            continue
        batch, metadata = images.batch(indices[places]), images.metadata(indices[places])
        if is_cached and any(not torch.equal(batch[name].cpu(), known.cpu()) for name, known in metadata.items()):
            raise UserError(
                "data: there are images that cannot be read, which have no latents; take them out, or codec.cache=false"
            )
        image = batch["image"].flip(-1) if mirrored else batch["image"]
        with torch.no_grad():
            latents = codec.distribution(image)
        if is_cached and not latents.half().isfinite().all():
            raise UserError("codec: the autoencoder gives latents beyond half precision, which cannot be kept; codec.cache=false")
        yield places, latents
