"""How far from the training images features see images with faults, in multiples of the floor: which features see what.

    python benchmarks/features.py data=torchvision data.name=FashionMNIST data.root=data
    python benchmarks/features.py data=folder data.root=photos data.resolution=32 data.held_out=0.3 --samples model=samples.npz

The rows are held-out images with a fault, and images of other origins in files (--samples), of which as many are taken as there are
held-out ones. The columns are the features, each trained on the same training images: the Frechet distance over that of held-out
images as they are, which has one. The last line is the rank correlation (Spearman) of each column with the first.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, pil_to_tensor, to_pil_image

from alphabar.cli.composition.resolvers import register
from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.data.datamodule import ImageDataModule
from alphabar.evaluation.files import open_samples
from alphabar.metrics import Extractor, Splits, build_extractors
from alphabar.metrics.collector import Batch, Collector, collect
from alphabar.metrics.feature_set import Gaussian
from alphabar.metrics.features.automatic import AutomaticFeatures
from alphabar.metrics.features.pixels import PixelFeatures
from alphabar.metrics.features.self_supervised import SelfSupervisedFeatures
from alphabar.metrics.statistics.frechet import frechet_distance
from alphabar.runs.text_table import format_table

CONF = Path(__file__).resolve().parents[1] / "conf"
MAX_IMAGES = 20_000
BATCH = 500
CPU = torch.device("cpu")


def rounded(values: Tensor) -> Tensor:
    """Returns the nearest images, uint8."""
    return values.clamp(0, 255).round().to(torch.uint8)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Returns the images [N, C, H, W] as JPEG keeps them."""
    kept = []
    for image in images:
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=quality)
        kept.append(pil_to_tensor(Image.open(file)))
    return torch.stack(kept)


def with_faults(images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Returns the images uint8 [N, C, H, W] with faults, by name."""
    generator = torch.Generator().manual_seed(0)
    exact, first = images.float(), torch.eye(images.shape[1])[0][:, None, None]  # the first channel alone
    blurred = {
        f"blur {sigma:g}": gaussian_blur(images, [9 if min(images.shape[2:]) > 8 else 5] * 2, [sigma]) for sigma in (0.5, 1, 2)
    }
    salt = torch.rand(images[:, :1].shape, generator=generator)
    grain = torch.randn(images.shape, generator=generator)
    faults = {
        "noise": torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8),
        **blurred,
        **{f"grain {std}": rounded(exact + std * grain) for std in (8, 16, 32)},
        **{f"JPEG {quality}": jpeg(images, quality) for quality in (30, 10)},
        **{f"colour + {shift}": rounded(exact + shift * first) for shift in (10, 20)},
        **{f"contrast x {factor:g}": rounded((exact - 128) * factor + 128) for factor in (0.85, 0.7)},
        **{
            f"salt and pepper {share:.0%}": torch.where(salt < share, 255 * (salt < share / 2), images).to(torch.uint8)
            for share in (0.01, 0.05)
        },
        "a tenth of the images": images[: max(2, len(images) // 10)].repeat(10, 1, 1, 1)[: len(images)],
    }
    if labels is not None:
        classes = labels.unique()
        faults["without one class"] = images[labels != classes[-1]]
        faults["half of the classes"] = images[labels <= classes[(len(classes) - 1) // 2]]
    return faults


def gaussian_of(extractor: Extractor, images: Tensor) -> Gaussian:
    """Returns the normal distribution of the features of images [N, C, H, W]."""
    collector = Collector(extractor, CPU, len(images), num_parts=1)
    batches = (Batch(indices, images[indices], {}) for indices in torch.arange(len(images)).split(BATCH))
    (features,), _, _ = collect(batches, [collector], images.shape[1])
    return features.sums.gaussian()


def load_splits(words: Sequence[str]) -> Splits:
    """Returns the data that the words of a command of train.py choose."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = build(compose("train", list(words)).data, "data")
    assert isinstance(data, ImageDataModule)
    data.prepare_data()
    return Splits(data.train_set, data.held_out_set, data.source.fingerprint())


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of the data, as for train.py: data=NAME data.root=PATH ...")
    parser.add_argument(
        "--samples", nargs="*", default=[], metavar="NAME=PATH", help="images of another origin: a folder or an .npz file"
    )
    parser.add_argument("--num", type=int, default=2000, help="held-out images, at most")
    parser.add_argument("--cache-dir", default="outputs/cache/features", help="where trained features are kept")
    arguments = parser.parse_intermixed_args()
    configure_logging()
    splits = load_splits(arguments.words)
    num = min(arguments.num, len(splits.held_out))
    held_out = splits.held_out.images(range(num))
    images = with_faults(held_out, None if splits.held_out.labels is None else splits.held_out.labels[:num])
    for name, _, path in (each.partition("=") for each in arguments.samples):
        files = open_samples(Path(path))
        if len(files) < num or files.size != held_out.shape[1:]:
            found = f"{len(files):,} of {list(files.size)}"
            parser.error(f"--samples {name}: need {num:,} images of {list(held_out.shape[1:])}, as held-out ones, got {found}")
        images[name] = torch.cat([part for _, part in files.batches(num, BATCH, 0, 1)])
    columns: dict[str, list[float]] = {}
    for kind in (AutomaticFeatures, SelfSupervisedFeatures, PixelFeatures):
        extractor = build_extractors(kind(arguments.cache_dir, MAX_IMAGES), splits)[0]
        train = splits.train.images(range(min(MAX_IMAGES, len(splits.train))))
        reference = gaussian_of(extractor, train)
        floor = frechet_distance(reference, gaussian_of(extractor, held_out))
        columns[extractor.name] = [frechet_distance(reference, gaussian_of(extractor, each)) / floor for each in images.values()]
    first = next(iter(columns.values()))
    order = sorted(range(len(images)), key=lambda row: -first[row])
    names = list(images)
    rows = [[names[row], *(f"{column[row]:.3g}" for column in columns.values())] for row in order]
    agreement = [f"{float(spearmanr(first, column).statistic):.2f}" for column in columns.values()]
    print(f"{len(splits.train):,} training images, {num:,} held-out images")
    print(format_table([["Frechet distance / floor", *columns], *rows, ["rank correlation", *agreement]]))


if __name__ == "__main__":
    main()
