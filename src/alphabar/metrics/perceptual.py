"""The perceptual distance of two images in the features of a frozen network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import SqueezeNet1_1_Weights

from alphabar.errors import UserError
from alphabar.files.paths import user_path

URL = SqueezeNet1_1_Weights.IMAGENET1K_V1.url
FILE_NAME = URL.rsplit("/", 1)[-1]
MIN_RESOLUTION = 17  # SqueezeNet cannot pool smaller images


class Perceptual:
    """LPIPS with SqueezeNet: sum over layers of the mean of w * (f_a - f_b)^2, f normalised (Zhang et al. 2018, eq. 1).

    It is no nn.Module, so that a module that holds it neither trains nor saves it; weights are read when they are first needed.
    The weights w of the layers come with torchmetrics, those of the network are torchvision's.

    weights: a file with the weights of SqueezeNet; None: the one in torch hub's folder.
    """

    def __init__(self, weights: str | None = None) -> None:
        self.path = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME if weights is None else user_path(weights)
        self._network: _LPIPS | None = None

    def load(self) -> None:
        """Reads the weights. Raises UserError if they are missing or belong to another network."""
        if not self.path.is_file():
            raise UserError(
                f"perceptual: there is no file {self.path}; get {URL} and put it there, or set module.perceptual.weights"
            )
        with torch.random.fork_rng(devices=[]):
            network = _LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
        try:
            state: Any = torch.load(self.path, map_location="cpu", weights_only=True)
            network.net.load_state_dict(renamed(state, network))
        except Exception as error:  # any kind: a file may contain any bytes
            raise UserError(f"perceptual: {self.path} does not hold the weights of torchvision's SqueezeNet 1.1") from error
        self._network = network.requires_grad_(False).eval()

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the distance [B] of images [B, 1 or 3, H, W] in [-1, 1]; grey is repeated. Always computed in float32."""
        if self._network is None:
            self.load()
        assert self._network is not None
        network = self._network.to(a.device)
        with torch.autocast(a.device.type, enabled=False):
            distance: Tensor = network(a.float().expand(-1, 3, -1, -1), b.float().expand(-1, 3, -1, -1))  # type: ignore[assignment]
        return distance.flatten()


def renamed(state: dict[str, Tensor], network: _LPIPS) -> dict[str, Tensor]:
    """Returns torchvision's weights by the names that torchmetrics has for the same layers."""
    theirs = {name.removeprefix("features."): weight for name, weight in state.items() if name.startswith("features.")}
    ours = network.net.state_dict()
    return {name: theirs[name.split(".", 2)[2]] for name in ours}
