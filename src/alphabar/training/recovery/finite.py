"""Whether the weights of a run, and their averages, are numbers: only then are they saved."""

import torch
from lightning.pytorch import LightningModule, Trainer

from alphabar.training.ema import describe_settings, weight_averages


def nonfinite_weight(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Returns the name of a weight or of an average that has NaN or infinity, or None if all are finite.

    A buffer may be infinite, such as a mask, but not NaN. Waits for the device once, unless there is something. After training, the
    Trainer has moved the weights to the CPU, but not the averages.
    """
    values = dict(pl_module.state_dict())
    averages = weight_averages(trainer)
    for profile, shadow in averages.shadows.items() if averages is not None else ():
        values |= {f"the average ({describe_settings(vars(profile))}) of {name}": value for name, value in shadow.items()}
    values = {name: value for name, value in values.items() if value.is_floating_point()}
    sums = [value.sum(dtype=torch.float32) for value in values.values()]
    if not sums or torch.stack([each.to(sums[0].device) for each in sums]).isfinite().all():
        return None
    # A sum takes a fraction of the time, but it may also be that of large numbers or of a mask.
    buffers = {name for name, _ in pl_module.named_buffers()}
    for name, value in values.items():
        if value.isnan().any() or (name not in buffers and value.isinf().any()):
            return name
    return None
