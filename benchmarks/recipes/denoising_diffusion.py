"""The recipe of denoising-diffusion-pytorch, as its README has it: Unet, GaussianDiffusion and Trainer."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from recipes import Recipe, Task, TimeLimit, Trained, in_batches

BATCH_SIZE, ACCUMULATED, LEARNING_RATE, DDIM_STEPS = 32, 2, 8e-5, 250
Arguments = dict[str, Any]


def unet_of_readme(task: Task) -> Arguments:
    """Returns the arguments of the README's Unet, 36 million parameters."""
    return {"dim": 64, "dim_mults": (1, 2, 4, 8)}


def unet_of_our_width(task: Task) -> Arguments:
    """Returns the arguments of a Unet as wide and as deep as the one that train.py trains."""
    assert task.unet is not None
    widths = task.unet["block_out_channels"]
    return {"dim": widths[0], "dim_mults": tuple(width // widths[0] for width in widths)}


class DenoisingDiffusion(Recipe):
    """README's Trainer: Adam, two batches of 32 in a step, an average with decay 0.995, and DDIM in 250 steps.

    What cannot run is left out: mixed precision (fp16) without a GPU, and its FID, which takes 50,000 samples and a download.
    """

    packages = {"denoising_diffusion_pytorch": "denoising-diffusion-pytorch"}

    def __init__(self, unet: Callable[[Task], Arguments], takes_our_network: bool) -> None:
        self.unet = unet
        self.takes_our_network = takes_our_network

    def train(self, task: Task) -> Trained:
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

        torch.manual_seed(task.seed)
        arguments, has_gpu = self.unet(task), torch.cuda.is_available()
        evaluations = task.evaluations or DDIM_STEPS
        diffusion = GaussianDiffusion(
            Unet(**arguments, channels=task.channels, flash_attn=True),
            image_size=(task.height, task.width),
            timesteps=1000,
            sampling_timesteps=evaluations,
        )
        trainer = Trainer(
            diffusion,
            task.images,
            train_batch_size=BATCH_SIZE,
            train_lr=LEARNING_RATE,
            train_num_steps=10**9,
            gradient_accumulate_every=ACCUMULATED,
            augment_horizontal_flip=task.flip,
            ema_decay=0.995,
            amp=has_gpu,
            calculate_fid=False,
            results_folder=f"{task.folder}/results",
        )
        limit = TimeLimit(task.seconds, ACCUMULATED)
        trainer.dl = limit.batches(trainer.dl)
        with suppress(StopIteration):  # the Trainer takes batches until there are none
            trainer.train()
        averaged = trainer.ema.ema_model.eval()

        def draw(num: int, seed: int) -> Tensor:
            torch.manual_seed(2**20 * (task.seed + 1) + seed)
            return averaged.sample(batch_size=num)

        return Trained(
            network=averaged.model,
            steps=trainer.step,
            images_per_step=BATCH_SIZE * ACCUMULATED,
            first_step=limit.first_step,
            seconds=limit.elapsed,
            sampler=f"ddim{evaluations}",
            settings=f"Unet(dim={arguments['dim']}, dim_mults={arguments['dim_mults']}), v on the sigmoid schedule, "
            f"Adam {LEARNING_RATE:g}, EMA 0.995 every 10 steps, {'fp16' if has_gpu else 'float32'}",
            draw=lambda num: in_batches(draw, num),
        )
