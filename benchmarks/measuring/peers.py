"""The training loops of other tools, each with its own network, optimizer and averages, and without its logging and its files."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from measuring.missing import needed
from measuring.roofline import training_flops
from measuring.timing import Clock, Loop
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.models.networks.diffusers import to_diffusers
from alphabar.models.networks.unet import UNet


class TrainingTask(NamedTuple):
    """What is trained: our network, whose shape the peers' networks have, on batches of so many images."""

    network: UNet
    batch_size: int
    clock: Clock
    device: torch.device


class Peer(Loop):
    """The training loop of another tool, on batches that lie ready on the device."""

    def __init__(self, task: TrainingTask, precision: str) -> None:
        super().__init__(task.clock, task.device)
        self.precision, self.images = precision, task.batch_size
        self.shape = (task.network.channels, int(task.network.resolution))
        self.network = self.make_network(task.network)
        self.batch = torch.randn(task.batch_size, self.shape[0], self.shape[1], self.shape[1], device=task.device)
        self.prepare()

    @abstractmethod
    def make_network(self, ours: UNet) -> nn.Module:
        """Returns the tool's network, on the CPU."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes optimizer, averages and the rest of the loop."""

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the output of the tool's network as it is made."""

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def gflop(self) -> float:
        device = self.batch.device
        self.network.cpu()
        flops = training_flops(self.predict, *self.shape)
        self.network.zero_grad(set_to_none=True)
        self.network.to(device)
        return flops / 1e9

    def accelerator(self) -> Any:
        """Returns the Accelerator of Hugging Face that diffusers' script and denoising-diffusion-pytorch train with."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(mixed_precision="bf16" if self.precision == "bfloat16" else "no", cpu=self.device.type == "cpu")


class Diffusers(Peer):
    """The loop of train_unconditional.py of diffusers with --use_ema, on our network's weights."""

    label = "diffusers (UNet2DModel, train_unconditional.py)"

    def make_network(self, ours: UNet) -> nn.Module:
        needed("diffusers accelerate", "diffusers", "accelerate")
        from diffusers import UNet2DModel

        config, weights = to_diffusers(ours)
        network = UNet2DModel(**config)
        network.load_state_dict(weights)
        return network.train()

    def prepare(self) -> None:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        tool = self.accelerator()
        config = {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 3 / 4, "model_cls": UNet2DModel}
        self.averages = EMAModel(self.network.parameters(), decay=0.9999, model_config=self.network.config, **config)
        self.averages.to(self.device)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        rates = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000)
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.tool, (self.model, self.optimizer, self.rates) = tool, tool.prepare(self.network, optimizer, rates)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t).sample

    def act(self) -> None:
        clean = self.batch
        noise = torch.randn(clean.shape, device=clean.device)
        t = torch.randint(0, self.noise.config.num_train_timesteps, (len(clean),), device=clean.device).long()
        noisy = self.noise.add_noise(clean, noise, t)
        loss = F.mse_loss(self.model(noisy, t).sample.float(), noise.float())
        self.tool.backward(loss)
        self.tool.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        self.averages.step(self.model.parameters())


class CompiledDiffusers(Diffusers):
    """The same loop with the whole network compiled, as `accelerate launch --dynamo_backend inductor` does it."""

    label = "diffusers, compiled (UNet2DModel, train_unconditional.py)"

    def prepare(self) -> None:
        super().prepare()
        self.model = torch.compile(self.model)


class TorchCFM(Peer):
    """The loop of train_cifar10.py of torchcfm: flow matching with its own U-Net, attention in heads of 64 channels."""

    label = "torchcfm (UNetModelWrapper, train_cifar10.py)"

    def make_network(self, ours: UNet) -> nn.Module:
        needed("torchcfm", "torchcfm", "ot")
        from torchcfm.models.unet.unet import UNetModelWrapper

        return UNetModelWrapper(
            dim=(ours.channels, ours.resolution, ours.resolution),
            num_res_blocks=ours.num_res_blocks,
            num_channels=ours.base_channels,
            channel_mult=list(ours.channel_multipliers),
            num_heads=4,
            num_head_channels=64,
            attention_resolutions="16",
            dropout=ours.dropout,
        ).train()

    @property
    def remark(self) -> str:
        return "attention in heads of 64 channels, at 16x16 and in the middle block"

    def prepare(self) -> None:
        import copy

        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

        self.network.to(self.device)
        self.average = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-4)
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=lambda step: min(step, 5000) / 5000)
        self.matcher = ConditionalFlowMatcher(sigma=0.0)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(t, x)

    def act(self) -> None:
        self.optimizer.zero_grad()
        x1 = self.batch
        x0 = torch.randn_like(x1)
        t, xt, ut = self.matcher.sample_location_and_conditional_flow(x0, x1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            vt = self.network(t, xt)
        torch.mean((vt - ut) ** 2).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        source, target = self.network.state_dict(), self.average.state_dict()
        for key in source:
            target[key].data.copy_(target[key].data * 0.9999 + source[key].data * (1 - 0.9999))


class DenoisingDiffusion(Peer):
    """The loop of the Trainer of denoising-diffusion-pytorch with its own U-Net: linear attention at every resolution, RMSNorm."""

    label = "denoising-diffusion-pytorch (Unet, Trainer)"

    def make_network(self, ours: UNet) -> nn.Module:
        needed("denoising-diffusion-pytorch", "denoising_diffusion_pytorch", "ema_pytorch", "accelerate")
        from denoising_diffusion_pytorch import Unet

        return Unet(dim=ours.base_channels, dim_mults=ours.channel_multipliers, channels=ours.channels, dropout=ours.dropout)

    @property
    def remark(self) -> str:
        return "another network: linear attention at every resolution, RMSNorm"

    def prepare(self) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion
        from ema_pytorch import EMA

        self.network.to(self.device)
        model = GaussianDiffusion(self.network, image_size=self.shape[1], timesteps=1000).to(self.device).train()
        self.averages = EMA(model, beta=0.995, update_every=10).to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.tool = self.accelerator()
        self.model, self.optimizer = self.tool.prepare(model, optimizer)
        self.batch = self.batch.clamp(0, 1)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t)

    def act(self) -> None:
        with self.tool.autocast():
            loss = self.model(self.batch)
            loss.item()  # as its Trainer does
        self.tool.backward(loss)
        self.tool.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averages.update()


PEERS: tuple[Callable[[TrainingTask, str], Peer], ...] = (Diffusers, TorchCFM, DenoisingDiffusion)
