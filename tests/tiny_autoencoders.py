"""Autoencoders of a few hundred weights."""

from functools import partial

import torch
from diffusers import AutoencoderKL

from alphabar.models.autoencoder import KLAutoencoder
from alphabar.training.modules.autoencoder import AutoencoderModule


def save(folder, channels=3, seed=0):
    """A tiny autoencoder that halves the resolution once, with random weights, as diffusers saves it."""
    torch.manual_seed(seed)
    sizes = {"in_channels": channels, "out_channels": channels, "latent_channels": 2, "block_out_channels": (4, 4)}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**sizes, **blocks, layers_per_block=1, norm_num_groups=2).save_pretrained(folder)
    return folder


def network(**changes):
    torch.manual_seed(0)
    sizes = {"channels": 1, "resolution": 8, "latent_channels": 2, "widths": [8, 8], "layers_per_level": 1, "norm_groups": 4}
    return KLAutoencoder(**sizes | changes)


def module(seed=0, **options):
    torch.manual_seed(seed)
    return AutoencoderModule(
        network(),
        partial(torch.optim.Adam, lr=1e-3),
        seed,
        channels=1,
        **{"discriminator_halvings": 1, "discriminator_width": 8} | options,
    )
