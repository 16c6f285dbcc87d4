"""The interface of networks: a map from a noisy image and its noise level to an image of the same shape.

The conditions beside the noise level, and their names in `cond`, are documented in `alphabar.models.conditioners`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A network y = F(x, label, cond); a parameterization gives the meaning of y."""

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the output for `x`, in the shape of `x`; with twice the channels if the variance is learned.

        x: [B, C, H, W], noisy images.
        label: [B], float32, the noise level (c_noise); 0..num_steps - 1 for discrete schedules.
        cond: what the network is conditioned on, by name; None is unconditional.
        Raises ValueError unless `cond` is exactly what the network reads: pass it through a `ConditionReader`.
        """

    @property
    def unused_arguments(self) -> Sequence[str]:
        """Returns a line for each argument of the constructor that changes nothing, beginning with its name; by default none."""
        return ()

    @property
    def regions(self) -> Sequence[nn.Module]:
        """Returns the parts that torch.compile compiles one by one, alike ones once; by default the whole network.

        Many small parts compile sooner than the whole, which runs as fast unless the parts are tiny.
        """
        return (self,)


class Tokens(NamedTuple):
    """Tokens for attention: values [B, L, D] and mask [B, L] bool, True for those to attend to, at least one in every row."""

    values: Tensor
    mask: Tensor


class Condition(NamedTuple):
    """The condition that a network reads: vector [B, D], tokens, image [B, C', H, W]; None for each that it does not read."""

    vector: Tensor | None
    tokens: Tokens | None
    image: Tensor | None


@dataclass(frozen=True)
class ConditionReader:
    """A check of conditions against the number of channels of each that a network reads; 0: it does not read it.

    augmentation_channels: the length of the label of an augmentation, which joins the vector; without a label it is zeros.
    Raises ValueError if one is negative.
    """

    vector_channels: int = 0
    token_channels: int = 0
    image_channels: int = 0
    augmentation_channels: int = 0

    @property
    def vector_width(self) -> int:
        """The length of the vector of `Condition`, including the label of the augmentation."""
        return self.vector_channels + self.augmentation_channels

    def __post_init__(self) -> None:
        for name, width in vars(self).items():
            if width < 0:
                raise ValueError(f"need {name} >= 0 (0: read none), got {name}={width}")

    def read(self, cond: Mapping[str, Tensor] | None, x: Tensor) -> Condition:
        """Returns the condition `cond` of x [B, C, H, W] as tensors. Masked tokens become 0, and are read
        in rows where there are no others.

        Raises ValueError in one line for a condition that is missing, not read, unknown or of another shape.
        """
        given = dict(cond or {})
        batch, *size = x.shape[0], *x.shape[2:]
        vector = _pop_condition(given, "vector", self.vector_channels, (batch, self.vector_channels))
        tokens = _pop_condition(given, "tokens", self.token_channels, (batch, None, self.token_channels))
        mask = given.pop("mask", None)
        image = _pop_condition(given, "image", self.image_channels, (batch, self.image_channels, *size))
        augmentation = self._read_augmentation(given, x)
        if given:
            raise ValueError(
                f"networks read vector, tokens with mask, image and augmentation, and this was given {', '.join(sorted(given))}"
            )
        parts = [part for part in (vector, augmentation) if part is not None]
        vector = torch.cat(parts, dim=1) if len(parts) == 2 else next(iter(parts), None)
        return Condition(vector, _masked(tokens, mask), image)

    def _read_augmentation(self, given: dict[str, Tensor], x: Tensor) -> Tensor | None:
        """Removes the condition "augmentation" from `given` and returns it, zeros if there is none, or None if it is not read."""
        if "augmentation" not in given and self.augmentation_channels:
            return x.new_zeros(len(x), self.augmentation_channels)
        return _pop_condition(given, "augmentation", self.augmentation_channels, (len(x), self.augmentation_channels))


_KINDS = {
    "augmentation": ("augmentation_channels", "{} numbers on the augmentation", -1),
    "vector": ("vector_channels", "a vector of {} numbers", -1),
    "tokens": ("token_channels", "tokens of {} numbers", -1),
    "image": ("image_channels", "an image of {} channels", 1),
}


def _pop_condition(given: dict[str, Tensor], name: str, width: int, shape: tuple[int | None, ...]) -> Tensor | None:
    """Removes the condition `name` from `given` and returns it, None if it is not read.

    Raises ValueError unless it has this shape, in which None is any number but 0.
    """
    key, words, axis = _KINDS[name]
    value = given.pop(name, None)
    if value is None:
        if width == 0:
            return None
        raise ValueError(f"this network reads {words.format(width)}, and was given none")
    found = list(value.shape)
    if width == 0:
        number = found[axis] if len(found) == len(shape) else "..."
        raise ValueError(
            f"this network reads no {name}, and was given {words.format(number)}: set network.{key}={number}, "
            "or choose a network that has this key"
        )
    if len(found) != len(shape) or any(size == 0 or want not in (None, size) for size, want in zip(found, shape, strict=True)):
        wanted = ", ".join("L" if want is None else str(want) for want in shape)
        raise ValueError(f"this network reads {words.format(width)}, here of shape [{wanted}], and was given {found}")
    return value


def _masked(tokens: Tensor | None, mask: Tensor | None) -> Tokens | None:
    if tokens is None:
        if mask is None:
            return None
        raise ValueError("this network reads no tokens, and was given a mask without any")
    if mask is None:
        raise ValueError("this network reads tokens with a mask [B, L], True for words, and was given none")
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"need a mask of bool and of shape {list(tokens.shape[:2])}, as the tokens, got {mask.dtype}, {list(mask.shape)}"
        )
    # Softmax over nothing is NaN, so where there are no words, all tokens are read, every one of them 0.
    return Tokens(tokens.masked_fill(~mask[:, :, None], 0), mask | ~mask.any(dim=1, keepdim=True))
