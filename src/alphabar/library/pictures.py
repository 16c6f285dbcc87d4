"""Pictures of samples for a notebook."""

from PIL import Image
from torch import Tensor

from alphabar.sampling.image_grid import grid, to_pil


def show(images: Tensor, num_columns: int | None = None) -> Image.Image:
    """Returns images, uint8 [N, C, H, W], as one picture, which a notebook displays; num_columns: None: as square as possible."""
    return to_pil(grid(images, num_columns))
