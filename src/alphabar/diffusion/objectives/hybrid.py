"""Learning the variance of the reverse process."""

import math

import torch
from torch import Tensor

from alphabar.diffusion.bound import bound_term, must_be_discrete
from alphabar.diffusion.denoiser import Cond, NetworkDenoiser, Prediction
from alphabar.diffusion.errors import NeedsLearnedVariance
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.diffusion.objectives import Coupling, LossTerms, Objective, Times, Weighting, regress
from alphabar.diffusion.objectives.couplings import Independent
from alphabar.diffusion.objectives.times import UniformTimes
from alphabar.diffusion.objectives.weightings import UniformWeighting


class Hybrid(Objective):
    """The loss L_simple + vlb_weight * L_vlb (Nichol & Dhariwal 2021, eq. 16), with a network that has channels for the variance.

    L_simple is the squared error of the network's output and trains the mean; L_vlb, the variational bound in bits per dimension,
    sees the mean as a constant and trains the variance. A single step stands for the T of the bound, so its term counts T-fold.

    weighting: the weighting of L_simple; None: 1, as in the paper.
    simple: False leaves L_simple out, and the bound trains mean and variance (their L_vlb; draw times by importance then).
    Raises ValueError unless vlb_weight > 0, and for a weighting of what is left out; in use, on a schedule that is not discrete, or
    for a network without such channels.
    """

    def __init__(
        self,
        vlb_weight: float = 0.001,
        simple: bool = True,
        weighting: Weighting | None = None,
        times: Times | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        if not vlb_weight > 0:
            raise ValueError(f"need vlb_weight > 0, got vlb_weight={vlb_weight}")
        self.vlb_weight = vlb_weight
        self.simple = simple
        self.weighting = weighting if weighting is not None else UniformWeighting()
        if not simple and not isinstance(self.weighting, UniformWeighting):
            raise ValueError(
                "need UniformWeighting with simple=False, where the terms of the bound weigh what they do, "
                f"got {type(weighting).__name__}; with simple=True it is the weighting of L_simple"
            )
        self.times = times if times is not None else UniformTimes()
        self.coupling = coupling if coupling is not None else Independent()

    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None, share: RankShare = SINGLE_PROCESS) -> LossTerms:
        schedule = denoiser.schedule
        must_be_discrete(schedule)
        t, level, importance = self.times(schedule, len(x), x.device, share)
        eps = self.coupling(x, share)
        batch = schedule.noised(x, t, eps)
        (y, variance), error = regress(denoiser, batch, cond)
        if variance is None:
            raise NeedsLearnedVariance(
                f"the variance is learned by a network with {2 * x.shape[1]} output channels, this one has {x.shape[1]}"
            )
        x_hat, eps_hat = denoiser.parameterization.invert(y, batch.x_t, *batch.scales.like(x))
        mean = Prediction(x_hat.detach(), eps_hat.detach(), variance) if self.simple else Prediction(x_hat, eps_hat, variance)
        num_steps = float(schedule.time(torch.ones(())))
        bits = bound_term(schedule, mean, batch, t - 1, "learned") / math.log(2)
        loss = self.vlb_weight * num_steps * bits
        if self.simple:
            loss = loss + self.weighting(error, batch.scales, denoiser)
        self.times.observe(level, loss.detach())
        return LossTerms(importance * loss, level)
