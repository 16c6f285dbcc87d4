"""Which image is told what: from data, or from the words of a user."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.errors import UserError
from alphabar.models.conditioners import Conditioner, ImageConditioner

SEED = derive_seed("condition")  # of what conditioners draw when they are told of data

Conditions = Callable[[Sequence[int]], Cond]
Pictures = Callable[[Sequence[int]], Tensor]


def nothing(conditioner: Conditioner) -> Conditions:
    """Images of which nothing is told."""
    return lambda indices: conditioner.null(len(indices))


def of_data(conditioner: Conditioner, images: ImageSet) -> Conditions:
    """Image i is told what is known of image i of the data, which starts anew when it ends."""

    def conditions(indices: Sequence[int]) -> Cond:
        rows = torch.tensor(indices, dtype=torch.int64) % max(len(images), 1)
        if isinstance(conditioner, ImageConditioner):
            return conditioner.of_output(images.images(rows), ImageNoise(SEED, indices))
        return conditioner(images.facts(rows))

    return conditions


def of_held_out(conditioner: Conditioner, data: ImageDataModule) -> Conditions:
    """Image i is told what is known of held-out image i, or of training image i where none are held out."""
    return of_data(conditioner, shown_images(data))


def shown_images(data: ImageDataModule) -> ImageSet:
    """Those that were held out, or that training has seen where there are none."""
    return data.held_out_set if len(data.held_out_set) else data.train_set


def judged_images(conditioner: Conditioner, data: ImageDataModule) -> ImageSet:
    """Those of which samples are told that are judged against the training images: the training images too, but for models that
    are told of pictures, which would be handed the very images that they are compared with."""
    return shown_images(data) if isinstance(conditioner, ImageConditioner) else data.train_set


def of_pictures(conditioner: ImageConditioner, pictures: Pictures, seed: int) -> Conditions:
    """Image i is told picture i, with what chance there is in it from `seed` and i."""
    return lambda indices: conditioner.of_output(pictures(indices), ImageNoise(seed, indices))


def from_prompts(conditioner: Conditioner, words: Sequence[str], key: str) -> Conditions:
    """Image i is told word i, which start anew when they end.

    key: of the configuration, for the message. Raises UserError for words that mean nothing to the model.
    """
    try:
        conditioner.from_prompts(list(dict.fromkeys(words)))
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
    return lambda indices: conditioner.from_prompts([words[index % len(words)] for index in indices])


def spelt_out(labels: Sequence[int | str] | int | str, num_classes: int) -> list[str]:
    """Labels as words: "all", "0-9", 3, [3, 5]. Raises ValueError for anything else."""
    if labels == "all":
        return [str(label) for label in range(num_classes)]
    parts = [labels] if isinstance(labels, int | str) else list(labels)
    words: list[str] = []
    for part in parts:
        low, dash, high = str(part).partition("-")
        if dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high):
            words += [str(label) for label in range(int(low), int(high) + 1)]
        else:
            words.append(str(part))
    if not words:
        raise ValueError("need labels=[3], labels=all or labels=0-9, got none")
    return words
