"""The teaching baseline: what a diffusion model does with the least network that runs."""

from collections.abc import Mapping

from torch import Tensor, nn

from alphabar.models.networks import ConditionReader, Network


class SimpleUNet(Network):
    """Four convolutions at full resolution, C -> 64 -> 128 -> 64 -> C, with ReLU between them.

    A U-Net by name alone: it has no skips, never changes the resolution, and ignores the noise level, so one function
    must serve all of them; nor does it read any condition. What this costs is what `UNet` is for.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"need channels >= 1, got channels={channels}")
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, channels, kernel_size=1),
        )

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        ConditionReader().read(cond, x)
        return self.layers(x)
