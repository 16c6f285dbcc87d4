"""The combinations of checkpoint, samples and data that can be evaluated. Imports no torch, so that mistakes are found at once."""

from omegaconf import DictConfig

from alphabar.errors import UserError


def check_config(cfg: DictConfig) -> None:
    """Raises UserError if the configuration of evaluate.py does not say what to evaluate."""
    if "samples" not in cfg:  # a metric of checkpoints alone
        if cfg.get("checkpoint", "") is None:
            raise UserError("checkpoint: missing, give checkpoint=...")
        return
    try:
        check_sources(*(cfg.get(key) is not None for key in ("checkpoint", "samples", "data")))
    except ValueError as error:
        raise UserError(str(error)) from error


def check_sources(has_checkpoint: bool, has_samples: bool, has_data: bool) -> None:
    """Raises ValueError unless there is a checkpoint alone, or data with or without samples."""
    if has_checkpoint and (has_samples or has_data):
        other = "samples" if has_samples else "data"
        raise ValueError(f"need checkpoint=... or {other}=..., got both; the real images of a checkpoint are those of its training")
    if not has_checkpoint and not has_data:
        given = "samples=... needs the real images beside it" if has_samples else "got none of them"
        raise ValueError(f"need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: {given}")
