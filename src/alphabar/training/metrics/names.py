"""Names of figures, which carry what must be equal for two of them to be compared."""


def protocol(num_images: int, features: str, weights: str, sampler: str) -> str:
    """Of a distance of `num_images` generated images: `fid/n1000-classifier-ema-ddim50`."""
    return f"fid/n{num_images}-{features}-{weights}-{sampler}"


def floor_protocol(num_images: int, features: str) -> str:
    """Of the distance of as many real images: `fid/floor-n1000-classifier`."""
    return f"fid/floor-n{num_images}-{features}"
