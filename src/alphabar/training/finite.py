"""Whether the weights of a run, and their averages, are numbers: only then are they saved."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.training.ema import describe_settings, trainable_parameters, weight_averages


def nonfinite_weight(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Returns the name of a weight or of an average that has NaN or infinity, or None if all are finite.

    A buffer may be infinite, such as a mask, but not NaN. Waits for the device once.
    """
    checks: dict[str, Tensor] = {}
    parameters = trainable_parameters(pl_module)
    for name, value in pl_module.state_dict().items():
        if value.is_floating_point():
            checks[name] = value.isfinite().all() if name in parameters else ~value.isnan().any()
    averages = weight_averages(trainer)
    for profile, shadow in averages.shadows.items() if averages is not None else ():
        for name, value in shadow.items():
            checks[f"the average ({describe_settings(vars(profile))}) of {name}"] = value.isfinite().all()
    if not checks:
        return None
    good = torch.stack(list(checks.values())).tolist()
    return next((name for name, is_good in zip(checks, good, strict=True) if not is_good), None)
