"""Quality at equal time: each tool trains by its own recipe, on the same images for the same minutes, and one judge compares them.

    python benchmarks/equal_time.py                                    scikit-learn's digits, no download
    python benchmarks/equal_time.py data=torchvision data.name=FashionMNIST data.root=data data.resolution=32 --minutes 10
    python benchmarks/equal_time.py data=folder data.root=photos data.resolution=16 --tools alphabar diffusers_small --seeds 0 1 2

The words are those of train.py that choose the data; what they and the data's preset give is our recipe. The recipes of the other
tools stand in benchmarks/recipes. Those that end in _small have a network about as large as ours (of diffusers: the same one) in
place of the 36 million parameters that the tools' documents propose, which are for a GPU where images are not tiny.

Each training is a process of its own, one after another, with the same number of threads; README's Trainer of
denoising-diffusion-pytorch starts as many processes as there are cores beside it, to load images. The time is that from the start
of the first step to the end of the last one, with whatever a recipe does in between; of the script of diffusers the images that it
draws every 10 epochs are left out. Start-up and sampling are told beside it. Then 1,000
images are drawn by the tool's own sampler, at 50 network evaluations an image where it takes more (--evaluations 0: its own number,
hours on a CPU). The judge is `evaluate.py samples=... metric=fid` with the features of the data; the floor is the FID of held-out
images. In the folder of results: equal_time.json, equal_time.md, equal_time.png, and in a folder for each training its samples, log
and receipt. A training that is there already is not done again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from measuring.missing import Missing, needed
from omegaconf import DictConfig
from recipes import Task
from recipes.tools import RECIPES
from torch import Tensor

from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.evaluation.evaluation import Evaluation
from alphabar.evaluation.files import open_samples
from alphabar.evaluation.receipt import read_receipt
from alphabar.files.atomic import write_text
from alphabar.library.composition import compose, run_command
from alphabar.models.networks.diffusers import to_diffusers
from alphabar.models.networks.unet import UNet
from alphabar.runs.provenance.machine import device_name
from alphabar.runs.provenance.receipt import FILE_NAME as RECEIPT
from alphabar.sampling.image_grid import column_of_pictures, grid, save_png, titled_blocks

SIDES = 8  # the networks of 36 million parameters halve the image three times
SHOWN, BLOCKS_IN_ROW = 36, 3  # images of a grid, grids beside one another
RESULT, SAMPLES, LOG, TASK, SETTINGS = "result.json", "samples.npz", "log.txt", "task.json", "settings.json"
OF_JUDGE, NOT_OF_JUDGE = ("data", "features"), "data.batch_size"  # groups whose words evaluate.py takes, too, and a key of training


def parsed() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of the data, as for train.py: data=NAME data.root=PATH ...")
    parser.add_argument("--tools", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=3, help="of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--num", type=int, default=1000, help="samples of each, and held-out images of the floor")
    parser.add_argument("--evaluations", type=int, default=50, help="of the network for an image, at most; 0: a tool's own number")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("outputs/equal_time"), help="folder of the results")
    return parser.parse_intermixed_args()


def load_data(words: Sequence[str], num: int) -> ImageDataModule:
    """Returns the data that the words of train.py choose. Raises UserError unless all networks take it and `num` are held out."""
    data = build(compose("train", words).data, "data")
    assert isinstance(data, ImageDataModule)
    data.prepare_data()
    if any(side % SIDES for side in (data.shape.height, data.shape.width)):
        found = f"{data.shape.height}x{data.shape.width}"
        raise UserError(f"data.resolution: need multiples of {SIDES}, which the networks of all tools take, got {found}")
    if len(data.held_out_set) < num:
        raise UserError(f"--num {num}: the floor takes as many held-out images, got {len(data.held_out_set):,}")
    return data


def task_of(options: argparse.Namespace, data: ImageDataModule) -> Task:
    """Returns the task that all tools have, still without a seed and a folder of each."""
    config = compose("train", options.words)
    config.shape = config.space = {"channels": data.shape.channels, "resolution": data.shape.resolution}
    network, unet = build(config.network, "network"), None
    if isinstance(network, UNet):
        with suppress(ValueError):  # of another kind: it has no counterpart
            unet = to_diffusers(network)[0]
    return Task(
        words=tuple(options.words),
        images=str(write_images(data, options.out)),
        channels=data.shape.channels,
        height=data.shape.height,
        width=data.shape.width,
        flip=data.flip,
        seconds=60 * options.minutes,
        seed=0,
        num=options.num,
        evaluations=options.evaluations,
        threads=options.threads,
        unet=unet,
        folder="",
    )


def write_images(data: ImageDataModule, folder: Path) -> Path:
    """Returns a folder with the training images as PNG, for tools that read folders; it is written unless it is there."""
    images, done = folder.absolute() / "images", folder / "images.written"
    for first in range(0, 0 if done.exists() else len(data.train_set), 1000):
        numbers = range(first, min(first + 1000, len(data.train_set)))
        for number, image in zip(numbers, data.train_set.images(numbers), strict=True):
            save_png(image, images / f"{number:06d}.png")
    write_text(done, str(len(data.train_set)))
    return images


def reason_to_leave_out(tool: str, task: Task) -> str | None:
    """Returns why a tool cannot train, or None if it can."""
    recipe = RECIPES[tool]
    try:
        needed(" ".join(recipe.packages.values()), *recipe.packages)
    except Missing as error:
        return str(error)
    return "the network of train.py has no counterpart" if recipe.takes_our_network and task.unet is None else None


def launch(tool: str, task: Task) -> bool:
    """Trains a tool in a process of its own and returns whether it succeeded; what it prints goes to `log.txt`."""
    folder = Path(task.folder)
    if (folder / TASK).exists():
        shutil.rmtree(folder)  # a training that was cut off
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TASK, json.dumps(asdict(task)))
    path = os.pathsep.join([str(Path(__file__).absolute().parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads), "PYTHONPATH": path}
    command = [sys.executable, "-m", "recipes", tool, str(folder / TASK), str(time.time())]
    with (folder / LOG).open("wb") as log:
        return subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode == 0


def judge(words: Sequence[str], num: int, folder: Path) -> tuple[float, float]:
    """Returns the FID of the samples in a folder, and the floor; they are measured unless the receipt is in its folder `judge`."""
    keys = {word: word.lstrip("+~").partition("=")[0] for word in words}
    data = [word for word, key in keys.items() if key.split(".")[0] in OF_JUDGE and key != NOT_OF_JUDGE]
    chosen = data if any(word.startswith("data=") for word in data) else ["data=digits", *data]

    def measure(cfg: DictConfig) -> dict[str, object]:
        evaluation = build(cfg.metric, "metric")
        assert isinstance(evaluation, Evaluation)
        return {"receipt": evaluation.run().receipt}

    receipt = folder / "judge" / RECEIPT
    settings = ["metric=fid", f"num={num}", f"samples={folder / SAMPLES}", f"hydra.run.dir={receipt.parent}"]
    if not receipt.exists():
        shutil.rmtree(receipt.parent, ignore_errors=True)  # of an evaluation that was cut off
        run_command("evaluate", measure, [*chosen, *settings])
    figure = next(each for each in read_receipt(receipt).figures if each.metric == "fid")
    assert figure.floor is not None
    return figure.mean, figure.floor


def table(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Returns what was measured as Markdown: a row for each tool with means over its seeds, the floor, and how the tools differ."""
    floor, about = results[0]["floor"], []
    titles = ["tool", "FID", "x floor", "steps", "images a step", "images/s", "parameters", "evaluations", "sampling", "start-up"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for tool in dict.fromkeys(result["tool"] for result in results):
        rows = [result for result in results if result["tool"] == tool]
        mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if isinstance(rows[0][key], int | float)}
        fids = [row["fid"] for row in rows]
        spread = f" ± {statistics.stdev(fids):.2g}" if len(fids) > 1 else ""
        rate = statistics.mean(row["steps"] * row["images_per_step"] / row["seconds"] for row in rows)
        cells = [tool, f"{mean['fid']:.3g}{spread}", f"{mean['fid'] / floor:.2f}", f"{mean['steps']:,.0f}"]
        cells += [f"{mean['images_per_step']:.0f}", f"{rate:,.0f}", f"{mean['parameters'] / 1e6:.2f} M"]
        cells += [f"{mean['evaluations']:.0f}", f"{mean['sampling_seconds']:.0f} s", f"{mean['start_up_seconds']:.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
        about.append(f"- {tool}: {rows[0]['sampler']}; {rows[0]['settings']}")
    lines.append(f"| held-out images | {floor:.3g} | 1.00 |{' |' * (len(titles) - 3)}")
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    seeds = f"seed{'s' if len(options.seeds) > 1 else ''} {', '.join(map(str, options.seeds))}"
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    note = f"{options.minutes:g} minutes of training each, {seeds}, {threads}, {device}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"*FID of {options.num:,} samples; {note}.*", "", *about, ""])


def draw_picture(results: Sequence[dict[str, Any]], held_out: Tensor, path: Path) -> None:
    """Writes a grid of the samples of each tool, of its first seed, beside one of held-out images."""
    blocks = {f"held-out images, {results[0]['floor']:.3g}": grid(held_out)}
    for result in results:
        if result["seed"] == results[0]["seed"]:
            files = open_samples(Path(result["folder"]) / SAMPLES)
            images = torch.cat([part for _, part in files.batches(len(held_out), SHOWN, 0, 1)])
            blocks[f"{result['tool']}, {result['fid']:.3g}"] = grid(images)
    titles = list(blocks)
    rows = [titles[start : start + BLOCKS_IN_ROW] for start in range(0, len(titles), BLOCKS_IN_ROW)]
    save_png(column_of_pictures([titled_blocks({title: blocks[title] for title in row}) for row in rows]), path)


def settle(options: argparse.Namespace) -> None:
    """Writes down what the trainings in the folder of results share. Raises UserError if it has others with something else."""
    shared = {key: getattr(options, key) for key in ("words", "minutes", "num", "evaluations", "threads")}
    path = options.out / SETTINGS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else shared
    for key, value in shared.items():
        if found[key] != value:
            raise UserError(f"--out {options.out}: has trainings with {key} {found[key]}, these have {value}; take another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(shared))


def measure_all(options: argparse.Namespace) -> int:
    """Trains what is not there yet, judges, and writes the results after each; returns how many trainings failed."""
    data = load_data(options.words, options.num)
    settle(options)
    task, results, num_failed = task_of(options, data), [], 0
    held_out = data.held_out_set.images(range(min(SHOWN, options.num)))
    for tool in options.tools:
        if reason := reason_to_leave_out(tool, task):
            print(f"{tool}: left out, {reason}", flush=True)
            continue
        for seed in options.seeds:
            folder = options.out.absolute() / f"{tool}-{seed}"
            if not (folder / RESULT).exists() and not launch(tool, replace(task, seed=seed, folder=str(folder))):
                *_, last = ["", *(folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()]
                print(f"{tool}, seed {seed}: failed: {last} (all of it: {folder / LOG})", flush=True)
                num_failed += 1
                continue
            measured = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            result = {"tool": tool, "seed": seed, "folder": str(folder), **measured}
            result["fid"], result["floor"] = judge(options.words, options.num, folder)
            results.append(result)
            print(f"{tool}, seed {seed}: FID {result['fid']:.3g} after {result['steps']:,} steps", flush=True)
            write_text(options.out / "equal_time.json", json.dumps(results, indent=2))
            write_text(options.out / "equal_time.md", table(results, options))
            draw_picture(results, held_out, options.out / "equal_time.png")
    if results:
        print(f"\n{table(results, options)}")
    return num_failed


def main() -> None:
    """Compares the tools; the exit status is 1 if a training failed, and 2 for options that make no sense."""
    options = parsed()
    configure_logging()
    torch.set_num_threads(options.threads)
    try:
        num_failed = measure_all(options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
