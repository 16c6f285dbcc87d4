"""A hash of a set of images that depends on nothing but the images."""

import hashlib

from torch import Tensor


def content_hash(images: Tensor) -> int:
    """Returns the sum of the hashes of single images, [B, C, H, W], modulo 2^64. It depends neither on their order nor on the
    size of batches, and the hashes of two sets add up to that of their union."""
    rows = images.cpu().contiguous().numpy()
    whole = sum(int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest()) for row in rows) + _shape(images)
    return (whole + 2**63) % 2**64 - 2**63  # as int64


def _shape(images: Tensor) -> int:
    """Returns the contribution of the shape, so that images of equal bytes and unequal shapes have different hashes."""
    one = int.from_bytes(hashlib.blake2b(repr(tuple(images.shape[1:])).encode(), digest_size=8).digest())
    return one * len(images)


def hash_to_hex(value: int) -> str:
    """Returns the hash as 16 hexadecimal digits."""
    return f"{value % 2**64:016x}"
