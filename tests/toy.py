"""A diffusion run that takes a second: 8x8 digits and a network of a few thousand parameters."""

from functools import partial

import torch
from lightning.pytorch import Trainer

from alphabar.data.sources.digits import Digits
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.objectives.denoising import Denoising
from alphabar.diffusion.objectives.weightings import UniformWeighting
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.networks.unet import UNet
from alphabar.training.callbacks.checkpoints import AtomicCheckpointIO
from alphabar.training.modules.diffusion import DiffusionModule
from alphabar.training.optimization.lr_schedules import ConstantRate


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return UNet(
        channels=1,
        resolution=8,
        base_channels=8,
        channel_multipliers=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[4],
        norm_groups=4,
        dropout=dropout,
    )


def module(seed=0, lr=1e-3, warmup_steps=0, dropout=0.0, net=None):
    denoiser = NetworkDenoiser(net or network(seed, dropout), LinearSchedule(), Epsilon())
    return DiffusionModule(
        denoiser, Denoising(UniformWeighting()), Pixels(), partial(torch.optim.Adam, lr=lr), seed, ConstantRate(warmup_steps)
    )


def digits(batch_size=32):
    return Digits(batch_size=batch_size, seed=0)


def trainer(folder, callbacks=(), max_steps=4, loggers=(), plugins=(), **arguments):
    defaults = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0, "log_every_n_steps": 2}
    return Trainer(
        **defaults | arguments,
        max_steps=max_steps,
        default_root_dir=str(folder),
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        use_distributed_sampler=False,
        enable_checkpointing=any(type(callback).__name__ == "Checkpoints" for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO(), *plugins],
    )
