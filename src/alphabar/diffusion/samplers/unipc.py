"""UniPC: a predictor and a corrector of any order, for one evaluation a step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler
from alphabar.diffusion.samplers.log_snr import half_log_snr


class Past(NamedTuple):
    """An earlier point of the trajectory: its time [B], its lambda [1], x there (corrected) and x_hat, both [B, ...]."""

    t: Tensor
    log_snr: Tensor
    x: Tensor
    x_hat: Tensor


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """A sampler that solves the ODE in lambda with polynomials through earlier x_hat (Zhao et al. 2023, Alg. 5 and 6, B(h) = e^h -
    1): the evaluation that the next step needs anyhow corrects x at the end of this one. The last step is of first order.

    order: of the predictor; what is corrected gains one. Raises ValueError unless it is 1, 2 or 3.
    """

    num_steps: int | None = 20
    order: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise ValueError(f"need order 1, 2 or 3, got order={self.order}")

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        prediction = run.predict(x_t, t)
        if run.index == 0 and run.begins_in_noise:  # lambda = -inf: no polynomial goes through it
            return run.move(prediction, s)
        now, then = (half_log_snr(run.schedule.scales(time[:1]), time) for time in (t, s))
        past: list[Past] = run.memory
        if past:
            x_t = advance(run, past[-self._order(run, run.index - 1) :], t, now, prediction.x_hat)
        past.append(Past(t, now, x_t, prediction.x_hat))
        del past[: -self.order]
        return advance(run, past[-self._order(run, run.index) :], s, then, None)

    def _order(self, run: Run, index: int) -> int:
        """Returns the order of the step with this index: it falls to 1 at the end, where steps in lambda become long."""
        ends_at_data = run.times[-1] == 0
        return min(self.order, run.num_steps - index) if ends_at_data else self.order


def advance(run: Run, points: list[Past], s: Tensor, then: Tensor, x_hat_s: Tensor | None) -> Tensor:
    """Returns x_s from the last of `points`, with a polynomial through all their x_hat and, if it is known, the one at s
    (Zhao et al. 2023, eq. 3 and 9, for the prediction of data)."""
    base = points[-1]
    alpha_s, sigma_s = run.schedule.at(s, base.x)
    _, sigma_t = run.schedule.at(base.t, base.x)
    h = then - base.log_snr
    scale = torch.expm1(-h)
    x_s = sigma_s / sigma_t * base.x - alpha_s * scale.to(base.x.dtype) * base.x_hat
    places = [(point.log_snr - base.log_snr) / h for point in points[:-1]]
    slopes = [(point.x_hat - base.x_hat) / place.to(base.x.dtype) for point, place in zip(points, places, strict=False)]
    if x_hat_s is not None:
        places.append(torch.ones_like(h))
        slopes.append(x_hat_s - base.x_hat)
    if not places:
        return x_s
    weights = quadrature(torch.cat(places), h, scale).to(base.x.dtype)
    change = sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x_s - alpha_s * scale.to(base.x.dtype) * change


def quadrature(places: Tensor, h: Tensor, scale: Tensor) -> Tensor:
    """Returns the weights a [n] with sum_j a_j * places_j^(k-1) = k! * phi_(k+1)(-h) * (-h) / scale, k = 1..n (Zhao et al. 2023,
    eq. 5).

    A single one is 1/2, to the order that counts.
    """
    num = len(places)
    if num == 1:
        return torch.full_like(places, 0.5)
    phi, factorial, wanted = scale / -h - 1, 1, []
    for k in range(1, num + 1):
        wanted.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    powers = torch.stack([places**k for k in range(num)])
    return torch.linalg.solve(powers, torch.cat(wanted))
