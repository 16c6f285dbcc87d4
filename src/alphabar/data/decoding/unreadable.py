"""Warnings of images that cannot be read: the first ten by name, later ones by their number."""

import logging

import torch

log = logging.getLogger(__name__)
NUM_NAMED = 10


class Unreadable:
    """A record of which of `num_images` could not be read, which loader workers share."""

    def __init__(self, num_images: int) -> None:
        self.found = torch.zeros(num_images, dtype=torch.bool).share_memory_()

    def report(self, index: int, message: str) -> bool:
        """Logs `message` once per image, and only for the first ten images; later ones show at 100, 1000, ...

        Returns whether the image had not been reported before.
        """
        if self.found[index]:
            return False
        self.found[index] = True
        num = int(self.found.sum())
        if num <= NUM_NAMED:
            log.warning("skipped an image: %s", message)
        elif num == NUM_NAMED + 1:
            log.warning("skipped more than %d images that cannot be read; no more of them will be named", NUM_NAMED)
        elif num == 10 ** (len(str(num)) - 1):
            log.warning("skipped %d images that cannot be read so far", num)
        return True


def unreadable_message(name: str, error: Exception) -> str:
    """Returns one line on why `name` cannot be read."""
    reason = " ".join(str(error).split())
    return f"cannot read {name}: {type(error).__name__}: {reason}" if reason else f"cannot read {name}: {type(error).__name__}"
