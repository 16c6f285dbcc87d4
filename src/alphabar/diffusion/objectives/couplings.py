"""Couplings of noise and data that need no more than torch; `alphabar.models.couplings` has those that solve an assignment."""

from torch import Tensor

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.diffusion.objectives import Coupling


class Independent(Coupling):
    """The coupling eps ~ N(0, I), whatever x is (Ho et al. 2020, Alg. 1)."""

    def forward(self, x: Tensor, share: RankShare = SINGLE_PROCESS) -> Tensor:
        return share.randn_like(x)


class Offset(Coupling):
    """The coupling eps + strength * c, with one c ~ N(0, 1) for each image and channel: lets a model whose last step leaves signal
    learn the brightness of an image (Guttenberg 2023, "Diffusion with offset noise").

    Raises ValueError unless strength > 0.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        if not strength > 0:
            raise ValueError(f"need strength > 0, got strength={strength}")
        self.strength = strength

    def forward(self, x: Tensor, share: RankShare = SINGLE_PROCESS) -> Tensor:
        offset = share.randn(x.shape[:2] + (1,) * (x.ndim - 2), x.device, x.dtype)
        return share.randn_like(x) + self.strength * offset
