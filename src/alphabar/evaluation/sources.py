"""The combinations of a checkpoint, samples and data that can be evaluated. Imports nothing, so that mistakes are found at once."""


def check_sources(has_checkpoint: bool, has_samples: bool, has_data: bool) -> None:
    """Raises ValueError unless there is a checkpoint alone, or data with or without samples."""
    if has_checkpoint and (has_samples or has_data):
        other = "samples" if has_samples else "data"
        raise ValueError(f"need checkpoint=... or {other}=..., got both; the real images of a checkpoint are those of its training")
    if not has_checkpoint and not has_data:
        given = "samples=... needs the real images beside it" if has_samples else "got none of them"
        raise ValueError(f"need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: {given}")
