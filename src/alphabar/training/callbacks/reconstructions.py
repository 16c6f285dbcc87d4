"""Reconstructions of held-out images by an autoencoder, and their figures."""

import logging
import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics import Features, Splits, TooFewImages, build_extractors
from alphabar.metrics.names import figure_name
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.models.codecs.pixels import to_uint8
from alphabar.runs.processes.distributed import rank_and_size, sum_over_ranks
from alphabar.runs.provenance.picture_record import picture_record
from alphabar.sampling.image_grid import grid, save_png
from alphabar.training.callbacks.progress import show_phase
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.stopping import interruptible
from alphabar.training.hooks import checked_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_figures, log_picture
from alphabar.training.modules.autoencoder import AutoencoderModule

log = logging.getLogger(__name__)
MAX_PSNR = 100.0  # decibels, of images that come back unchanged


class Reconstructions(Recurring):
    """Writes `samples/step_N.png` every so many steps and at the end: rows of held-out images over rows of their reconstructions.

    Logs their figures: `reconstruction/l1`, mean |x - y| of pixels in [-1, 1]; `reconstruction/psnr`, in decibels, the mean over
    images of 10 log10(255^2 / mean squared error); `latents/std`, over all latents. Latents are the means of the posterior. At the
    end, where features are configured, the Frechet distance of the reconstructions from the very images they are of.

    features: None for none; with fewer than two images there is no distance, which is said. num: held-out images at most, the first
        ones, which stay in memory. Where none are held out, training images take their place.
    Raises ValueError unless every_n_steps, batch_size and num_shown are >= 1, and num >= 2.
    """

    differs_at_end = True  # by the Frechet distance

    def __init__(
        self, features: Features | None, every_n_steps: int, num: int = 1000, batch_size: int = 64, num_shown: int = 16
    ) -> None:
        if min(every_n_steps, batch_size, num_shown) < 1 or num < 2:
            raise ValueError(
                f"need num >= 2 and every_n_steps, batch_size and num_shown >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"batch_size={batch_size}, num_shown={num_shown}"
            )
        super().__init__(every_n_steps)
        self.features = features
        self.num = num
        self.batch_size = batch_size
        self.num_shown = num_shown
        self.reference: ReferenceStatistics | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.features is None:
            return
        try:
            self.reference = self._reference(trainer, pl_module.device, self.features)
        except TooFewImages as error:
            if trainer.is_global_zero:
                log.warning("no Frechet distance of reconstructions: %s", error)

    def _reference(self, trainer: Trainer, device: torch.device, features: Features) -> ReferenceStatistics:
        """Returns the statistics of the images that are reconstructed. Raises TooFewImages if they are fewer than two."""
        data = image_data(trainer)
        fingerprint = data.source.fingerprint()
        extractor = build_extractors(features, Splits(data.train_set, data.held_out_set, fingerprint))[0]
        images = self._images(trainer)
        num = min(self.num, len(images))
        # Reconstructions are compared with the very images that they are of.
        first = ResidentImages(images.images(range(num)), None)
        same = Splits(first, first, f"{fingerprint}-first-{num}")
        return ReferenceStatistics(extractor, {"fid": Frechet(allow_few=True)}, same, device, num, self.batch_size)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module, images = checked_module(pl_module, AutoencoderModule, self), self._images(trainer)
        rank, world_size = rank_and_size()
        num, reference = min(self.num, len(images)), self.reference if is_last else None
        collector = None if reference is None else reference.collector(num)
        sums = torch.zeros(6, dtype=torch.float64)  # images, their PSNR and L1, latents, their sum and that of their squares
        batches = torch.arange(num).split(self.batch_size)
        num_batches = len(batches[::world_size])  # of the first process, which has most
        with evaluation(trainer, module), show_phase(trainer, "reconstructions", num_batches, "batch") as bar:
            for indices in interruptible(batches[rank::world_size], num_batches, module.device):
                originals = images.images(indices).to(module.device)
                latents, x, y = reconstructed(module, originals)
                decoded = to_uint8(y)
                sums += torch.stack(
                    [
                        torch.tensor(float(len(indices))),
                        psnr(originals, decoded).sum().cpu(),
                        (x - y).abs().flatten(1).mean(1).sum().cpu(),
                        torch.tensor(float(latents.numel())),
                        latents.sum().cpu(),
                        latents.square().sum().cpu(),
                    ]
                )
                if collector is not None:
                    collector.add(indices, decoded)
                bar.update()
            sums = sum_over_ranks(sums.float().to(module.device)).cpu().double()
            figures = reconstruction_figures(sums)
            if collector is not None and reference is not None:
                name = figure_name("reconstruction/fid", num, reference.extractor.name, self._label(trainer))
                figures[name] = reference.figures(collector.compute()).get("fid", math.nan)
            picture = self._picture(module, images)
        log_figures(trainer, figures)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:07d}.png"
            save_png(picture, path, picture_record({"Step": trainer.global_step}).text())
            log_picture(trainer, "reconstructions", picture)

    def _picture(self, module: AutoencoderModule, images: ImageSet) -> Tensor:
        """Returns a picture of rows of eight originals, each over the row of their reconstructions."""
        originals = images.images(range(min(self.num_shown, len(images)))).to(module.device)
        pairs = zip(originals.split(8), to_uint8(reconstructed(module, originals)[2]).split(8), strict=True)
        return grid(torch.cat([part for pair in pairs for part in pair]).cpu(), num_columns=min(8, len(originals)))

    def _images(self, trainer: Trainer) -> ImageSet:
        data = image_data(trainer)
        return data.train_set if self._label(trainer) == "train" else data.held_out_set

    def _label(self, trainer: Trainer) -> str:
        """Returns the split of the images, as the names of figures have it."""
        return "heldout" if len(image_data(trainer).held_out_set) > 1 else "train"


def reconstruction_figures(sums: Tensor) -> dict[str, float]:
    """Returns the figures from sums: images, their PSNR and L1, number of latents, their sum and that of their squares."""
    count, decibels, distance, numbers, first, second = sums.tolist()
    std = math.sqrt(max(second / numbers - (first / numbers) ** 2, 0.0))
    return {"reconstruction/psnr": decibels / count, "reconstruction/l1": distance / count, "latents/std": std}


def reconstructed(module: AutoencoderModule, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (latents, x, y) of uint8 images [B, C, H, W]: y [B, C, H, W] is decoded from the posterior mean of x."""
    x = module.pixels.encode(images)
    latents = module.autoencoder.posterior(x).mean
    return latents, x, module.autoencoder.decode(latents)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Returns 10 log10(255^2 / mean squared difference) of uint8 images: [B], at most MAX_PSNR decibels."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=MAX_PSNR)
