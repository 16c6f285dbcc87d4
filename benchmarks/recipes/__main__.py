"""Trains by one recipe, draws the samples, and writes both into the folder of the task."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from alphabar.files.atomic import write_text
from recipes import Task, counted_evaluations
from recipes.tools import RECIPES


def main(tool: str, path: str, launched: str) -> None:
    """Does the task in the file `path`, and writes `samples.npz` and, last, `result.json`.

    launched: when this process was launched, as `time.time()`.
    """
    task = Task(**json.loads(Path(path).read_text(encoding="utf-8")))
    torch.set_num_threads(task.threads)
    trained = RECIPES[tool].train(task)
    begin = time.perf_counter()
    with torch.no_grad(), counted_evaluations(trained.network) as evaluations:
        images = trained.draw(task.num)
    seconds = time.perf_counter() - begin
    folder = Path(task.folder)
    np.savez(folder / "samples.npz", images=images.permute(0, 2, 3, 1).numpy())
    result = {
        "steps": trained.steps,
        "images_per_step": trained.images_per_step,
        "seconds": trained.seconds,
        "start_up_seconds": trained.first_step - float(launched),
        "parameters": sum(each.numel() for each in trained.network.parameters()),
        "sampler": trained.sampler,
        "evaluations": round(evaluations[0] / task.num),
        "sampling_seconds": seconds,
        "settings": trained.settings,
    }
    write_text(folder / "result.json", json.dumps(result, indent=2))


main(*sys.argv[1:])
