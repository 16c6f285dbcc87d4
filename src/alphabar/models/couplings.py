"""Couplings that choose which noise of a batch meets which image, by solving an assignment.

Each process solves that of its own rows: unlike all else, it depends on how many processes share a batch.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.diffusion.objectives import Coupling


class Immiscible(Coupling):
    """Noise is dealt out within the batch so that the sum of the distances |x - eps| is least (Li et al. 2024, "Immiscible
    diffusion", Alg. 1); what is added to an image is what the network is to find.

    Costs a transfer to the CPU and O(B^3) there: 2 ms for a batch of 128.
    """

    def forward(self, x: Tensor, share: RankShare = SINGLE_PROCESS) -> Tensor:
        return assign_noise(x, share.randn_like(x), power=1)


class OptimalTransport(Coupling):
    """The pairs of a batch with the least sum of |x - eps|^2: paths of a flow that cross less (Pooladian et al. 2023;
    Tong et al. 2023, sec. 3.2). The transport plan between two batches of equal size is a permutation, found exactly.
    """

    def forward(self, x: Tensor, share: RankShare = SINGLE_PROCESS) -> Tensor:
        return assign_noise(x, share.randn_like(x), power=2)


def assign_noise(x: Tensor, eps: Tensor, power: int) -> Tensor:
    """Returns the rows of eps [B, ...] in the order in which their distances to the rows of x to this power sum to the least."""
    distances = torch.cdist(x.flatten(1).float(), eps.flatten(1).float()) ** power
    _, order = linear_sum_assignment(distances.cpu().numpy())
    return eps[torch.from_numpy(order).to(eps.device)]
