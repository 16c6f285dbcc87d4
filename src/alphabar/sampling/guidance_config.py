"""Guidance as a configuration chooses it: a rule of `diffusion.guidance` and the two predictions that it combines."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from alphabar.diffusion import guidance
from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.errors import UserError
from alphabar.sampling.model import DiffusionModel, frozen_part_paths, load_model


class Guide(ABC):
    """Makes a guided denoiser of a model."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The part of a figure's name that says how samples were guided, such as "cfg2.0"."""

    @property
    @abstractmethod
    def is_by_condition(self) -> bool:
        """Whether guidance needs only the model itself without its condition, rather than a second, weaker model."""

    @abstractmethod
    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        """Returns the guided denoiser of a model.

        null: the negative condition; None: the model's null condition. Raises UserError if the model cannot be guided so.
        """


class ConditionGuide(guidance.Guidance, Guide):
    """Guidance away from the prediction of the same model under the negative or the null condition."""

    @property
    def is_by_condition(self) -> bool:
        return True

    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        """Returns the guided denoiser; see `Guide.guided`. Raises UserError for a model that cannot do without its condition."""
        null = model.conditioner.null(1) if null is None else null
        if null is None:
            raise UserError("guidance: this model was trained without a condition (conditioner=unconditional), need guidance=none")
        if not model.conditioner.is_optional:
            raise UserError("guidance: this model was never trained to do without its condition (conditioner.dropout=0)")
        return guidance.CFGDenoiser(model.denoiser, self, null)


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(guidance.Linear, ConditionGuide):
    """Guidance away from the model's unconditional prediction (Ho & Salimans 2022); settings as in `guidance.Linear`."""


@dataclass(frozen=True, kw_only=True)
class APG(guidance.Projected, ConditionGuide):
    """Adaptive projected guidance (Sadat et al. 2024); settings as in `guidance.Projected`."""


@dataclass(frozen=True, kw_only=True)
class Autoguidance(guidance.Linear, Guide):
    """Guidance away from a weaker version of the same model (Karras et al. 2024): an earlier checkpoint, or another average.

    checkpoint: that of the weaker version. weights, ema_length, ema_decay: as in `Inference`; the rest as in `guidance.Linear`.
    """

    checkpoint: str
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None

    @property
    def label(self) -> str:
        rule = guidance.Linear(**{item.name: getattr(self, item.name) for item in fields(guidance.Linear)})
        words = [
            self.weights if self.weights == "raw" else "",
            f"ema{self.ema_length}" if self.ema_length else "",
            f"decay{self.ema_decay}" if self.ema_decay else "",
        ]
        return "-".join(["auto" + rule.label, *(word for word in words if word)])

    @property
    def is_by_condition(self) -> bool:
        return False

    def guided(self, model: DiffusionModel, null: Cond) -> Denoiser:
        if null is not None:
            raise UserError("negative: guidance=autoguidance leads away from a weaker model, not from a prompt")
        paths = frozen_part_paths(model)
        weaker = load_model(self.checkpoint, self.weights, self.ema_length, self.ema_decay, paths).model.to(model.device)
        try:
            return guidance.AutoguidedDenoiser(model.denoiser, weaker.denoiser, self)
        except ValueError as error:
            raise UserError(f"guidance: {error}") from error


def guided(model: DiffusionModel, guide: Guide | None, null: Cond = None) -> Denoiser:
    """Returns the model's denoiser, guided unless `guide` is None; null: see `Guide.guided`."""
    return model.denoiser if guide is None else guide.guided(model, null)


def guided_stages(models: Sequence[DiffusionModel], guide: Guide | None, null: Cond = None) -> list[Denoiser]:
    """Returns the denoisers of the models of a cascade.

    Guidance by condition applies to all models that are trained to do without it, a weaker model to the last one. null: the
    negative condition of the first one. Raises UserError if no model can be guided so, or the first cannot but has a negative.
    """
    if guide is None:
        return [model.denoiser for model in models]
    if not guide.is_by_condition or len(models) == 1:
        return [*(model.denoiser for model in models[:-1]), guide.guided(models[-1], null)]
    are_guided = [model.conditioner.is_optional for model in models]
    if not any(are_guided):
        raise UserError("guidance: none of these models was trained to do without its condition (conditioner.dropout=0)")
    are_guided[0] = are_guided[0] or null is not None
    nulls = [null, *(None for _ in models[1:])]
    return [
        guide.guided(model, each) if is_guided else model.denoiser
        for model, is_guided, each in zip(models, are_guided, nulls, strict=True)
    ]


def guidance_label(guide: Guide | None) -> str:
    """Returns what guidance adds to the name of a figure."""
    return "" if guide is None else f"-{guide.label}"
