"""Caption retrieval among candidates that are the same in every run."""

import torch
from torch import Tensor

from alphabar.diffusion.noise import derive_seed

NUM = 10  # the number of candidates, including the right one: chance is 0.1
SEED = derive_seed("retrieval")  # independent of the run's seed, so that runs are compared on the same candidates


def candidates(indices: Tensor, captions: Tensor, num_captions: int) -> Tensor:
    """Returns int64 [B, 10]: each image's caption, first, and nine different others, or fewer if there are fewer captions.

    They depend on the image's index, its caption and the number of captions alone.
    indices: int64 [B], the indices of the images. captions: int64 [B] in 0..num_captions - 1, their captions.
    """
    rows = []
    for index, caption in zip(indices.tolist(), captions.tolist(), strict=True):
        generator = torch.Generator().manual_seed(derive_seed("candidates", SEED, index))
        others = torch.randperm(num_captions - 1, generator=generator)[: NUM - 1]
        rows.append(torch.cat([torch.tensor([caption]), others + (others >= caption)]))
    return torch.stack(rows)


def is_retrieved(vectors: Tensor, options: Tensor) -> Tensor:
    """Returns bool [B], whether the first of options [B, K, D] alone has the largest scalar product with vectors [B, D]."""
    similarity = (options.double() @ vectors.double()[:, :, None]).squeeze(2)
    return ranks_first(similarity[:, :1], similarity)


def ranks_first(right: Tensor, similarity: Tensor) -> Tensor:
    """Returns bool [B], whether right [B, 1], which is one of similarity [B, K], is larger than all others."""
    return (~(similarity < right)).sum(1) == 1  # comparisons with NaN are false
