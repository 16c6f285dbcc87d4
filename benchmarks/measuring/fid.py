"""FID in two parts, ours and that of others: features of images, and the distance of two sets of features."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from measuring.timing import Call, Clock, Loop, used_device
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torchmetrics.image.fid import NoTrainInceptionV3, _compute_fid

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.metrics import Splits
from alphabar.metrics.extractor import in_float32
from alphabar.metrics.feature_set import Gaussian
from alphabar.metrics.features.inception import InceptionFeatures
from alphabar.metrics.statistics.frechet import frechet_distance
from alphabar.training.flops import flop_counter


class Untrained(FeatureExtractorInceptionV3):
    """The network with the weights that it has before it loads some, which it only does from a file."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("random", ["2048"], nothing)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        pass


def write_random_weights(path: Path, logit_scale: float = 1.0) -> None:
    """Writes weights of Inception with which features are about one. logit_scale: of the weights of the layer of logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Untrained()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, std=0.1)
        network.fc.weight.mul_(logit_scale)
    torch.save(network.state_dict(), path)


def extractors(batch_size: int, folder: Path, clock: Clock) -> list[Loop]:
    """Returns the extractors of Inception features of a batch of images 3x32x32, all with the same random weights.

    The batch lies on the device. FLOPs are those of the network, and do not count resizing.
    """
    weights, device = folder / "inception.pth", used_device()
    write_random_weights(weights)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    splits = Splits(ResidentImages(images, None), ResidentImages(images, None), "random")
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
    with flop_counter() as counter:
        theirs(images[:1])
    gflop = counter.get_total_flops() / 1e9
    images, theirs = images.to(device), theirs.to(device)
    by_torchmetrics = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
    ours = InceptionFeatures(str(weights), str(folder)).extractors(splits)[0].to(device)
    with in_float32(device), torch.no_grad():  # on GPUs, theirs is in TF32 otherwise
        expected = theirs(images)[0]
        error = ((ours(images) - expected).norm(dim=1) / expected.norm(dim=1)).max()
    remark = f"features differ from those of torch-fidelity by {error:.1e} of their norm or less"

    def call(label: str, network: nn.Module, remark: str = "") -> Call:
        def extract() -> object:
            with torch.no_grad():
                return network(images)

        return Call(label, "float32", batch_size, extract, clock, gflop, remark)

    return [
        call("torch-fidelity", theirs),
        call("torchmetrics", by_torchmetrics, "resizes with antialiasing by default, which gives other features"),
        call("alphabar (features=inception)", ours, remark),
    ]


def gaussian(num_features: int, seed: int) -> Gaussian:
    """Returns the normal distribution of twice as many random vectors as features, which depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(num_features, num_features, generator=generator, dtype=torch.float64) / math.sqrt(num_features)
    rows = torch.randn(2 * num_features, num_features, generator=generator, dtype=torch.float64) @ mixture
    return Gaussian(rows.mean(0), rows.T.cov())


def distances(num_features: int, clock: Clock) -> list[Loop]:
    """Returns the Frechet distances of two normal distributions, whose means and covariances are known, on the CPU."""
    real, generated = (gaussian(num_features, seed) for seed in range(2))
    sigmas = [{"mu": each.mean.numpy(), "sigma": each.covariance.numpy()} for each in (real, generated)]
    known = Gaussian(real.mean, real.covariance)

    def torch_fidelity() -> float:
        return fid_statistics_to_metric(*sigmas, verbose=False)[KEY_METRIC_FID]

    def torchmetrics() -> Tensor:
        return _compute_fid(real.mean, real.covariance, generated.mean, generated.covariance)

    error = abs(frechet_distance(known, generated) / torch_fidelity() - 1)
    remark = f"differs from that of torch-fidelity by {error:.0e} of it"
    return [
        Call("torch-fidelity", "float64", 1, torch_fidelity, clock),
        Call("torchmetrics", "float64", 1, torchmetrics, clock),
        Call(
            "alphabar, the first of a reference",
            "float64",
            1,
            lambda: frechet_distance(Gaussian(real.mean, real.covariance), generated),
            clock,
            remark=remark,
        ),
        Call("alphabar, each further one", "float64", 1, lambda: frechet_distance(known, generated), clock, remark=remark),
    ]
