"""Callbacks of a run: averages, figures, pictures, checkpoints."""

from lightning.pytorch import Callback


class RunCallback(Callback):
    """A callback that says of itself what a run must know before it begins.

    draws_images: whether it decodes samples to images, so that it cannot look at a model whose codec makes none.
    """

    draws_images = False
