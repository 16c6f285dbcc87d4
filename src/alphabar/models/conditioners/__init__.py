"""Conditioners: from the metadata of an image to the condition that the network reads beside the noise level.

A network reads three kinds of condition, each of which may be absent, and "augmentation" [B, L], the labels of
`alphabar.models.augmentations`, zeros if absent:
    "vector"  [B, D]        describes the image as a whole; joins the embedding of the noise level
    "tokens"  [B, L, D]     is a sequence, such as the words of a caption, for cross-attention; "mask" [B, L] bool is True for words
    "image"   [B, C', H, W] is an image of the same size, such as an enlarged small one; joins the channels of the input
The length D or C' of each is in the configuration under `conditioning`, where conditioners set it and networks read it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, ImageNoise, RankShare
from alphabar.errors import UserError
from alphabar.models.codecs import Codec


class NeedsCaptions(UserError):
    """A conditioner that is made from captions was given data without any."""


class Conditioner(nn.Module, ABC):
    """Makes conditions from batches of data, from a user's prompts and, if it is an `ImageConditioner`, from images.

    Its weights, if it has any, are trained and averaged with those of the network.

    dropout: the share of training images that get the null condition. Raises ValueError unless 0 <= dropout <= 1.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"need 0 <= dropout <= 1, got dropout={dropout}")
        self.dropout = dropout

    @property
    def is_optional(self) -> bool:
        """Whether the network is trained to do without the condition, as classifier-free guidance requires."""
        return self.dropout > 0

    @property
    def reads_captions(self) -> bool:
        """Whether the condition is made from captions of the data, which `attach_captions` receives."""
        return self.depicts == "caption"

    @property
    def takes_images(self) -> bool:
        """Whether the condition is made from an image, so that `from_image` and `must_follow` are defined."""
        return False

    @property
    def classes(self) -> Sequence[str]:
        """The valid prompts if they are a finite set, such as class labels; else empty."""
        return ()

    @property
    def vector_length(self) -> int:
        """The length of the vectors that `attach_vectors` receives; 0 if the condition is not made from vectors."""
        return 0

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        """The entry of `ImageSet.metadata` that a sample with this condition should show, or None if the condition implies none."""
        return None

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        """The paths of frozen parts that a checkpoint names and does not hold, by their key in `FrozenPartPaths`."""
        return {}

    def attach_captions(self, captions: Sequence[str] | None) -> None:
        """Receives the captions of the data, to which "caption" in a batch refers; None if the data have no captions.

        Called once, before `forward`, with the same captions whenever the same data are used; changes no weights. Raises
        NeedsCaptions if the conditioner needs captions and there are none, and UserError if a caption cannot be encoded.
        """

    def attach_vectors(self, vectors: Tensor | None) -> None:
        """Receives the vectors of the training images, float32 [N, D], or None if there are none; called once, before training.

        Their mean and standard deviation are kept in checkpoints. Raises ValueError if the conditioner needs vectors and there are
        none, or they have another length.
        """

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        """Returns the condition of a batch of data, as `ImageSet.batch` gives it.

        In training mode some conditions are replaced by the null condition, see `dropped`, so that the network learns both
        (classifier-free guidance, Ho & Salimans 2022, Alg. 1). Raises ValueError if the batch lacks the entry that is needed.
        """

    def dropped(self, num: int, device: torch.device, share: RankShare) -> Tensor:
        """Returns which of `num` conditions are dropped, bool [num] on `device`: each with probability `dropout` in training mode,
        none in eval mode."""
        if not self.training or self.dropout == 0:
            return torch.zeros(num, dtype=torch.bool, device=device)
        return share.rand(num, device) < self.dropout

    def for_evaluation(self, batch: Mapping[str, Tensor], noise: ImageNoise) -> Cond:
        """Returns the condition of a batch in eval mode, when `noise` is the only source of randomness.

        batch: as `ImageSet.batch` gives it, or, unless `takes_images`, as `ImageSet.metadata` does.
        """
        return self(batch)

    @abstractmethod
    def null(self, num: int) -> Cond:
        """Returns the null condition of `num` images, which says nothing about them."""

    @abstractmethod
    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        """Returns the condition of one image for each prompt: a class, a caption, numbers. Raises ValueError for an invalid one."""

    def must_follow(self, codec: Codec, channels: int, height: int, width: int) -> None:
        """Raises ValueError unless this is conditioned on what `codec` decodes in a model of images of this size."""
        raise ValueError(f"it is conditioned on no images (it has {type(self).__name__})")

    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond:
        """Returns the condition made from images: those of the data, of a user, or samples of an earlier model; nothing is dropped.

        images: uint8 [B, C, H, W], or whatever `codec.decode` of the earlier model gives. noise: the only source of randomness.
        Raises ValueError for another shape, and if this is conditioned on no images.
        """
        raise ValueError(f"this model is conditioned on no images (it has {type(self).__name__})")

    def embed(self, images: Tensor) -> Tensor:
        """Returns the unit vectors [B, D] of uint8 images, between which `from_image` can interpolate.

        Raises ValueError unless the condition is an image embedding.
        """
        raise ValueError(f"need a model with conditioner=image_embedding, got one with {type(self).__name__}")


