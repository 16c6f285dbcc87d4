"""A test of whether generated images are copies of training images.

A model that has learnt a distribution comes as close to its training images as other real images do; one that has learnt images
comes closer (Meehan et al. 2020, "A non-parametric test to detect data-copying"). Distances are Euclidean, in feature space.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

QUANTILE = 0.01  # the share of held-out images within the threshold distance of a training image
SHARE = 0.05  # the share of generated images that may be as near, five times that by chance
CHANCE = 1e-4
NUM_NEIGHBOURS = 3
CHUNK = 1000


class Neighbours(NamedTuple):
    """The nearest training images: distances [M, 3], the nearest first, and indices [M, 3]."""

    distances: Tensor
    indices: Tensor


class Memorisation(NamedTuple):
    """The comparison of generated with held-out images by their distance to the nearest training image.

    threshold: the distance below which a hundredth of the held-out images lie. share: the share of generated images below it.
    chance: the probability of at least this share if both kinds were drawn from one distribution (a beta-binomial, since the
        threshold is an order statistic). num, num_held_out, num_searched: numbers of images. is_flagged: the share is above
        0.05, and chance below one in ten thousand.
    """

    threshold: float
    share: float
    chance: float
    median: float
    median_held_out: float
    num: int
    num_held_out: int
    num_searched: int
    is_flagged: bool


def nearest_neighbours(queries: Tensor, bank: Tensor, device: torch.device) -> Neighbours:
    """Returns the nearest rows of the bank [N, D], N >= 1, for features [M, D], computed a few thousand at a time."""
    parts = [_nearest(part.to(device), bank, device) for part in queries.split(CHUNK)]
    return Neighbours(torch.cat([each.distances for each in parts]), torch.cat([each.indices for each in parts]))


def _nearest(queries: Tensor, bank: Tensor, device: torch.device) -> Neighbours:
    num = min(NUM_NEIGHBOURS, len(bank))
    distances, indices = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(bank), 5 * CHUNK):
        part = torch.cdist(queries, bank[start : start + 5 * CHUNK].to(device)).cpu()
        near = part.topk(min(num, part.shape[1]), largest=False)
        distances = torch.cat([distances, near.values], 1)
        indices = torch.cat([indices, near.indices + start], 1)
    best = distances.topk(num, largest=False)
    return Neighbours(best.values, indices.gather(1, best.indices))


def compare_distances(generated: Neighbours, held_out: Neighbours, num_searched: int) -> Memorisation:
    """Compares the nearest distances of generated images with those of held-out ones, at least one of each."""
    from scipy.stats import betabinom  # here, since a report that only shows such figures does not need all of scipy.stats

    ours, theirs = generated.distances[:, 0].double(), held_out.distances[:, 0].double()
    rank = max(1, math.ceil(QUANTILE * len(theirs)))
    threshold = float(theirs.kthvalue(rank).values)
    num_near = int((ours <= threshold).sum())
    share = num_near / len(ours)
    chance = float(betabinom(len(ours), rank, len(theirs) + 1 - rank).sf(num_near - 1))
    return Memorisation(
        threshold,
        share,
        chance,
        float(ours.median()),
        float(theirs.median()),
        len(ours),
        len(theirs),
        num_searched,
        share > SHARE and chance < CHANCE,
    )
