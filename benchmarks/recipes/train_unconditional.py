"""The recipe of diffusers' example script train_unconditional.py, which is in no package: its loop with its documented defaults."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from recipes import Recipe, Task, TimeLimit, Trained, in_batches

BATCH_SIZE, LEARNING_RATE, WARM_UP_STEPS = 16, 1e-4, 500
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Arguments = dict[str, Any]


def unet_of_cifar10(task: Task) -> Arguments:
    """Returns the configuration of google/ddpm-cifar10-32 (--model_config_name_or_path), 36 million parameters.

    The script's own default, 114 million parameters on six levels, is for images of 64 pixels and more.
    """
    return {
        "sample_size": (task.height, task.width),
        "in_channels": task.channels,
        "out_channels": task.channels,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }


def our_unet(task: Task) -> Arguments:
    """Returns the configuration of the network that train.py trains."""
    assert task.unet is not None
    return task.unet


class Images(Dataset[Tensor]):
    """The image files, decoded and transformed anew at every visit, as the script does: float32 [C, H, W] in -1..1."""

    def __init__(self, task: Task) -> None:
        from torchvision import transforms

        self.paths, self.mode = sorted(Path(task.images).glob("*.png")), MODES[task.channels]
        size = (task.height, task.width)
        mirror = [transforms.RandomHorizontalFlip()] if task.flip else []
        to_tensor = [transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        self.transform = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *mirror, *to_tensor])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert(self.mode))


def endless(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """Yields the batches of one epoch after another."""
    while True:
        yield from loader


def learning_rate_factor(step: int, share: float) -> float:
    """Returns the factor of the learning rate at a step: a warm-up, then a cosine that ends with the time.

    share: the share of the time that is over. The script is told a number of epochs; here it is the one that the time allows.
    """
    if step < WARM_UP_STEPS:
        return step / WARM_UP_STEPS
    num_steps = max(step / share, WARM_UP_STEPS + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - WARM_UP_STEPS) / (num_steps - WARM_UP_STEPS))))


class TrainUnconditional(Recipe):
    """The script with --use_ema: AdamW, batches of 16, a warm-up of 500 steps and a cosine, DDPM in 1,000 steps."""

    packages = {"diffusers": "diffusers"}

    def __init__(self, unet: Callable[[Task], Arguments], takes_our_network: bool) -> None:
        self.unet = unet
        self.takes_our_network = takes_our_network

    def train(self, task: Task) -> Trained:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        torch.manual_seed(task.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = UNet2DModel(**self.unet(task)).to(device).train()
        scheduler = DDPMScheduler(num_train_timesteps=1000)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        loader = DataLoader(Images(task), batch_size=BATCH_SIZE, shuffle=True)
        limit, step = TimeLimit(task.seconds), 0
        for images in limit.batches(endless(loader)):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_factor(step, limit.elapsed / task.seconds)
            x = images.to(device)
            noise = torch.randn_like(x)
            t = torch.randint(0, 1000, (len(x),), device=device)
            loss = mse_loss(network(scheduler.add_noise(x, noise, t), t).sample, noise)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.step(network.parameters())
            loss.item()  # the script logs it at every step
            step += 1
        average.copy_to(network.parameters())
        evaluations = task.evaluations or scheduler.config.num_train_timesteps
        return Trained(
            network=network,
            steps=step,
            images_per_step=BATCH_SIZE,
            first_step=limit.first_step,
            seconds=limit.elapsed,
            sampler=f"{'ddim' if task.evaluations else 'ddpm'}{evaluations}",
            settings=f"eps on the linear schedule, AdamW {LEARNING_RATE:g}, {WARM_UP_STEPS} steps of warm-up, cosine, EMA, float32",
            draw=lambda num: in_batches(drawer(network.eval(), scheduler, task), num),
        )


def drawer(network: nn.Module, scheduler: Any, task: Task) -> Callable[[int, int], Tensor]:
    """Returns the function that draws so many images in 0..1, [B, C, H, W], with a seed: by DDPM as the script, or by DDIM."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

    if task.evaluations:
        pipeline = DDIMPipeline(network, DDIMScheduler.from_config(scheduler.config))
    else:
        pipeline = DDPMPipeline(network, scheduler)
    num_steps = task.evaluations or scheduler.config.num_train_timesteps

    def draw(num: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(2**20 * (task.seed + 1) + seed)
        images = pipeline(batch_size=num, num_inference_steps=num_steps, generator=generator, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    return draw
