"""Averages of the weights, one or several at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from alphabar.errors import UserError
from alphabar.runs.checkpoints.checkpoint import must_have_types, weight_shapes
from alphabar.runs.ema.profiles import Exponential, PowerFunction, Profile


class WeightAverages(Callback):
    """The averages average <- average + weight(n) * (weights - average) after optimizer step n, for the weight of each profile.

    The averages (`shadows`) are float32, of the trainable parameters only: a schedule's buffers are not averaged. They are kept in
    checkpoints under the key "ema"; `state_dict` always holds the live weights. Weights are swapped only inside `applied`, whose
    end, by whatever way, brings the live ones back.

    profiles: the profile of each average, one or more, all different; samples, FID and weights=ema use the first.
    """

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self.profiles = tuple(profiles)
        self.num_updates = 0
        self.shadows: dict[Profile, dict[str, Tensor]] = {}
        self.live: list[Tensor] = []  # the parameters in the order of the averages, looked up once

    @property
    def shadow(self) -> dict[str, Tensor]:
        """Returns the first average, by name of the parameter."""
        return self.shadows[self.profiles[0]]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError("ema: sharded parameters (FSDP) cannot be averaged; use trainer.strategy=ddp or callbacks.ema=null")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for profile in self.profiles:
            shadow = self.shadows.get(profile) or {
                name: weight.detach().float().clone() for name, weight in trainable_parameters(pl_module).items()
            }
            self.shadows[profile] = {name: average.to(pl_module.device) for name, average in shadow.items()}
        weights = trainable_parameters(pl_module)
        self.live = [weights[name] for name in self.shadow]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.num_updates:  # a batch that only accumulated gradients
            return
        self.num_updates = trainer.global_step
        weights = [weight if weight.dtype == torch.float32 else weight.float() for weight in self.live]
        for profile, shadow in self.shadows.items():
            share = profile.weight(self.num_updates)
            torch._foreach_lerp_(list(shadow.values()), weights, share)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Sets the module's parameters to the first averages inside the context; before the first update they stay as they are."""
        if self.num_updates == 0:
            yield
            return
        weights = trainable_parameters(pl_module)
        live = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            copy_into(weights, self.shadow)
            yield
        finally:
            copy_into(weights, live)

    def content(self) -> dict[str, Any]:
        """Returns the content of files: the first average under "weights", and all, each with the settings of its profile."""
        averages = [{**vars(profile), "weights": shadow} for profile, shadow in self.shadows.items()]
        return {"num_updates": self.num_updates, "weights": self.shadow, "averages": averages}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.content()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "ema" not in checkpoint:
            raise UserError("ema: the checkpoint has no averaged weights; resume with callbacks.ema=null")
        saved: dict[str, Any] = {"weights": {}, "num_updates": 0, "averages": [], **checkpoint["ema"]}
        must_have_types(saved, {"weights": dict, "num_updates": int, "averages": list}, "checkpoint: its ema.")
        records: list[dict[str, Any]] = saved["averages"]
        must_have_types(dict(enumerate(records)), dict.fromkeys(range(len(records)), dict), "checkpoint: its ema.averages.")
        needed = weight_shapes(trainable_parameters(pl_module))
        for weights in (saved["weights"], *(record.get("weights") for record in records)):
            if not isinstance(weights, dict) or weight_shapes(weights) != needed:
                raise UserError("ema: the averaged weights in the checkpoint belong to another network")
        saved_settings, own_settings = (
            [describe_settings(record) for record in records],
            [describe_settings(vars(profile)) for profile in self.profiles],
        )
        if saved_settings != own_settings:
            raise UserError(
                f"ema: the checkpoint has averages with {', '.join(saved_settings) or 'unknown settings'}, they cannot go on with "
                f"{', '.join(own_settings)}; resume with those, or with callbacks.ema=null"
            )
        self.num_updates = saved["num_updates"]
        for profile, record in zip(self.profiles, records, strict=True):
            self.shadows[profile] = {name: average.clone() for name, average in record["weights"].items()}


class EMA(WeightAverages):
    """Exponential moving averages: one with `decay`, which samples and FID use, and others beside it.

    Raises ValueError unless all decays are different and 0 <= decay < 1.
    """

    def __init__(self, decay: float = 0.9999, more_decays: Sequence[float] = ()) -> None:
        super().__init__([Exponential(float(each)) for each in (decay, *more_decays)])
        check_distinct("decays", [decay, *more_decays])


class PowerEMA(WeightAverages):
    """Power-function averages of these lengths (sigma_rel; Karras et al. 2024, sec. 3), of which samples and FID use the first.

    Raises ValueError unless there is one, all are different, and 0 < length <= 12^(-1/2).
    """

    def __init__(self, lengths: Sequence[float]) -> None:
        if not lengths:
            raise ValueError("need lengths, such as lengths=[0.05, 0.1], got none")
        super().__init__([PowerFunction(float(each)) for each in lengths])
        check_distinct("lengths", lengths)


def describe_settings(record: Mapping[str, Any]) -> str:
    """Returns the settings that tell an average from others: "decay=0.9999"."""
    return ", ".join(f"{name}={value}" for name, value in record.items() if name != "weights")


def check_distinct(name: str, values: Sequence[float]) -> None:
    """Raises ValueError for a value that is there twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"need different {name}, got {', '.join(map(str, values))}")


def trainable_parameters(pl_module: LightningModule) -> dict[str, Tensor]:
    """Returns the parameters that training changes, by name."""
    return {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}


@torch.no_grad()
def copy_into(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copies in place, so that compiled and distributed networks keep their storage."""
    for name, weight in weights.items():
        weight.copy_(values[name])


def weight_averages(trainer: Trainer) -> WeightAverages | None:
    """Returns the WeightAverages callback of the trainer, or None if the run keeps no averages."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, WeightAverages)), None)


def averaged_weights(trainer: Trainer, pl_module: LightningModule) -> AbstractContextManager[None]:
    """Returns the context in which the module has its averaged weights, or its live ones if the run keeps no averages."""
    averages = weight_averages(trainer)
    return averages.applied(pl_module) if averages is not None else nullcontext()
