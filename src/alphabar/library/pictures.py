"""Pictures of samples for a notebook."""

from PIL import Image
from torch import Tensor

from alphabar.errors import UserError
from alphabar.sampling.image_grid import grid, to_pil


def show(images: Tensor, num_columns: int | None = None) -> Image.Image:
    """Returns images, uint8 [N, C, H, W], as one picture, which a notebook displays; num_columns: None: as square as possible.

    Raises UserError for anything else.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"images: need a tensor [N, C, H, W], as model.sample returns, got {found}")
    return to_pil(grid(images, num_columns))
