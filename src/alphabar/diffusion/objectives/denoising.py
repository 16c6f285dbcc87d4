"""The objective of DDPM and its relatives: regress the network's output on its target."""

from torch import Tensor

from alphabar.diffusion.denoiser import Cond, NetworkDenoiser
from alphabar.diffusion.errors import LeavesVarianceUntrained
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.diffusion.objectives import Coupling, LossTerms, Objective, Times, Weighting, regress
from alphabar.diffusion.objectives.couplings import Independent
from alphabar.diffusion.objectives.times import UniformTimes
from alphabar.diffusion.objectives.weightings import UniformWeighting


class Denoising(Objective):
    """The loss w(t) * mean((y(x_t, t) - target)^2), x_t = alpha_t * x + sigma_t * eps (Ho et al. 2020, Alg. 1).

    weighting: w; None: 1. times: how t is drawn; None: uniformly. coupling: how eps is drawn; None: whatever x is.
    Raises ValueError in use, for a network that has channels for a variance.
    """

    def __init__(self, weighting: Weighting | None = None, times: Times | None = None, coupling: Coupling | None = None) -> None:
        super().__init__()
        self.weighting = weighting if weighting is not None else UniformWeighting()
        self.times = times if times is not None else UniformTimes()
        self.coupling = coupling if coupling is not None else Independent()

    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None, share: RankShare = SINGLE_PROCESS) -> LossTerms:
        t, level, importance = self.times(denoiser.schedule, len(x), x.device, share)  # Alg. 1, line 3: t ~ Uniform(1..T)
        eps = self.coupling(x, share)  # line 4: eps ~ N(0, I)
        batch = denoiser.schedule.noised(x, t, eps)
        output, error = regress(denoiser, batch, cond)  # line 5: ||eps - eps_hat(x_t, t)||^2
        if output.variance is not None:
            raise LeavesVarianceUntrained("this network has channels for a variance, which Denoising would leave untrained")
        loss = self.weighting(error, batch.scales, denoiser)
        self.times.observe(level, loss.detach())
        return LossTerms(importance * loss, level)
