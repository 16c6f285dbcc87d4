"""Guidance as it is configured: what is made of a trained model before it is sampled from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from alphabar.diffusion import guidance
from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.errors import UserError
from alphabar.sampling.model import DiffusionModel, load, paths_of

Interval = Sequence[float] | None


class Guide(ABC):
    """Makes a guided denoiser of a model."""

    @property
    @abstractmethod
    def label(self) -> str:
        """In the names of figures: "cfg2.0"."""

    @property
    @abstractmethod
    def is_by_condition(self) -> bool:
        """Whether it leads away from what a model says without its condition, whichever model it is; else it belongs to one."""

    @abstractmethod
    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        """null: what to be led away from; None: what the model says when it is told nothing.

        Raises UserError if this model cannot be guided so.
        """


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(Guide):
    """By what the model says when it is told nothing (Ho & Salimans 2022); weight 1 is no guidance, 0 none of the condition.

    rescale, interval: see `guidance.Linear`, which raises ValueError for values that are none.
    """

    weight: float
    rescale: float = 0.0
    interval: Interval = None
    rule: guidance.Guidance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", guidance.Linear(weight=self.weight, rescale=self.rescale, interval=pair(self.interval)))

    @property
    def label(self) -> str:
        return self.rule.label

    @property
    def is_by_condition(self) -> bool:
        return True

    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        return by_condition(model, self.rule, null)


@dataclass(frozen=True, kw_only=True)
class APG(Guide):
    """The same without what points along the prediction (Sadat et al. 2024); see `guidance.Projected`."""

    weight: float
    parallel: float = 0.0
    max_norm: float | None = None
    interval: Interval = None
    rule: guidance.Guidance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rule = guidance.Projected(weight=self.weight, parallel=self.parallel, max_norm=self.max_norm, interval=pair(self.interval))
        object.__setattr__(self, "rule", rule)

    @property
    def label(self) -> str:
        return self.rule.label

    @property
    def is_by_condition(self) -> bool:
        return True

    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        return by_condition(model, self.rule, null)


@dataclass(frozen=True, kw_only=True)
class Autoguidance(Guide):
    """By a weaker version of the same model (Karras et al. 2024): an earlier checkpoint, or a shorter average of its weights.

    checkpoint: of the weaker one. weights, ema_length, ema_decay: as in `Inference`.
    """

    weight: float
    checkpoint: str
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
    interval: Interval = None
    rule: guidance.Guidance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", guidance.Linear(weight=self.weight, interval=pair(self.interval)))

    @property
    def label(self) -> str:
        words = [self.weights if self.weights == "raw" else "", f"ema{self.ema_length}" if self.ema_length else ""]
        return "-".join(["auto" + self.rule.label, *(word for word in words if word)])

    @property
    def is_by_condition(self) -> bool:
        return False

    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        if null is not None:
            raise UserError("negative: guidance=autoguidance leads away from a weaker model, not from a prompt")
        weak = load(self.checkpoint, self.weights, self.ema_length, self.ema_decay, paths_of(model)).model.to(model.device)
        try:
            return guidance.Autoguided(model.denoiser, weak.denoiser, self.rule)
        except ValueError as error:
            raise UserError(f"guidance: {error}") from error


def guided(model: DiffusionModel, guide: Guide | None, null: Cond = None) -> Denoiser:
    """The model's denoiser, with guidance if there is any; null: see `Guide.guided`."""
    return model.denoiser if guide is None else guide.guided(model, null)


def guided_stages(models: Sequence[DiffusionModel], guide: Guide | None, null: Cond = None) -> list[Denoiser]:
    """The denoisers of models that follow each other: guided by a condition are all that are trained to do without it, by a weaker
    model the last; null is for the first.

    Raises UserError if none of them can be guided so, or not the first, which is told what to be led away from.
    """
    if guide is None:
        return [model.denoiser for model in models]
    if not guide.is_by_condition or len(models) == 1:
        return [*(model.denoiser for model in models[:-1]), guide.guided(models[-1], null)]
    acts = [model.conditioner.is_optional for model in models]
    if not any(acts):
        raise UserError("guidance: none of these models was trained to do without its condition (conditioner.dropout=0)")
    acts[0] = acts[0] or null is not None
    nulls = [null, *(None for _ in models[1:])]
    return [
        guide.guided(model, each) if is_guided else model.denoiser
        for model, is_guided, each in zip(models, acts, nulls, strict=True)
    ]


def guidance_label(guide: Guide | None) -> str:
    """What guidance adds to the name of a figure."""
    return "" if guide is None else f"-{guide.label}"


def by_condition(model: DiffusionModel, rule: guidance.Guidance, null: Cond) -> Denoiser:
    """Guided by what the model says when it is told `null`, or else nothing. Raises UserError for a model without a condition."""
    null = model.conditioner.null(1) if null is None else null
    if null is None:
        raise UserError("guidance: this model was trained without a condition (conditioner=unconditional), need guidance=none")
    if not model.conditioner.is_optional:
        raise UserError("guidance: this model was never trained to do without its condition (conditioner.dropout=0)")
    return guidance.ClassifierFree(model.denoiser, rule, null)


def pair(interval: Interval) -> tuple[float, float] | None:
    """(low, high). Raises ValueError for anything but two numbers."""
    if interval is None:
        return None
    if len(interval) != 2:
        raise ValueError(f"need interval=[low,high], two noise levels in 0..1, got {list(interval)}")
    return interval[0], interval[1]
