"""Steps of samplers whose network is a constant: what a sampler itself takes, beside a loop of bare formulas and diffusers."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from measuring.timing import Clock, Contestant
from torch import Tensor, nn

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Static

NUM_STEPS = 50


class Constant(nn.Module):
    """A network whose output does not depend on its input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
        return self.output


class Trajectory(Contestant):
    """A contestant whose piece of work is a step, one of the NUM_STEPS of a trajectory from x_T, of which the mean is taken.

    eps: the output of the network. sampler: the sampler whose formulas are used, on the linear schedule.
    """

    precision = "float32"

    def __init__(self, x_T: Tensor, eps: Tensor, sampler: Sampler, clock: Clock) -> None:
        self.x_T, self.eps, self.clock, self.images = x_T, eps, clock, len(x_T)
        self.sampler = replace(sampler, num_steps=NUM_STEPS, thresholding=Static())
        self.denoiser = NetworkDenoiser(Constant(eps), LinearSchedule(), Epsilon())
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Makes what does not belong to a step."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Returns the end of the trajectory."""

    def times(self, num: int) -> list[float]:
        self.sample()
        found = []
        for _ in range(num):
            begin = self.clock()
            self.sample()
            found.append((self.clock() - begin) / NUM_STEPS)
        return found


class OurSampler(Trajectory):
    """The steps of our sampler, as `sample.py` calls it."""

    label = "alphabar"

    def prepare(self) -> None:
        """Has nothing to make."""

    def sample(self) -> Tensor:
        return self.sampler.sample(self.denoiser, self.x_T)


class BareFormulas(Trajectory):
    """A loop of the formulas with numbers that were computed before; `step` takes x_t and the index of the step."""

    label = "a loop of bare formulas"

    def prepare(self) -> None:
        alpha, sigma = self.denoiser.schedule(self.sampler.times(self.denoiser.schedule))
        self.alpha, self.sigma = alpha.double().tolist(), sigma.double().tolist()
        self.before: Tensor | None = None

    @torch.no_grad()
    def sample(self) -> Tensor:
        x, self.before = self.x_T, None
        for index in range(NUM_STEPS):
            x = self.step(x, index)
        return x

    @abstractmethod
    def step(self, x: Tensor, index: int) -> Tensor:
        """Returns x at the time after this step."""

    def data(self, x: Tensor, index: int) -> Tensor:
        """Returns x_hat, clipped."""
        return ((x - self.sigma[index] * self.eps) / self.alpha[index]).clamp(-1, 1)

    def both(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Returns x_hat, clipped, and the eps_hat that goes with it."""
        x_hat = self.data(x, index)
        return x_hat, (x - self.alpha[index] * x_hat) / self.sigma[index]


class BareEuler(BareFormulas):
    """The formula of DDIM without noise, which is Euler's method."""

    def step(self, x: Tensor, index: int) -> Tensor:
        x_hat, eps_hat = self.both(x, index)
        return self.alpha[index + 1] * x_hat + self.sigma[index + 1] * eps_hat


class BareHeun(BareFormulas):
    """The trapezoidal rule in alpha and sigma."""

    def step(self, x: Tensor, index: int) -> Tensor:
        x_hat, eps_hat = self.both(x, index)
        end = self.alpha[index + 1] * x_hat + self.sigma[index + 1] * eps_hat
        if index == NUM_STEPS - 1:
            return end
        x_hat_end, eps_hat_end = self.both(end, index + 1)
        along_x, along_eps = (values[index + 1] - values[index] for values in (self.alpha, self.sigma))
        return x + along_x / 2 * (x_hat + x_hat_end) + along_eps / 2 * (eps_hat + eps_hat_end)


class BareDPMpp2M(BareFormulas):
    """DPM-Solver++ of second order in lambda = ln(alpha / sigma)."""

    def step(self, x: Tensor, index: int) -> Tensor:
        x_hat = direction = self.data(x, index)
        last = index == NUM_STEPS - 1
        h = math.inf if last else self.log_snr(index + 1) - self.log_snr(index)
        if self.before is not None and not last:
            ratio = (self.log_snr(index) - self.log_snr(index - 1)) / h
            direction = x_hat + (x_hat - self.before) / (2 * ratio)
        self.before = x_hat
        return self.sigma[index + 1] / self.sigma[index] * x - self.alpha[index + 1] * math.expm1(-h) * direction

    def log_snr(self, index: int) -> float:
        return math.log(self.alpha[index] / self.sigma[index])


class BareDDPM(BareFormulas):
    """The mean and the variance of q(x_s | x_t, x_hat)."""

    def step(self, x: Tensor, index: int) -> Tensor:
        (alpha_t, alpha_s), (sigma_t, sigma_s) = self.alpha[index : index + 2], self.sigma[index : index + 2]
        alpha_ts = alpha_t / alpha_s
        var_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
        mean = alpha_ts * sigma_s**2 / sigma_t**2 * x + alpha_s * var_ts / sigma_t**2 * self.data(x, index)
        return mean + math.sqrt(var_ts) * sigma_s / sigma_t * torch.randn_like(x)


class DiffusersSampler(Trajectory):
    """The steps of a scheduler of diffusers.

    make: returns the scheduler, of NUM_STEPS evaluations or, where a step takes two, about twice as many.
    """

    def __init__(self, x_T: Tensor, eps: Tensor, sampler: Sampler, clock: Clock, make: Callable[[], Any]) -> None:
        self.make = make
        super().__init__(x_T, eps, sampler, clock)

    def prepare(self) -> None:
        self.scheduler = self.make()
        self.label = f"diffusers ({type(self.scheduler).__name__})"

    @property
    def remark(self) -> str:
        return "" if self.scheduler.config.get("clip_sample") else "it does not clip"

    @torch.no_grad()
    def sample(self) -> Tensor:
        x = self.x_T
        self.scheduler.set_timesteps(NUM_STEPS)
        for t in self.scheduler.timesteps:
            self.scheduler.scale_model_input(x, t)
            x = self.scheduler.step(self.eps, t, x).prev_sample
        return x
