"""No condition."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.conditioners import Conditioner


class Unconditional(Conditioner):
    """The network is conditioned on the noise level alone."""

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        return None

    def null(self, num: int) -> Cond:
        return None

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        raise ValueError("this model was trained without a condition (conditioner=unconditional)")
