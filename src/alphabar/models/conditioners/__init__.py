"""Conditioners: from what is known of an image to what a network is told of it beside the noise level.

A network reads three kinds of condition, each of which may be absent:
    "vector"  [B, D]        of the image as a whole; joins the embedding of the noise level
    "tokens"  [B, L, D]     a sequence, such as the words of a caption, for cross-attention; with "mask" [B, L] bool, True for words
    "image"   [B, C', H, W] a picture of the same size, such as a low resolution one; joins the channels of the input
How wide each is stands in the configuration under `conditioning`, where conditioners write it and networks read it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import ImageNoise
from alphabar.models.codecs import Codec


class Conditioner(nn.Module, ABC):
    """Trained with the network, and averaged with it, where it has weights."""

    @property
    @abstractmethod
    def is_optional(self) -> bool:
        """Whether the network is trained to do without, which guidance takes."""

    @abstractmethod
    def learn(self, captions: Sequence[str] | None) -> None:
        """Takes note of the captions of the data, to which "caption" in a batch refers; None: they have none.

        Called once, before `forward`, with the same captions whenever the same data are used; it changes no weights. Raises
        UserError if this needs captions and there are none, or one of them is no good.
        """

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Cond:
        """The condition of a batch of data, as `ImageSet.batch` gives it; in training mode some images are told nothing, so that
        the network learns to do without (classifier-free guidance, Ho & Salimans 2022, Alg. 1).

        Raises ValueError if the batch lacks what it takes.
        """

    @abstractmethod
    def null(self, num: int) -> Cond:
        """The condition of `num` images of which nothing is told."""

    @abstractmethod
    def from_prompts(self, words: Sequence[str]) -> Cond:
        """The condition of one image for each word: a class, a caption. Raises ValueError for a word that means nothing here."""


class ImageConditioner(Conditioner, ABC):
    """Is told of pictures: those of the data, those that a user gives, or what an earlier model made of its own condition."""

    @abstractmethod
    def must_follow(self, codec: Codec, channels: int, resolution: int) -> None:
        """Raises ValueError unless it can be told what `codec` decodes, in a model of images of this size."""

    @abstractmethod
    def of_output(self, output: Tensor, noise: ImageNoise) -> Cond:
        """The condition of what an earlier model made, or of the data's own images; in any mode, no image is told nothing.

        output: uint8 [B, C, H, W], or what else `codec.decode` of that model gives. noise: the only chance in it.
        Raises ValueError for another shape.
        """
