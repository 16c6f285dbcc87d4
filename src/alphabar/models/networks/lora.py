"""Low-rank adaptation (LoRA) of a frozen network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alphabar.errors import UserError
from alphabar.models.networks import Network

TARGETS = ("attention.qkv", "attention.out")
_BASE, _ADAPTER = ".base_layer.", ".lora_"  # in the names that peft gives


class LoRA(Network):
    """A frozen network whose linear layers learn a change of low rank: W + alpha / rank * B A (Hu et al. 2021, sec. 4.1).

    A [rank, in] is random and B [out, rank] 0 at first, so that the output is initially that of the network. The adapters are
    those of peft. network: the frozen network. targets: the suffixes of the names of the layers that are adapted.
    Raises UserError if peft is not installed, and ValueError unless rank >= 1 and alpha > 0, or if no linear layer has such a name.
    """

    def __init__(self, network: Network, rank: int = 8, alpha: float = 8.0, targets: Sequence[str] = TARGETS) -> None:
        super().__init__()
        if rank < 1 or not alpha > 0:
            raise ValueError(f"need rank >= 1 and alpha > 0, got rank={rank}, alpha={alpha}")
        linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        adapted = [name for name in linear if name.endswith(tuple(f".{target}" for target in targets))]
        if not adapted:
            raise ValueError(
                f"targets={list(targets)}: {type(network).__name__} has no linear layer of such a name; it has {linear[:4]}"
            )
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UserError("lora: needs Hugging Face's peft: pip install 'alphabar[lora]'") from error
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=adapted), network)  # type: ignore[arg-type]
        self.network = network

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.network(x, label, cond)

    @property
    def unused_arguments(self) -> Sequence[str]:
        return self.network.unused_arguments

    @property
    def regions(self) -> Sequence[nn.Module]:
        return ()  # those of the network inside are found with it


def name_without_lora(name: str) -> str:
    """Returns the name of a weight without the prefixes that `LoRA` adds."""
    return name.replace(".network.network.", ".network.").replace(_BASE, ".")


def is_of_adapter(name: str) -> bool:
    """Returns whether a weight of this name belongs to an adapter."""
    return _ADAPTER in name
