"""Guidance: predictions moved away from those of a guide, towards a condition or towards quality."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction
from alphabar.diffusion.schedules import Schedule

UNCONDITIONAL = "guidance needs a model that was trained with a condition"


@dataclass(frozen=True, kw_only=True)
class Guidance(ABC):
    """A rule that makes one prediction of a main one and a guide's; weight 1 is the main one.

    In classifier-free guidance the guide is the same model without its condition, in autoguidance a worse model.

    interval: the noise levels, as `Schedule.level` has them, from low to high where it acts, both included; elsewhere the main
        prediction stays as it is (Kynkaanniemi et al. 2024, "Applying guidance in a limited interval", who state it in sigma).
        None: everywhere.
    Raises ValueError unless weight is finite and 0 <= low < high <= 1.
    """

    name: ClassVar[str]
    weight: float
    interval: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"need a finite weight, got weight={self.weight}")
        if self.interval is not None:
            if len(self.interval) != 2:
                raise ValueError(f"need interval=[low,high], two noise levels in 0..1, got {list(self.interval)}")
            low, high = self.interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"need 0 <= low < high <= 1, got interval=({low}, {high})")

    @property
    def label(self) -> str:
        """Returns its name with the weight and what is not as by default, such as "cfg2.0-rescale0.7-interval0.2-0.8"."""
        words = [f"{self.name}{float(self.weight)}"]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("weight", "interval") and value != item.default:
                words.append(f"{item.name}{float(value)}")
        if self.interval is not None:
            words.append("interval{}-{}".format(*map(float, self.interval)))
        return "-".join(words)

    def acts(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns whether the rule acts at times t [B]: bool [B]."""
        if self.interval is None:
            return torch.ones_like(t, dtype=torch.bool)
        low, high = self.interval
        level = schedule.level(t).clamp(0, 1)  # rounding may lead just out of it
        return (level >= low) & (level <= high)

    @abstractmethod
    def __call__(self, main: Prediction, guide: Prediction, alpha: Tensor, sigma: Tensor) -> Prediction:
        """Returns the guided prediction, with the variance of the main one; alpha and sigma > 0 as [B, 1, ...]."""


@dataclass(frozen=True, kw_only=True)
class Linear(Guidance):
    """The rule D = D_guide + weight * (D_main - D_guide), for x_hat and eps_hat alike (Ho & Salimans 2022, eq. 6, weight = 1 + w).

    rescale: phi; x_hat becomes phi * x_hat * std(D_main) / std(x_hat) + (1 - phi) * x_hat, with stds of each image, against
        colours that are too strong (Lin et al. 2023, sec. 3.4, eq. 15 and 16, where it is the network's output that is scaled: of
        x_hat, the result is the same under each parameterization).
    Raises ValueError unless 0 <= rescale <= 1, too.
    """

    name: ClassVar[str] = "cfg"
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"need 0 <= rescale <= 1, got rescale={self.rescale}")

    def __call__(self, main: Prediction, guide: Prediction, alpha: Tensor, sigma: Tensor) -> Prediction:
        # Both: from one alone, the other could not be had with all its digits where alpha or sigma is small.
        x_hat = torch.lerp(guide.x_hat, main.x_hat, self.weight)
        eps_hat = torch.lerp(guide.eps_hat, main.eps_hat, self.weight)
        guided = Prediction(x_hat, eps_hat, main.variance)
        if self.rescale == 0:
            return guided
        wanted, own = (value.flatten(1).std(dim=1, correction=0) for value in (main.x_hat, x_hat))
        ratio = torch.where(own > 0, wanted / own, 1.0).view(alpha.shape)
        return moved(guided, self.rescale * (ratio - 1) * x_hat, alpha, sigma)


@dataclass(frozen=True, kw_only=True)
class Projected(Guidance):
    """The rule D = D_main + (weight - 1) * (orthogonal + parallel * along): d = D_main - D_guide in x_hat, no longer than max_norm,
    is taken apart into what points along D_main and what is orthogonal to it: the former mostly saturates colours
    (Sadat et al. 2024, "Eliminating oversaturation ...", APG, Alg. 1).

    Their momentum is left out: with it, a prediction would depend on the steps before, and on which sampler took them.

    parallel: eta, how much stays of the part along D_main; 1 without max_norm is `Linear`. max_norm: r, of an image; None: any.
    Raises ValueError unless 0 <= parallel <= 1 and max_norm > 0, too.
    """

    name: ClassVar[str] = "apg"
    parallel: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.parallel <= 1:
            raise ValueError(f"need 0 <= parallel <= 1, got parallel={self.parallel}")
        if self.max_norm is not None and not 0 < self.max_norm < math.inf:
            raise ValueError(f"need max_norm > 0, or none, got max_norm={self.max_norm}")

    def __call__(self, main: Prediction, guide: Prediction, alpha: Tensor, sigma: Tensor) -> Prediction:
        difference = (main.x_hat - guide.x_hat).flatten(1)
        if self.max_norm is not None:
            difference = difference * (self.max_norm / difference.norm(dim=1, keepdim=True).clamp(min=self.max_norm))
        direction = normalize(main.x_hat.flatten(1), dim=1)
        along = (difference * direction).sum(dim=1, keepdim=True) * direction
        update = difference - (1 - self.parallel) * along
        return moved(main, (self.weight - 1) * update.view(main.x_hat.shape), alpha, sigma)