class ImageConditioner(Conditioner, ABC):
    """Makes conditions from images: those of the data, those that a user gives, or the samples of an earlier model."""

    @property
    def takes_images(self) -> bool:
        return True

    @property
    def reads_captions(self) -> bool:
        return False

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "caption"

    def for_evaluation(self, batch: Mapping[str, Tensor], noise: ImageNoise) -> Cond:
        return self.from_image(batch["image"], noise)

    @abstractmethod
    def must_follow(self, codec: Codec, channels: int, height: int, width: int) -> None: ...

    @abstractmethod
    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond: ...


class VectorConditioner(Conditioner, ABC):
    """Makes conditions from vectors of numbers; a subclass embeds the standardised vector, (v - mean) / std.

    mean and std are those of each component over the training images, measured once and kept in checkpoints. A prompt is a vector
    as text, "0.3, 1.2". The null condition is learned.

    length: D, the length of a vector. channels: the length of the condition. dropout: the share of training images that get
    the null condition. Raises ValueError unless length, channels >= 1 and 0 <= dropout <= 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        if length < 1 or channels < 1:
            raise ValueError(f"need length >= 1 and channels >= 1, got length={length}, channels={channels}")
        self.length = length
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("std", torch.ones(length))
        self.null_condition = nn.Parameter(torch.zeros(channels))

    @abstractmethod
    def embed(self, vectors: Tensor) -> Tensor:
        """Returns the conditions [B, channels] of standardised vectors, float32 [B, D]."""

    @property
    def vector_length(self) -> int:
        return self.length

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "vector"

    def attach_vectors(self, vectors: Tensor | None) -> None:
        if vectors is None:
            raise ValueError("conditioner=vector needs images with vectors, and these data have none")
        self._must_fit(vectors.shape[1])
        wide = vectors.double()
        std = wide.std(0, correction=0)
        self.mean.copy_(wide.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "vector" not in batch:
            raise ValueError("conditioner=vector needs images with vectors, and these data have none")
        self._must_fit(batch["vector"].shape[1])
        made = self._condition(batch["vector"])
        return {"vector": torch.where(self.dropped(len(made), made.device, share)[:, None], self.null_condition, made)}

    def null(self, num: int) -> Cond:
        return {"vector": self.null_condition.expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        return {"vector": self._condition(torch.tensor([self._numbers(prompt) for prompt in prompts]))}

    def _condition(self, vectors: Tensor) -> Tensor:
        return self.embed((vectors.to(self.mean.device, torch.float32) - self.mean) / self.std)

    def _numbers(self, prompt: str) -> list[float]:
        """Returns the numbers in a prompt. Raises ValueError unless there are D of them, all finite."""
        try:
            numbers = [float(part) for part in prompt.replace(",", " ").split()]
        except ValueError as error:
            raise ValueError(f"need {self.length} numbers, got {prompt[:60]!r}") from error
        if len(numbers) != self.length or not all(map(math.isfinite, numbers)):
            raise ValueError(f"need {self.length} finite numbers, as in training, got {prompt[:60]}")
        return numbers

    def _must_fit(self, length: int) -> None:
        if length != self.length:
            raise ValueError(f"need vectors of {self.length} numbers, as in training, got {length}")
