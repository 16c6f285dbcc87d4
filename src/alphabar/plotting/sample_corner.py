"""The corner of a run's newest sample grid, which stands for the run where many are shown."""

from pathlib import Path

import numpy as np

from alphabar.files.reading import open_image

MAX_SIDE = 216  # pixels of a grid that are shown, from its top left corner


def newest_samples(folder: Path) -> np.ndarray | None:
    """Returns the newest picture in `samples/`, cut off at the last gap between images within MAX_SIDE pixels, or None."""
    files = sorted((folder / "samples").glob("*.png"))
    if not files:
        return None
    with open_image(files[-1]) as file:
        picture = np.asarray(file)
    is_white = picture == picture.max()
    is_white = is_white.all(axis=-1) if is_white.ndim == 3 else is_white
    return picture[: _cut(is_white.all(axis=1)), : _cut(is_white.all(axis=0))]


def _cut(is_gap: np.ndarray) -> int:
    """Returns where to cut a side: after the last gap within MAX_SIDE pixels, if that is in the second half of them."""
    if len(is_gap) <= MAX_SIDE:
        return len(is_gap)
    ends = [index for index in range(MAX_SIDE // 2, MAX_SIDE) if is_gap[index] and not is_gap[index + 1]]
    return ends[-1] + 1 if ends else MAX_SIDE