def moved(prediction: Prediction, by: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """Returns the prediction with x_hat moved `by` [B, ...], and eps_hat so that both still give x_t."""
    return Prediction(prediction.x_hat + by, prediction.eps_hat - alpha / sigma * by, prediction.variance)


class GuidedDenoiser(Denoiser, ABC):
    """A denoiser that makes one prediction of a main one and a guide's where guidance acts; at weight 1 only the main one is made.

    Only the main one is made, too, where all times [B] are outside of the interval and on the CPU. Times on a GPU are not looked
    at, since that waits for it: both predictions are made, and one is chosen for each row.
    """

    guidance: Guidance

    @abstractmethod
    def main(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        """Returns the main prediction."""

    @abstractmethod
    def both(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Prediction, Prediction]:
        """Returns the main prediction and the guide's."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        acts = self.guidance.acts(self.schedule, t)
        if self.guidance.weight == 1 or (acts.device.type == "cpu" and not acts.any()):
            return self.main(x_t, t, cond)
        main, guide = self.both(x_t, t, cond)
        alpha, sigma = self.schedule.at(t, x_t)
        guided = self.guidance(main, guide, alpha, sigma)
        if self.guidance.interval is None:
            return guided
        acts = acts.view(alpha.shape)
        x_hat, eps_hat = (torch.where(acts, *values) for values in zip(guided[:2], main[:2], strict=True))
        return Prediction(x_hat, eps_hat, main.variance)


class CFGDenoiser(GuidedDenoiser):
    """Classifier-free guidance: the guide is the same denoiser under the null condition, both in one batch of twice the size
    (Ho & Salimans 2022).

    null: the condition that stands for none, or what is to be avoided (a negative prompt); tensors as those of any condition, of
        one image, which stands for all of a batch, or of as many as a batch has. They are kept without their gradients.
    Raises ValueError for null None; in use, for cond None, or one with other names or shapes than null.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance, null: Cond) -> None:
        super().__init__()
        if null is None:
            raise ValueError(f"{UNCONDITIONAL}, got null=None")
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.guidance = guidance
        self.null = {name: value.detach() for name, value in null.items()}

    def main(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        need_condition(cond)
        return self.denoiser(x_t, t, cond)

    def both(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Prediction, Prediction]:
        num = len(x_t)
        doubled = stacked(need_condition(cond), self.null, num)
        x_hat, eps_hat, variance = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), doubled)
        conditional = Prediction(x_hat[:num], eps_hat[:num], None if variance is None else variance[:num])
        unconditional = Prediction(x_hat[num:], eps_hat[num:])
        return conditional, unconditional


class AutoguidedDenoiser(GuidedDenoiser):
    """Autoguidance: the guide is a worse denoiser under the same condition, smaller or trained for less time (Karras et al. 2024,
    "Guiding a diffusion model with a bad version of itself", eq. 2).

    Raises ValueError unless both are on the same schedule.
    """

    def __init__(self, main: Denoiser, guide: Denoiser, guidance: Guidance) -> None:
        super().__init__()
        if not agree(main.schedule, guide.schedule):
            raise ValueError(
                "need a main denoiser and a guide on the same schedule, "
                f"got {type(main.schedule).__name__} and {type(guide.schedule).__name__}, which differ"
            )
        self.main_denoiser = main
        self.guide = guide
        self.schedule = main.schedule
        self.guidance = guidance

    def main(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return self.main_denoiser(x_t, t, cond)

    def both(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Prediction, Prediction]:
        return self.main_denoiser(x_t, t, cond), self.guide(x_t, t, cond)


def need_condition(cond: Cond) -> Mapping[str, Tensor]:
    """Returns the condition. Raises ValueError for None."""
    if cond is None:
        raise ValueError(f"{UNCONDITIONAL}, got cond=None")
    return cond


def stacked(cond: Mapping[str, Tensor], null: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
    """Returns both conditions, each for `num` images, the null one second: [2 * num, ...]; tensors of one image stand for all.

    Raises ValueError if the two differ in their names or in the shapes for an image, or are for another number of images.
    """
    if cond.keys() != null.keys():
        raise ValueError(f"need a condition and a null condition with the same names, got {sorted(cond)} and {sorted(null)}")
    both: dict[str, Tensor] = {}
    for name, value in cond.items():
        parts = (value, null[name].to(value))
        shape = value.shape[1:]
        if parts[1].shape[1:] != shape:
            raise ValueError(f"need a null condition shaped as the condition, {name} {list(shape)}, got {list(parts[1].shape[1:])}")
        if any(len(part) not in (1, num) for part in parts):
            raise ValueError(
                f"need conditions for 1 or for all {num} images, got {name} for {len(value)}, null for {len(parts[1])}"
            )
        both[name] = torch.cat([part.expand(num, *shape) for part in parts])
    return both


def agree(schedule: Schedule, other: Schedule) -> bool:
    """Returns whether both schedules have the same times, and the same scales at them."""
    levels = torch.linspace(1e-3, 1, 9)
    times = schedule.time(levels)
    if schedule.is_discrete != other.is_discrete or not torch.allclose(times, other.time(levels)):
        return False
    return all(torch.allclose(one.cpu(), two.cpu()) for one, two in zip(schedule(times), other(times), strict=True))
