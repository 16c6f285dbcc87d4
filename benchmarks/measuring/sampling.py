"""Sampling of images by DDIM with one network, ours and that of others, at equal steps."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from measuring.missing import needed
from measuring.ours import our_network
from measuring.roofline import forward_flops
from measuring.timing import Call, Clock, GlobalSettings, used_device

import alphabar
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.models.networks.diffusers import to_diffusers
from alphabar.models.networks.unet import UNet
from alphabar.speed import fastest

TRAINER_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def trained_briefly(words: Sequence[str], folder: Path) -> Path:
    """Returns the checkpoint that `python train.py WORDS` leaves after a step."""
    run = folder / "trained"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        alphabar.train(
            [*words, "trainer.max_steps=1", f"hydra.run.dir={run}", "logger=csv", "report=false", "callbacks.curves=null"]
        )
    return run / "checkpoints" / "last.ckpt"


def samplers(
    words: Sequence[str], size: tuple[int, int], num: int, num_steps: int, precisions: Sequence[str], folder: Path, clock: Clock
) -> list[Callable[[], Call]]:
    """Returns what makes the samplers of `num` images, those of others first.

    words: the overrides that choose network and data. size: channels and resolution. num_steps: evaluations of the network.
    """
    network = our_network(words, *size).eval()
    gflop = num_steps * forward_flops(network, *size) / 1e9
    checkpoint = trained_briefly(words, folder)
    makers = [lambda p=p: of_diffusers(network, num, num_steps, p, gflop, clock) for p in precisions]
    makers.append(lambda: of_denoising_diffusion(network, num, num_steps, clock))
    default = default_precision()
    makers.append(lambda: ours("alphabar", checkpoint, num, num_steps, default, None, gflop, clock))
    for precision in precisions:
        if precision != default:
            name = TRAINER_PRECISIONS[precision]
            label = f"alphabar, precision={name}"
            makers.append(lambda p=precision, n=name, label=label: ours(label, checkpoint, num, num_steps, p, n, gflop, clock))
    return makers


def default_precision() -> str:
    """Returns the precision in which ours computes by default on this machine."""
    names = {name: precision for precision, name in TRAINER_PRECISIONS.items()}
    return names[fastest(used_device()).precision]


def ours(
    label: str, checkpoint: Path, num: int, num_steps: int, precision: str, name: str | None, gflop: float, clock: Clock
) -> Call:
    """Returns our sampler as a notebook calls it; name: of the precision that it asks for, None: that of speed=auto."""
    model, sampler = alphabar.load(checkpoint, precision=name), DDIM(num_steps=num_steps)
    settings = GlobalSettings()  # which loading has chosen, and which others take back

    def sample() -> object:
        settings.restore()
        return model.sample(num, sampler=sampler, batch_size=num)

    return Call(label, precision, num, sample, clock, gflop)


def of_diffusers(network: UNet, num: int, num_steps: int, precision: str, gflop: float, clock: Clock) -> Call:
    """Returns the pipeline of diffusers with our weights; in bfloat16 under autocast, since it makes no images of bfloat16."""
    needed("diffusers", "diffusers")
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    config, weights = to_diffusers(network)
    model = UNet2DModel(**config)
    model.load_state_dict(weights)
    pipeline = DDIMPipeline(model, DDIMScheduler(num_train_timesteps=1000)).to(used_device())
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> object:
        with torch.autocast(used_device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            return pipeline(batch_size=num, num_inference_steps=num_steps, output_type="np")

    return Call("diffusers (DDIMPipeline)", precision, num, sample, clock, gflop)


def of_denoising_diffusion(network: UNet, num: int, num_steps: int, clock: Clock) -> Call:
    """Returns the sampler of denoising-diffusion-pytorch with its own network."""
    needed("denoising-diffusion-pytorch", "denoising_diffusion_pytorch")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    model = Unet(dim=network.base_channels, dim_mults=network.channel_multipliers, channels=network.channels)
    gflop = num_steps * forward_flops(model, network.channels, int(network.resolution)) / 1e9
    diffusion = GaussianDiffusion(model, image_size=int(network.resolution), sampling_timesteps=num_steps).to(used_device()).eval()

    def sample() -> object:
        with redirect_stderr(io.StringIO()), torch.inference_mode():
            return diffusion.sample(batch_size=num)

    remark = "another network: linear attention at every resolution, RMSNorm"
    return Call("denoising-diffusion-pytorch (ddim_sample)", "float32", num, sample, clock, gflop, remark)
