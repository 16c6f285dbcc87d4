"""FID of every method at 10, 20, 50 and (DDPM) 1000 network evaluations: a table and a plot.

    python train.py -m experiment=fashion_mnist_methods method=ddpm,improved_ddpm,edm,flow seed=0,1,2 data.root=data
    python benchmarks/methods.py outputs/sweeps/NAME

Reads the jobs of one or more sweeps over `method` and `seed`, draws 1,000 images from the averaged weights of each with every
sampler below, and writes into the folder of the first sweep: `methods.json` (all figures, one at a time, so that it can be stopped
and started again), `methods.md` (means and standard deviations over the seeds) and `methods.png`.
"""

import argparse
import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.thresholdings import Static, Thresholding
from alphabar.evaluation.measurement import measure_images
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics import Splits, build_extractors
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.plotting.figure import figure_file, round_ticks, set_ticks
from alphabar.sampling.model import load_model
from alphabar.sampling.sampling_job import SamplingJob

SEED, BATCH = 1, 125
CPU = torch.device("cpu")
CLIP: Thresholding = Static()


def samplers(method: str) -> dict[int, list[Sampler]]:
    """The samplers of a method by their number of network evaluations."""
    counts = (10, 20, 50)
    if method == "ddpm":
        some = {n: [DDIM(num_steps=n, thresholding=CLIP), DPMpp2M(num_steps=n, thresholding=CLIP)] for n in counts}
        return some | {1000: [DDPM(num_steps=1000, thresholding=CLIP)]}
    if method == "improved_ddpm":
        learned = {n: DDPM(num_steps=n, variance="learned", thresholding=CLIP) for n in counts}
        return {n: [learned[n], DPMpp2M(num_steps=n, thresholding=CLIP)] for n in counts}
    if method == "edm":  # Heun's last step takes one evaluation
        return {n: [Heun(num_steps=n // 2), DPMpp2M(num_steps=n)] for n in counts}
    return {n: [Euler(num_steps=n), Heun(num_steps=n // 2)] for n in counts}


def jobs(sweeps: list[Path]) -> list[tuple[str, int, Path]]:
    """(Method, seed, checkpoint) of every finished job."""
    found = []
    for sweep in sweeps:
        with (sweep / "results.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                checkpoint = sweep / row["job"] / "checkpoints" / "last.ckpt"
                if row["state"] == "finished":
                    found.append((row["method"], int(row["seed"]), checkpoint))
    return sorted(found)


class Meter:
    """The real images, looked at once for all jobs."""

    def __init__(self, checkpoint: Path, num: int) -> None:
        config = load_model(checkpoint, "ema").config
        data: ImageDataModule = build(config.data, "data")
        data.prepare_data()
        splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint())
        extractor = build_extractors(build(config.features, "features"), splits)[0]
        self.reference = ReferenceStatistics(extractor, {"fid": Frechet(allow_few=num < 1000)}, splits, CPU, num, BATCH)
        self.num = num
        self.floor = self.reference.floor().get("fid", float("nan"))

    def fid(self, checkpoint: Path, sampler: Sampler) -> dict[str, float]:
        """FID of the averaged weights, and what it took."""
        loaded = load_model(checkpoint, "ema")
        generation = SamplingJob(sampler, loaded.model.codec, loaded.shape, SEED, BATCH)
        begin = time.perf_counter()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            share = list(generation.images(loaded.model.denoiser, self.num, CPU))
        seconds = time.perf_counter() - begin
        measured = measure_images(share, generation.shape, [self.reference])
        fid = measured.figures[self.reference.extractor.name]["fid"]
        return {"fid": fid, "seconds": seconds, "num_nonfinite": measured.num_nonfinite}


def name_of(sampler: Sampler) -> str:
    """As in the table."""
    words = [type(sampler).__name__]
    return "DDPM, learned variance" if getattr(sampler, "variance", "") == "learned" else words[0]


def table(results: dict[str, dict[str, Any]], floor: float, num: int) -> str:
    """Means and standard deviations over the seeds, a row for each method and sampler."""
    groups: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in results.values():
        groups.setdefault((row["method"], row["sampler"]), {}).setdefault(row["evaluations"], []).append(row["fid"])
    counts = sorted({count for group in groups.values() for count in group})
    lines = ["| method | sampler | " + " | ".join(f"{count:,}" for count in counts) + " |", "|---" * (2 + len(counts)) + "|"]
    for (method, sampler), group in sorted(groups.items()):
        cells = [spread(group.get(count, [])) for count in counts]
        lines.append(f"| {method} | {sampler} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nfloor: {floor:.3f}, {num:,} held-out images\n"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def plot(results: dict[str, dict[str, Any]], floor: float, num: int, path: Path) -> None:
    """Draws FID over network evaluations, a line for each method and sampler, in the colour of the method."""
    pairs = sorted({(row["method"], row["sampler"]) for row in results.values()})
    colours = {method: f"C{index}" for index, method in enumerate(dict.fromkeys(method for method, _ in pairs))}
    with figure_file(path, 8.5, 4.5) as figure:
        axes = figure.subplots()
        for method, sampler in pairs:
            rows = [row for row in results.values() if (row["method"], row["sampler"]) == (method, sampler)]
            counts = sorted({row["evaluations"] for row in rows})
            groups = [[row["fid"] for row in rows if row["evaluations"] == count] for count in counts]
            means = [statistics.mean(group) for group in groups]
            spreads = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in groups]
            marker = "o" if (method, sampler) == min(pair for pair in pairs if pair[0] == method) else "D"
            axes.errorbar(counts, means, spreads, color=colours[method], marker=marker, label=f"{method}, {sampler}", capsize=3)
        axes.axhline(floor, color="grey", linestyle="--", linewidth=1, label=f"held-out images: {floor:.2f}")
        axes.set(xscale="log", yscale="log", xlabel="network evaluations an image", ylabel=f"FID of {num:,} samples")
        counts = sorted({row["evaluations"] for row in results.values()})
        set_ticks(axes.xaxis, counts, [f"{count:,}" for count in counts])
        set_ticks(axes.yaxis, round_ticks(*axes.get_ylim(), is_logarithmic=True))
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def main() -> None:
    """Measures what has not been measured yet, and writes the table and the plot after each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders of sweeps over method and seed")
    parser.add_argument("--num", type=int, default=1000, help="images that each sampler draws")
    parser.add_argument("--most", type=int, default=1000, help="leave out samplers with more evaluations")
    arguments = parser.parse_args()
    configure_logging()
    found = jobs(arguments.sweeps)
    folder = arguments.sweeps[0]
    cache = folder / "methods.json"
    results: dict[str, dict[str, Any]] = json.loads(cache.read_text()) if cache.exists() else {}
    meter = Meter(found[0][2], arguments.num)
    for method, seed, checkpoint in found:
        for count, choices in samplers(method).items():
            for sampler in choices if count <= arguments.most else []:
                key = f"{method}-{seed}-{sampler.label(load_model(checkpoint, 'ema').model.denoiser.schedule)}"
                if key not in results:
                    about = {"method": method, "seed": seed, "evaluations": count, "sampler": name_of(sampler)}
                    results[key] = about | meter.fid(checkpoint, sampler)
                    cache.write_text(json.dumps(results, indent=2))
                    print(f"{key}: {results[key]['fid']:.3f} in {results[key]['seconds']:.0f} s", flush=True)
                    (folder / "methods.md").write_text(table(results, meter.floor, meter.num), encoding="utf-8")
                    plot(results, meter.floor, meter.num, folder / "methods.png")
    print(table(results, meter.floor, meter.num))


if __name__ == "__main__":
    main()
