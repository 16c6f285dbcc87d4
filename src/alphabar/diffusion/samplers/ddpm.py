"""Ancestral sampling."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler
from alphabar.diffusion.schedules import posterior
from alphabar.diffusion.variances import Variance, log_variance


@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """The sampler x_s ~ N(mean of q(x_s | x_t, x_hat), variance) (Ho et al. 2020, Alg. 2, over any subset of the steps).

    variance: "posterior", that of q(x_s | x_t, x), right for data at one point; "beta", that of q(x_t | x_s), right for normal data
        (Ho et al. 2020, sec. 3.2); "learned", between both as the network says, for whatever steps are left
        (Nichol & Dhariwal 2021, sec. 3.3). The last step adds no noise.
    Raises ValueError in use, if "learned" is asked of a network that has learned none.
    """

    num_steps: int | None = None
    variance: Variance = "posterior"

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        prediction = run.predict(x_t, t)
        at_t, at_s = run.schedule.scales(t), run.schedule.scales(s)
        mean, _ = posterior(prediction.x_hat, x_t, at_t, at_s)
        z = run.noise(x_t)
        if run.ends_at_data:
            return mean
        log_var = log_variance(run.schedule, self.variance, prediction.variance, at_t, at_s, x_t)
        return mean + (0.5 * log_var).exp() * z
