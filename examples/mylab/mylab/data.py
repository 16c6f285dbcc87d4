"""Drawn cells, of which size and place are known."""

import numpy as np


class Cells:
    """Grey images of one bright disc each, with the vector (radius, x, y), in pixels."""

    def __init__(self, num: int = 2000, side: int = 16) -> None:
        self.num, self.side = num, side

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[float]]:
        random = np.random.default_rng(index)  # the same image for the same number, always
        radius = random.uniform(2, self.side / 3)
        x, y = random.uniform(radius, self.side - radius, 2)
        rows, columns = np.mgrid[: self.side, : self.side] + 0.5
        is_inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
        return np.where(is_inside, 230, 20).astype(np.uint8), [radius, x, y]
