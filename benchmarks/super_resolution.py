"""Super-resolution against bicubic interpolation: FID and PSNR of held-out images that were made small, and large again.

    python train.py experiment=cascade_super_resolution data.root=FOLDER
    python benchmarks/super_resolution.py outputs/train/NAME/checkpoints/last.ckpt

FID is against all training images, in the features of a classifier of the data's own classes (features=classifier) that sees them
in full resolution, with the run's sampler and averaged weights. PSNR is against the images themselves, 10 log10(255^2 / mean square
error), the mean over images: a blurred mean of all images that are possible has the best, so that a model that draws one of them
loses there.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.functional import interpolate

from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.evaluation.measurement import measure_images
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics import Splits, build_extractors
from alphabar.metrics.features.classifier import ClassifierFeatures
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.models.codecs.pixels import to_uint8
from alphabar.models.conditioners.low_resolution import LowResolution
from alphabar.runs.provenance.picture_record import picture_record
from alphabar.runs.text_table import format_table
from alphabar.sampling.cascade import source_conditions
from alphabar.sampling.image_grid import grid, save_png, side_by_side
from alphabar.sampling.model import LoadedModel, load_model
from alphabar.sampling.prepare import load_data
from alphabar.sampling.sampling_job import SampleBatch, SamplingJob

SEED, BATCH = 1, 32
MAX_IMAGES = 20_000  # that the classifier is trained on, as by default
CPU = torch.device("cpu")


def bicubic(conditioner: LowResolution, images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] that were made small as the model's are, without noise, and large again."""
    return to_uint8(interpolate(conditioner.low(images), conditioner.full_size, mode="bicubic", align_corners=False))


def drawn(loaded: LoadedModel, images: Tensor, num_steps: int | None) -> Tensor:
    """What the model makes of images uint8 [N, C, H, W] that are made small, in so many steps; None: in the run's own."""
    told, sampler = source_conditions(loaded, images, SEED), build(loaded.config.sampler, "sampler")
    sampler = sampler if num_steps is None else replace(sampler, num_steps=num_steps)
    generation = SamplingJob(sampler, loaded.model.codec, loaded.shape, SEED, min(BATCH, len(images)), told)
    with torch.no_grad():
        return torch.cat([part.images for part in generation.images(loaded.model.denoiser, len(images), CPU)])


def share(images: Tensor) -> Iterator[SampleBatch]:
    """As `measure` takes them."""
    for indices in torch.arange(len(images)).split(BATCH):
        yield SampleBatch(indices.tolist(), images[indices], torch.ones(len(indices), dtype=torch.bool))


def psnr(images: Tensor, originals: Tensor) -> float:
    """In decibels, the mean over images [N, C, H, W]."""
    error = (images.float() - originals.float()).square().flatten(1).mean(dim=1).clamp(min=1e-3)
    return float((10 * torch.log10(255**2 / error)).mean())


def main() -> None:
    """Draws, measures, and writes the table and a picture beside the checkpoint's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--num", type=int, default=1000, help="held-out images, at most")
    parser.add_argument("--num-steps", type=int, help="of the sampler, in place of the run's own")
    parser.add_argument("--data-root", help="where the images lie now")
    parser.add_argument("--cache-dir", default="outputs/cache/features", help="where the classifier is kept")
    arguments = parser.parse_args()
    configure_logging()
    loaded = load_model(arguments.checkpoint, "ema")
    conditioner = loaded.model.conditioner
    if not isinstance(conditioner, LowResolution):
        parser.error(f"{arguments.checkpoint}: need a model with conditioner=low_resolution, got {type(conditioner).__name__}")
    data = load_data(loaded, arguments.data_root, Fabric(accelerator="cpu", devices=1))
    originals = data.held_out_set.images(range(min(arguments.num, len(data.held_out_set))))
    splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint())
    extractor = build_extractors(ClassifierFeatures(arguments.cache_dir, MAX_IMAGES, max(loaded.shape[1:])), splits)[0]
    reference = ReferenceStatistics(extractor, {"fid": Frechet(allow_few=True)}, splits, CPU, len(originals), BATCH)
    made = drawn(loaded, originals, arguments.num_steps)
    results = {"bicubic": bicubic(conditioner, originals), "model": made, "the images themselves": originals}
    rows = [["", "FID", "PSNR"]]
    for name, images in results.items():
        fid = measure_images(share(images), loaded.shape, [reference]).figures[extractor.name]["fid"]
        rows.append([name, f"{fid:.3f}", "" if images is originals else f"{psnr(images, originals):.2f}"])
    low = to_uint8(conditioner.low(originals))
    picture = arguments.checkpoint.parents[1] / "super_resolution.png"
    shown = grid(side_by_side(*(images[:24] for images in (low, *results.values()))), 3)
    save_png(shown, picture, picture_record({"Checkpoint": arguments.checkpoint, "Step": loaded.step}).text())
    print(f"{len(originals)} held-out images, step {loaded.step:,}, {conditioner.low_size} to {conditioner.full_size}")
    print(format_table(rows))
    print(f"picture  {picture}: low resolution | {' | '.join(results)}")


if __name__ == "__main__":
    main()
