"""Our runs, as `python train.py` and `python sample.py` make them: the steps are timed from inside by one more callback."""

import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring.roofline import training_flops
from measuring.timing import CLOCKS, Contestant, Loop, Moments, used_device
from omegaconf import DictConfig, OmegaConf
from torch import nn

import alphabar
from alphabar.config.build import build
from alphabar.files.atomic import write_text
from alphabar.library.composition import compose
from alphabar.models.networks.unet import UNet
from alphabar.training.ema import trainable_parameters
from alphabar.training.modules.diffusion import DiffusionModule

WARM_UP = 3  # steps that do not count
NUM_IMAGES = 2048
# Callbacks that look at the model before the first step, which takes a minute on a CPU and nothing in a step.
WITHOUT = [f"callbacks.{name}=null" for name in ("samples", "film", "fid", "held_out_loss")]


class Enough(Exception):
    """Ends a run whose steps have been timed, without what a run does at its end."""


class StepClock(Callback):
    """Times steps from the end of one to the end of the next (see `Moments`), writes them to a file, and ends the run.

    path: of the JSON file. steps: as many are timed, after WARM_UP. clock: a name in `CLOCKS`.
    """

    def __init__(self, path: str, steps: int, clock: str = "wall") -> None:
        self.path, self.steps, self.clock = Path(path), steps, CLOCKS[clock]
        self.warmed_up = 0
        self.moments: Moments | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.moments is None:
            self.warmed_up += 1
            if self.warmed_up == WARM_UP:
                self.moments = Moments(self.clock, pl_module.device, self.steps)
            return
        self.moments.end()
        if self.moments.is_complete:
            self.path.write_text(json.dumps(self.moments.times))
            raise Enough


def random_images(folder: Path, channels: int, resolution: int) -> Path:
    """Returns the file of images of random bytes: how fast a step is does not depend on what is in them."""
    path = folder / f"images_{channels}x{resolution}.npy"
    if not path.exists():
        size = (NUM_IMAGES, resolution, resolution, channels)
        np.save(path, np.random.default_rng(0).integers(256, size=size, dtype=np.uint8))
    return path


def data_words(folder: Path, channels: int, resolution: int, batch_size: int) -> list[str]:
    """Returns the overrides that choose random images as data."""
    return [*WITHOUT, "data=arrays", f"data.path={random_images(folder, channels, resolution)}", f"data.batch_size={batch_size}"]


class OurTraining(Contestant):
    """The steps of `python train.py WORDS`, with all that it does beside them.

    network: the network that the command trains, whose parameters and FLOPs the table has; None: it has neither.
    """

    def __init__(
        self,
        label: str,
        precision: str,
        words: Sequence[str],
        folder: Path,
        batch_size: int,
        clock: str,
        network: UNet | None = None,
    ) -> None:
        self.label, self.precision, self.words, self.network = label, precision, list(words), network
        self.folder, self.images, self.clock = folder, batch_size, clock

    def times(self, num: int) -> list[float]:
        run, times = Path(tempfile.mkdtemp(dir=self.folder)), self.folder / "times.json"
        clock = {"_target_": "measuring.ours.StepClock", "path": str(times), "steps": num, "clock": self.clock}
        (self.folder / "callbacks").mkdir(exist_ok=True)
        write_text(self.folder / "callbacks" / "timed.yaml", OmegaConf.to_yaml({"defaults": ["default"], "clock": clock}))
        own = [f"hydra.run.dir={run}", "logger=csv", "report=false", "callbacks=timed"]
        output = io.StringIO()
        try:
            with redirect_stdout(output), redirect_stderr(output):
                alphabar.train([*self.words, *own], config_dir=self.folder)
        except Enough:
            return json.loads(times.read_text())
        finally:
            shutil.rmtree(run, ignore_errors=True)  # a run that fails may remove its folder itself
        raise RuntimeError(f"the run ended before {num} steps:\n{output.getvalue()}")

    @property
    def parameters(self) -> int | None:
        return None if self.network is None else sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def gflop(self) -> float | None:
        if self.network is None:
            return None
        return training_flops(self.network, self.network.channels, int(self.network.resolution)) / 1e9


def our_config(words: Sequence[str], channels: int, resolution: int) -> DictConfig:
    """Returns the configuration of `python train.py WORDS` on images of this size."""
    cfg = compose("train", words)
    cfg.shape = cfg.space = {"channels": channels, "resolution": resolution}
    return cfg


class BareLoop(Loop):
    """A loop that does the sums of `python train.py WORDS` and nothing else: it clips, warms up and averages the weights, too."""

    label = "a bare loop on the same network"

    precision = "float32"

    def __init__(self, words: Sequence[str], size: tuple[int, int], clock: str) -> None:
        super().__init__(CLOCKS[clock], used_device())
        cfg = our_config(words, *size)
        self.images = cfg.data.batch_size
        self.module: DiffusionModule = build(cfg.module, "module").to(self.device)
        pixels = torch.from_numpy(np.load(cfg.data.path)).permute(0, 3, 1, 2).contiguous()
        self.pixels = pixels.to(self.device)
        self.optimizer = self.module.make_optimizer(self.module.parameters())
        self.weights = list(trainable_parameters(self.module).values())
        self.averages = [weight.detach().clone() for weight in self.weights]
        self.rate, self.steps, self.warm_up_steps = cfg.optimizer.lr, 0, cfg.lr_scheduler.warmup_steps
        self.norm, self.share = cfg.trainer.gradient_clip_val, 1 - cfg.averaging.decay

    def act(self) -> None:
        picked = torch.randint(len(self.pixels), (self.images,), device=self.device)
        loss = self.module.objective(self.module.denoiser, self.module.codec.encode(self.pixels[picked])).loss.mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self.norm)
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, self.steps / max(1, self.warm_up_steps))
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [weight.detach() for weight in self.weights], self.share)


def our_network(words: Sequence[str], channels: int, resolution: int) -> UNet:
    """Returns the network of `python train.py WORDS` on images of this size, as it is before training."""
    return build(our_config(words, channels, resolution).network, "network")
