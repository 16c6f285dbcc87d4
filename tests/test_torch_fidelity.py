"""The whole path, from images to figures, beside torch-fidelity's own."""

import pytest
import torch
import torch_fidelity
from measuring.fid import write_random_weights
from torch import Tensor, nn
from torch.utils.data import Dataset

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics import Splits
from alphabar.metrics.features.inception import InceptionFeatures
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.metrics.statistics.inception_score import InceptionScore
from alphabar.metrics.statistics.kid import KID
from alphabar.metrics.statistics.prdc import PRDC


class Images(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights whose logits differ enough for an Inception Score above one."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_random_weights(path, logit_scale=60.0)
    return path


def pictures(num, seed, contrast):
    """Smooth random colours with noise on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 3, 3, generator=generator)
    smooth = nn.functional.interpolate(coarse, (24, 24), mode="bilinear")
    return (255 * (contrast * smooth + 0.2 * torch.rand(num, 3, 24, 24, generator=generator)).clamp(0, 1)).to(torch.uint8)


def test_whole_path_equals_that_of_torch_fidelity(weights, tmp_path):
    """The same images through our Inception in batches of our own."""
    generated, real = pictures(17, seed=0, contrast=0.45), pictures(15, seed=1, contrast=0.8)
    expected = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        cuda=False,
        batch_size=16,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=10,
        kid_subset_size=12,
        samples_shuffle=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
        feature_extractor="inception-v3-compat",  # for precision and recall the default is VGG16
        feature_extractor_weights_path=str(weights),
    )
    splits = Splits(ResidentImages(real, None), ResidentImages(real[:0], None), "data")
    extractor = InceptionFeatures(str(weights), str(tmp_path)).extractors(splits)[0]
    statistics = {"fid": Frechet(True), "kid": KID(10, 12), "score": InceptionScore(), "prdc": PRDC()}
    reference = ReferenceStatistics(extractor, statistics, splits, torch.device("cpu"), len(generated), batch_size=10)
    collector = reference.collector()
    for indices in torch.arange(len(generated)).split(6):
        collector.add(indices, generated[indices])
    found = reference.figures(collector.compute())
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    kid = expected["kernel_inception_distance_mean"]
    assert found["kid"] == pytest.approx(kid, rel=1e-3)
    assert found["kid_std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3, abs=1e-6)
    assert found["inception_score"] - 1 == pytest.approx(expected["inception_score_mean"] - 1, rel=1e-3)
    assert found["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-3)
    assert (found["precision"], found["recall"]) == (expected["precision"], expected["recall"])
    assert kid > 1e-3
    assert expected["inception_score_mean"] > 1.02
