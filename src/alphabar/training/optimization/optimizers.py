"""Optimizers with parameter groups: matrices, norms and biases, embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # layers whose weights Muon updates
MIN_SIDE = 8  # smaller matrices belong to the first and last layers, on pixels


class ModuleOptimizer(ABC):
    """Makes an optimizer for a module, with groups that depend on the layers of the parameters."""

    @abstractmethod
    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Returns the trainable parameters of the module as groups of torch, none of them empty."""

    @abstractmethod
    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        """Returns the optimizer of parameters, or of groups."""


MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer] | ModuleOptimizer


@dataclass(frozen=True)
class GroupedAdamW(ModuleOptimizer):
    """AdamW without weight decay on norms, biases and embeddings; Loshchilov & Hutter 2019.

    decay_all: whether they decay as well. fused: see `torch.optim.AdamW`.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_all: bool = False
    fused: bool = True

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        return decay_groups(module, self.decay_all)

    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        settings = {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(parameters, **settings, fused=self.fused)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MuonWithAdamW(ModuleOptimizer):
    """Muon for the weights of hidden linear and convolutional layers, AdamW for everything else; Jordan et al. 2024.

    Steps of Muon are scaled as in Liu et al. 2025 (Moonlight), so that learning rate and weight decay are those of AdamW.
    decay_all: see `GroupedAdamW`.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_all: bool = False

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        hidden = [
            layer.weight
            for layer in module.modules()
            if isinstance(layer, MATRICES) and layer.weight.requires_grad and min(layer.weight.shape[:2]) >= MIN_SIDE
        ]
        muon = [{"params": list(dict.fromkeys(hidden)), "use_muon": True}] if hidden else []
        return [*muon, *decay_groups(module, self.decay_all, hidden)]

    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        return MuonAdamW(parameters, self.lr, self.weight_decay, self.momentum, tuple(self.betas), self.eps)


def decay_groups(module: nn.Module, decay_all: bool, without: Iterable[Tensor] = ()) -> list[dict[str, Any]]:
    """Returns the trainable parameters that are not in `without` in two groups, with and without weight decay.

    Norms, biases and embeddings have none, unless decay_all.
    """
    left_out = set(without)
    rest = [each for each in module.parameters() if each.requires_grad and each not in left_out]
    embeddings = {layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)}
    spared = {each for each in rest if not decay_all and (each.ndim < 2 or each in embeddings)}
    decayed, others = ([each for each in rest if (each in spared) is is_spared] for is_spared in (False, True))
    return [
        *([{"params": decayed}] if decayed else []),
        *([{"params": others, "weight_decay": 0.0}] if others else []),
    ]


class MuonAdamW(Optimizer):
    """An optimizer that updates some groups with torch's Muon (`use_muon`) and the others with AdamW.

    Muon sees the kernel of a convolution as the matrix [out, in * height * width], as in the reference implementation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, ...],
        eps: float,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps, "use_muon": False}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Makes a step; parameters without a gradient, and their state, are unchanged."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [each for each in group["params"] if each.grad is not None]:
                self._step(group, parameters)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        settings = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        changed, inner = parameters, None
        if group["use_muon"]:
            changed = [matrix(each) for each in parameters]
            inner = torch.optim.Muon(changed, **settings, momentum=group["momentum"], adjust_lr_fn="match_rms_adamw")
        else:
            inner = torch.optim.AdamW(changed, **settings, betas=tuple(group["betas"]), eps=group["eps"])
        for own, other in zip(parameters, changed, strict=True):
            if own in self.state:
                inner.state[other] = self.state[own]
        inner.step()
        for own, other in zip(parameters, changed, strict=True):
            self.state[own] = inner.state[other]
            if other.data_ptr() != own.data_ptr():  # a copy, of a weight that is not contiguous
                own.copy_(other.view_as(own))


def matrix(weight: nn.Parameter) -> nn.Parameter:
    """Returns a weight [out, ...] and its gradient as a matrix [out, -1], in the same memory where the weight is contiguous."""
    view = nn.Parameter(weight.detach().reshape(len(weight), -1))
    assert weight.grad is not None
    view.grad = weight.grad.reshape(len(weight), -1)
    return view
