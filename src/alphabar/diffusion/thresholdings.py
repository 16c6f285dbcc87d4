"""Thresholdings: maps that keep x_hat in the range of the data while sampling."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction


@dataclass(frozen=True)
class Thresholding(ABC):
    """A map of x_hat into the range [-1, 1] of images."""

    @abstractmethod
    def __call__(self, x_hat: Tensor) -> Tensor:
        """Returns x_hat [B, ...] in the range."""


@dataclass(frozen=True)
class Static(Thresholding):
    """The thresholding that clips x_hat to [-1, 1] (Ho et al. 2020)."""

    def __call__(self, x_hat: Tensor) -> Tensor:
        return x_hat.clamp(-1, 1)


@dataclass(frozen=True)
class Dynamic(Thresholding):
    """The thresholding that clips x_hat to [-r, r] and divides by r, with r the `quantile` of |x_hat| within each image, at least 1
    (Saharia et al. 2022, "Imagen", sec. 2.3): saturated pixels move inwards.

    Raises ValueError unless 0 < quantile <= 1.
    """

    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"need 0 < quantile <= 1, got quantile={self.quantile}")

    def __call__(self, x_hat: Tensor) -> Tensor:
        largest = torch.quantile(x_hat.flatten(1).abs(), self.quantile, dim=1).clamp(min=1)
        r = largest.view(-1, *(1,) * (x_hat.ndim - 1))
        return x_hat.clamp(-r, r) / r


class Thresholded(Denoiser):
    """A denoiser with the x_hat of another one brought into range, and eps_hat moved so that both still give x_t."""

    def __init__(self, denoiser: Denoiser, thresholding: Thresholding) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.thresholding = thresholding

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        prediction = self.denoiser(x_t, t, cond)
        x_hat = self.thresholding(prediction.x_hat)
        return Prediction(x_hat, (x_t - alpha * x_hat).div_(sigma), prediction.variance)
