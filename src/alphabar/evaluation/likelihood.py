"""The likelihood of held-out images under the model of a checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.likelihood import (
    bits_of_density,
    dequantised,
    flow_times,
    probability_flow,
    rademacher,
    variational_bound,
)
from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.diffusion.samplers import changes
from alphabar.diffusion.thresholdings import Static, Thresholded, Thresholding
from alphabar.diffusion.variances import Variance
from alphabar.errors import UserError
from alphabar.evaluation.receipt import Figure, Receipt, describe_evaluation, write_receipt
from alphabar.evaluation.result import EvaluationResult
from alphabar.metrics.content import content_hash, hash_to_hex
from alphabar.metrics.extractor import in_float32
from alphabar.metrics.names import bound_name, flow_name
from alphabar.metrics.real import indices_of_rank
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.runs.text_table import format_table
from alphabar.sampling.conditions import Conditions, dataset_conditions
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import LoadedModel
from alphabar.sampling.pipeline import Pipeline, start_pipeline
from alphabar.sampling.prepare import load_data, removed_on_error
from alphabar.speed import FLOAT32

BOUND_KEYS = ("variance", "bpd_terms", "thresholding")  # settings that the probability flow does not use
OnStep = Callable[[], object]


class Estimator(NamedTuple):
    """An estimator of bits per dimension: bits(x, indices, on_step) returns [B], and calls `on_step` `num_steps` times.

    metric: "vlb" or "ode". name: the name of the figure.
    """

    metric: str
    name: str
    num_steps: int
    bits: Callable[[Tensor, Sequence[int], OnStep], Tensor]


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Bits per dimension of held-out images: the density of their dequantised bytes under the probability-flow ODE and, on a
    discrete schedule, the variational bound of the bytes themselves. Where there is a condition, each image comes with its own.

    num: the number of held-out images, of which the first are used. data_root: their folder; None: that of the training.
    bpd_steps: steps of the ODE, at most those of a discrete schedule. probes: estimates of the trace for each image.
    variance: of the bound's reverse steps; None: the learned one if there is one, else "beta", which costs little where it is too
        wide, while "posterior" is too narrow wherever the network errs (both in Ho et al. 2020, sec. 3.2).
    bpd_terms: the number of the bound's terms (one per step of the schedule) drawn for each image; None or a larger number: all.
    thresholding: applied to x_hat in the bound, as in Ho et al. 2020; the ODE has none.
    Raises ValueError as `Inference` does, unless bpd_steps, probes and bpd_terms >= 1, for another precision than 32-true, and for
        networks that are compiled.
    """

    inference: Inference
    bpd_steps: int = 100
    probes: int = 1
    variance: Variance | None = None
    bpd_terms: int | None = 100
    thresholding: Thresholding | None = Static()

    def __post_init__(self) -> None:
        for key in ("bpd_steps", "probes", "bpd_terms"):
            value = vars(self)[key]
            if value is not None and value < 1:
                raise ValueError(f"need {key} >= 1, got {key}={value}")
        if self.inference.speed.precision != FLOAT32:
            raise ValueError(f"likelihoods need precision={FLOAT32}, got precision={self.inference.speed.precision}")
        if self.inference.compile:
            raise ValueError("likelihoods need speed.compile=false, got speed.compile=true")

    def check_model(self, pipeline: Pipeline) -> None:
        """Raises UserError for a model without a likelihood, or a setting that does nothing for it."""
        codec, schedule = pipeline.codec, pipeline.model.denoiser.schedule
        if not codec.has_pixel_likelihood:
            wide = " of 16 bits" * (codec.bits == 16)
            raise UserError(f"metric=bpd: need a model of pixels of 8 bits, got one whose codec is {type(codec).__name__}{wide}")
        if not schedule.is_discrete:
            for key in BOUND_KEYS:
                if vars(self)[key] != type(self).__dataclass_fields__[key].default:
                    value = type(vars(self)[key]).__name__.lower() if key == "thresholding" else vars(self)[key]
                    raise UserError(f"{key}={value}: only a discrete schedule has a bound, {type(schedule).__name__} is not one")
        elif self.variance == "learned" and not learns_variance(pipeline.loaded):
            raise UserError(
                "variance=learned: this network has learned none; choose posterior or beta (objective=hybrid trains it)"
            )

    def run(self) -> EvaluationResult:
        """Measures the images and writes `receipt.json`; returns means and standard errors, and which one a sweep compares, the
        bound if there is one."""
        begin = time.perf_counter()
        fabric, pipeline = start_pipeline(self.inference, self.check_model)
        loaded = pipeline.loaded
        with removed_on_error(self.inference.run_dir):
            data = load_data(loaded, self.inference.data_root, fabric)
            held_out = data.held_out_set
            if self.inference.num > len(held_out):
                raise UserError(f"need num <= {len(held_out)}, the number of held-out images, got num={self.inference.num}")
        conditions = dataset_conditions(loaded.model.conditioner, held_out)
        estimators = [self._bound(loaded, conditions)] if loaded.model.denoiser.schedule.is_discrete else []
        estimators.append(self.flow(loaded.model.denoiser, conditions))
        bits, content = self.bits_per_dimension(estimators, held_out.images, loaded, fabric)
        pairs = list(zip(estimators, bits, strict=True))
        figures = [Figure(each.name, each.metric, "", (float(row.mean()),)) for each, row in pairs]
        num = self.inference.num
        errors = {f"{each.name}-standard_error": float(row.std()) / math.sqrt(num) for each, row in pairs if num > 1}
        bpd = {"name": figures[0].name, "value": figures[0].mean, "floor": None}
        result = EvaluationResult(
            {**{each.name: each.mean for each in figures}, **errors, "bpd": bpd, "objective": figures[0].mean}
        )
        if not fabric.is_global_zero:
            return result
        run, folder = pipeline.record(), Path(self.inference.run_dir)
        details = {"checkpoints": run["checkpoints"], "seed": self.inference.seed, "data": data.source.fingerprint()}
        receipt = Receipt(
            tuple(figures),
            self._protocol(content, len(estimators) > 1),
            run["checkpoints"][-1],
            {"standard_errors": errors},
            describe_evaluation(fabric, folder, time.perf_counter() - begin, details),
        )
        return result._replace(
            table=format_table([["bits per dimension", "", "+-", "name"], *(self._row(each, errors) for each in figures)]),
            receipt=write_receipt(receipt, folder),
        )

    def _row(self, figure: Figure, errors: dict[str, float]) -> list[str]:
        error = errors.get(f"{figure.name}-standard_error")
        return [figure.metric, f"{figure.mean:.4f}", "" if error is None else f"{error:.2g}", figure.name]

    def _protocol(self, content: str, has_bound: bool) -> dict[str, object]:
        keys = ("bpd_steps", "probes", *(BOUND_KEYS if has_bound else ()))
        return {
            "images": "held-out",
            "num": self.inference.num,
            "seeds": [self.inference.seed],
            "reference": {"split": "held-out", "num": self.inference.num, "content": content},
            "weights": self.inference.weights_label,
            "precision": self.inference.speed.precision,
            "dequantisation": "ode: uniform noise of one grey level; vlb: the last term is that of the byte itself",
            **{key: vars(self)[key] for key in keys},
        }

    def _bound(self, loaded: LoadedModel, conditions: Conditions) -> Estimator:
        denoiser = loaded.model.denoiser
        thresholded = denoiser if self.thresholding is None else Thresholded(denoiser, self.thresholding)
        variance: Variance = self.variance or ("learned" if learns_variance(loaded) else "beta")
        num_steps = len(denoiser.schedule.timesteps(None)) - 1
        num_terms = min(self.bpd_terms or num_steps, num_steps)

        def bits(x: Tensor, indices: Sequence[int], on_step: OnStep) -> Tensor:
            noise = ImageNoise(derive_seed("bound", self.inference.seed), indices)
            return variational_bound(thresholded, x, conditions(indices), variance, noise, None, num_terms, on_step) / math.log(2)

        terms = "" if num_terms == num_steps else f"-terms{num_terms}"
        steps = f"{variance}{num_steps}{terms}{thresholding_suffix(self.thresholding)}"
        return Estimator("vlb", bound_name(self.inference.num, self.inference.weights_label, steps), num_terms, bits)

    def flow(self, denoiser: Denoiser, conditions: Conditions) -> Estimator:
        """Returns the estimator by the probability-flow ODE, which has `bpd_steps` and `probes`."""
        times = flow_times(denoiser.schedule, self.bpd_steps)
        num_steps = len(times) - 2  # the last time is that of data, which the ODE does not reach

        def bits(x: Tensor, indices: Sequence[int], on_step: OnStep) -> Tensor:
            noise = ImageNoise(derive_seed("flow", self.inference.seed), indices)
            x = dequantised(x, noise)
            log_p = probability_flow(denoiser, x, conditions(indices), times, rademacher(noise, x, self.probes), on_step)
            return bits_of_density(log_p, x[0].numel())

        name = flow_name(self.inference.num, self.inference.weights_label, f"heun{num_steps}-probes{self.probes}")
        return Estimator("ode", name, num_steps, bits)

    def bits_per_dimension(
        self, estimators: Sequence[Estimator], images: Callable[[Tensor], Tensor], loaded: LoadedModel, fabric: Fabric
    ) -> tuple[Tensor, str]:
        """Returns bits per dimension [len(estimators), num], float64, and a hash of the images, equal on every process.

        images: returns the images of indices [B], uint8 [B, C, H, W].
        """
        settings = self.inference
        home = torch.device("cpu") if fabric.device.type == "mps" else fabric.device  # Apple's GPUs have no float64
        values = torch.zeros(len(estimators), settings.num, dtype=torch.float64, device=home)
        content = torch.zeros((), dtype=torch.int64, device=home)
        batches = list(indices_of_rank(settings.num, settings.images_at_a_time))
        total_steps = len(batches) * sum(each.num_steps for each in estimators)
        with (
            show_progress(f"likelihood of {settings.num:,} images", total_steps, "step", fabric.is_global_zero) as bar,
            in_float32(fabric.device),
            torch.compiler.set_stance(
                "force_eager"
            ),  # a notebook's model may be compiled, and would free what a second probe needs
        ):
            for indices in batches:
                pixels = images(indices)
                content += content_hash(pixels)
                x = loaded.model.codec.encode(pixels.to(fabric.device))
                for row, estimator in zip(values, estimators, strict=True):
                    row[indices.to(home)] = estimator.bits(x, indices.tolist(), bar.update).to(home, torch.float64)
        return sum_over_ranks(values), hash_to_hex(int(sum_over_ranks(content)))  # each image is zero on all processes but one


def learns_variance(loaded: LoadedModel) -> bool:
    """Returns whether the network predicts the variance of the reverse step."""
    denoiser, shape = loaded.model.denoiser, loaded.shape
    with torch.no_grad():
        x = torch.zeros(1, *shape, device=loaded.model.device)
        cond = loaded.model.conditioner.null(1)
        return denoiser(x, denoiser.schedule.time(torch.ones(1, device=x.device)), cond).variance is not None


def thresholding_suffix(thresholding: Thresholding | None) -> str:
    """Returns the suffix for differences from the published bound: "", "-nothresholding" or "-dynamic-quantile0.9"."""
    if thresholding is None:
        return "-nothresholding"
    return "" if thresholding == Static() else f"-{type(thresholding).__name__.lower()}{changes(thresholding)}"
