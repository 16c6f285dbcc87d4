"""The number of items of a stream and their metadata, from one pass that decodes no image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.data.streaming.streams import ImageStream, Known
from alphabar.errors import UserError
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import rank_and_size

VERSION = 1  # the version of the cached index


class StreamIndex(NamedTuple):
    """The number of items of a stream; counts: of each shard, if they have been counted. labels, captions: see `Known`."""

    num: int
    counts: list[int] | None
    labels: Tensor | None
    captions: list[str] | None


def read_index(stream: ImageStream, reads_captions: bool) -> StreamIndex:
    """Returns the index of a stream, which is read to its end without decoding.

    Raises UserError if some items have a label or a caption and others do not.
    """
    counts: list[int] = []
    known: list[Known] = []
    with show_progress("counting images", stream.num_items, "img", rank_and_size()[0] == 0) as bar:
        for shard in range(len(stream.shards)):
            before = len(known)
            for each in stream.known(shard, reads_captions):
                known.append(each)
                bar.update()
            counts.append(len(known) - before)
    labels = _all_or_none(stream, counts, "label", [each.label for each in known])
    captions = _all_or_none(stream, counts, "caption", [each.caption for each in known])
    return StreamIndex(len(known), counts, None if labels is None else torch.tensor(labels, dtype=torch.int64), captions)


def _all_or_none(stream: ImageStream, counts: Sequence[int], kind: str, values: list[Any]) -> list[Any] | None:
    """Returns the values, or None if all are None. Raises UserError, with the name of the shard, if only some are."""
    lacking = [place for place, value in enumerate(values) if value is None]
    if not lacking:
        return values or None
    if len(lacking) == len(values):
        return None
    ends = [sum(counts[: shard + 1]) for shard in range(len(counts))]
    shard = next(shard for shard, end in enumerate(ends) if lacking[0] < end)
    place = lacking[0] - (ends[shard] - counts[shard])
    raise UserError(
        f"item {place} of {stream.shards[shard]} has no {kind}, as {len(lacking):,} of {len(values):,} items have; "
        f"data.{kind}_key=null does without"
    )
