"""A discriminator of image patches, for autoencoders."""

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """Convolutions of size 4, of which the first ones halve the resolution (Isola et al. 2017, app. 6.1.2): a number a patch.

    The norm is over each image (group norm), not over the batch: what it says of an image depends on that image alone.
    width: channels of the first layer, a multiple of 8. num_halvings: 3 in the paper, for patches of 70 pixels.
    Raises ValueError unless channels, num_halvings >= 1 and width is such a multiple.
    """

    def __init__(self, channels: int, width: int = 64, num_halvings: int = 3) -> None:
        super().__init__()
        if channels < 1 or num_halvings < 1 or width < 8 or width % 8:
            raise ValueError(
                f"need channels and num_halvings >= 1 and a width that is a multiple of 8, got channels={channels}, "
                f"num_halvings={num_halvings}, width={width}"
            )
        self.min_resolution = 3 * 2**num_halvings  # below which nothing is left for the last layers, each of which takes a pixel
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = width
        for level in range(1, num_halvings + 1):
            after, stride = width * min(2**level, 8), 2 if level < num_halvings else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [B, 1, h, w], high where a patch of images [B, C, H, W] in [-1, 1] looks real."""
        return self.layers(x)

    def judgement(self, x: Tensor) -> Tensor:
        """Returns the logits of a generator's images: gradients reach the images, but none of the weights here."""
        return functional_call(self, {name: weight.detach() for name, weight in self.named_parameters()}, (x,))


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Returns the discriminator's loss, mean max(0, 1 - D(real)) / 2 + mean max(0, 1 + D(made)) / 2 (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
