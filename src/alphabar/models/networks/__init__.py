"""What every network is: a map from a noisy image and its noise level to an image of the same shape."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """y = F(x, label, cond), the raw output whose meaning a parameterization gives."""

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output for `x`, in the shape of `x`; with twice the channels if the variance is learned.

        x: [B, C, H, W], noisy images.
        label: [B], float, the noise level (c_noise); 0..num_steps - 1 for discrete schedules.
        cond: what the network is conditioned on, by name; None is unconditional.
        """
