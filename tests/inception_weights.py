"""Random weights of torch-fidelity's InceptionV3, in place of the trained ones."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class Untrained(FeatureExtractorInceptionV3):
    """The network with the weights that it has before it loads some, which it only does from a file."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("random", ["2048"], nothing)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> None:
        pass


def write_weights(path, logit_scale=1.0):
    """Writes weights with which features are about one; `logit_scale` is that of the layer of logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Untrained()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, std=0.1)
        network.fc.weight.mul_(logit_scale)
    torch.save(network.state_dict(), path)
