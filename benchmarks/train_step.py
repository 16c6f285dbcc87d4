"""What a training step costs: A B A B in one run, medians with their spread.

    python benchmarks/train_step.py                                    the digits network
    python benchmarks/train_step.py --network unet_small --resolution 32 --batch-size 16
    python benchmarks/train_step.py --network unet_cifar10 --resolution 32 --channels 3 --batch-size 8 --steps 3

1. The whole recipe (Lightning, EMA, clipping, warm-up, figures, progress) against a bare loop on the same network, data and
   optimizer, which clips, warms up and averages the weights too.
2. Our UNet's step (forward, backward, Adam) against that of diffusers' UNet2DModel with the same weights.

Machines drift by tens of per cent within minutes: only the ratios of one run mean something.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

from alphabar.cli.composition.resolvers import register
from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.models.networks.diffusers import to_diffusers
from alphabar.models.networks.unet import UNet
from alphabar.training.ema import trainable_parameters
from alphabar.training.loggers.metrics_file import MetricsFile
from alphabar.training.modules.diffusion import DiffusionModule

CONF = Path(__file__).resolve().parents[1] / "conf"
WARM_UP = 3  # steps that do not count


class RandomImages(ImageSource):
    """Bytes at random: how fast a step is does not depend on what is in the images."""

    def __init__(self, shape: Shape) -> None:
        self.size = shape

    @property
    def shape(self) -> Shape:
        return self.size

    @property
    def symmetric(self) -> bool:
        return False

    @property
    def classes(self) -> None:
        return None

    @property
    def captions(self) -> None:
        return None

    def prepare(self) -> None:
        pass

    def train(self) -> ImageSet:
        pixels = torch.randint(256, (1024, self.size.channels, self.size.resolution, self.size.resolution))
        return ResidentImages(pixels.to(torch.uint8), None)

    def held_out(self) -> ImageSet:
        return self.train()

    def fingerprint(self) -> str:
        return "random"


class Clock(Callback):
    """The time from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(now(pl_module.device))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def mean_step(ends: list[float]) -> float:
    """Seconds of a step, without the first ones."""
    return (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)


def composed(options: argparse.Namespace) -> DictConfig:
    """The configuration of the default run, without what looks at the model now and then."""
    overrides = [
        f"network={options.network}",
        f"data.batch_size={options.batch_size}",
        f"trainer.max_steps={options.steps + WARM_UP}",
        f"trainer.precision={options.precision}",
        "logger=csv",
        *(f"~callbacks.{name}" for name in ("samples", "film", "fid", "curves", "checkpoints")),
    ]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides)
    cfg.shape = cfg.space = {"channels": options.channels, "resolution": options.resolution}
    return cfg


def recipe(cfg: DictConfig, device: torch.device) -> float:
    """Seconds of a step of the whole recipe."""
    module, data, clock = build(cfg.module, "module"), images(cfg), Clock()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [*build(cfg.callbacks, "callbacks").values(), clock]
        make = build(cfg.trainer, "trainer")
        trainer = make(default_root_dir=folder, callbacks=callbacks, logger=[MetricsFile(Path(folder))])
        trainer.fit(module, datamodule=data)
    return mean_step(clock.ends)


def bare(cfg: DictConfig, device: torch.device) -> float:
    """Seconds of a step of a loop that does the same sums and nothing else."""
    module: DiffusionModule = build(cfg.module, "module").to(device)
    pixels = images(cfg).source.train().images(range(1024)).to(device)
    optimizer = module.make_optimizer(module.parameters())
    weights = list(trainable_parameters(module).values())
    shadow = [weight.detach().clone() for weight in weights]
    ends = []
    for step in range(cfg.trainer.max_steps):
        picked = torch.randint(len(pixels), (cfg.data.batch_size,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in cfg.trainer.precision):
            loss = module.objective(module.denoiser, module.codec.encode(pixels[picked])).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = cfg.optimizer.lr * min(1.0, (step + 1) / 100)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(shadow, [weight.detach() for weight in weights], 0.005)
        ends.append(now(device))
    return mean_step(ends)


def images(cfg: DictConfig) -> ImageDataModule:
    return ImageDataModule(RandomImages(Shape.of(cfg.shape.channels, cfg.shape.resolution)), cfg.data.batch_size, 0)


def network_step(network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], cfg: DictConfig, device: torch.device) -> float:
    """Seconds of forward, backward and Adam on one batch."""
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    size = (cfg.data.batch_size, *Shape.of(cfg.shape.channels, cfg.shape.resolution))
    x, label = torch.randn(size, device=device), torch.arange(size[0], device=device) % 1000
    ends = []
    for _ in range(cfg.trainer.max_steps):
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in cfg.trainer.precision):
            loss = forward(x, label.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(now(device))
    return mean_step(ends)


def ours(cfg: DictConfig, device: torch.device) -> float:
    network: UNet = build(cfg.network, "network").to(device)
    return network_step(network, network, cfg, device)


def theirs(cfg: DictConfig, device: torch.device) -> float:
    from diffusers import UNet2DModel

    config, weights = to_diffusers(build(cfg.network, "network"))
    network = UNet2DModel(**config)
    network.load_state_dict(weights)
    network.to(device).train()
    return network_step(network, lambda x, label: network(x, label).sample, cfg, device)


def compare(a: str, b: str, measure: dict[str, Callable[[], float]], rounds: int) -> None:
    """Prints the medians over the rounds, and the median of the rounds' ratios with its range."""
    seconds: dict[str, list[float]] = {a: [], b: []}
    for _ in range(rounds):
        for name in (a, b):
            seconds[name].append(measure[name]())
    for name in (a, b):
        low, high = min(seconds[name]) * 1e3, max(seconds[name]) * 1e3
        print(f"{name:34} {statistics.median(seconds[name]) * 1e3:9.2f} ms a step  ({low:.2f} to {high:.2f})")
    ratios = [one / other for one, other in zip(seconds[a], seconds[b], strict=True)]
    print(f"{'ratio':34} {statistics.median(ratios):9.2f}            ({min(ratios):.2f} to {max(ratios):.2f})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet_tiny")
    parser.add_argument("--resolution", type=int, default=8)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()
    configure_logging()
    cfg = composed(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{options.network}, {options.channels}x{options.resolution}x{options.resolution}, batch {options.batch_size}, ", end="")
    print(f"{options.precision}, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    pairs: list[tuple[str, Callable[..., float]]] = [
        ("the whole recipe", recipe),
        ("a bare loop, same network", bare),
        ("our UNet", ours),
        ("diffusers' UNet2DModel", theirs),
    ]
    measure = {name: (lambda function=function: function(cfg, device)) for name, function in pairs}
    compare(pairs[0][0], pairs[1][0], measure, options.rounds)
    compare(pairs[2][0], pairs[3][0], measure, options.rounds)


if __name__ == "__main__":
    main()
