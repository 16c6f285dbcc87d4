"""Whole runs in a second or two: the real configuration with a network of a few thousand parameters."""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from filelock import FileLock
from PIL import Image, ImageSequence

from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.evaluation import receipt
from warm_process import WarmProcess, train_briefly

train_briefly()
ROOT = Path(__file__).parents[1]
CACHE = os.environ["ALPHABAR_TEST_CACHE"]  # made anew for every session of pytest and shared by its workers, in conftest.py
BRIEF = ("trainer.max_steps=2", "callbacks.fid=null", "callbacks.samples=null", "callbacks.film=null", "callbacks.curves=null")
TINY = (
    "report=false",
    "speed=off",
    "network.base_channels=8",
    "network.norm_groups=4",
    "data.batch_size=32",
    "lr_scheduler.warmup_steps=3",
    "sampler.num_steps=3",
    "trainer.log_every_n_steps=7",
    "callbacks.samples.num=4",
    "callbacks.samples.every_n_steps=20",
    "callbacks.film.num=2",
    "callbacks.samples.batch_size=2",
    "callbacks.fid.num=64",
    "callbacks.fid.batch_size=16",
    "callbacks.fid.every_n_steps=20",
    "callbacks.held_out_loss.num=32",
    "callbacks.held_out_loss.every_n_steps=20",
    "callbacks.checkpoints.every_n_steps=10",
    "features.max_images=200",
    f"features.cache_dir={CACHE}",
)


def words(*overrides, folder=None, logger="csv", tiny=TINY):
    here = () if folder is None else (f'hydra.run.dir="{folder}"',)
    return [*tiny, f"logger={logger}", *here, *overrides]


def say(monkeypatch, *words, main=lambda cfg: {}, app=App(ROOT / "conf", "train")):
    """The exit code of a command in this process, in which `main` stands for what it would do."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    return execute(main, app)


def start(script, *arguments, cwd, env=None):
    """Starts a command in a process of its own, away from the repository, in which everything is imported already.

    On macOS it is a new interpreter: frameworks of the system do not survive a fork.
    """
    if sys.platform == "darwin":
        return start_cold(script, *arguments, cwd=cwd, env=env)
    return WarmProcess([program(script), *map(str, arguments)], cwd, os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}))


def program(script):
    """Returns what Python is started with: `-m`, or the path of a script, which is one of the repository unless it is absolute."""
    return script if script == "-m" else str(ROOT / script)


def start_cold(script, *arguments, cwd, env=None, **options):
    """Starts a command in a new interpreter, as a user does."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    command = [sys.executable, program(script), *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, text=True, **options)


def finish(process, seconds=120):
    """(Exit code, stdout, stderr) of a command that ends in time."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run(script, *arguments, cwd, env=None, seconds=120):
    return finish(start(script, *arguments, cwd=cwd, env=env), seconds)


def shared(name, make):
    """Returns a folder that `make(folder)` fills, once for all tests and workers of a session.

    It is only read: a test that writes into it copies it first.
    """
    home = Path(CACHE) / name
    home.parent.mkdir(exist_ok=True, parents=True)
    with FileLock(f"{home}.lock"):
        if not (home / "finished").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            make(home)
            (home / "finished").touch()
    return home


def trained(*overrides, tiny=TINY):
    """Returns the folder of a run of `train.py` with the overrides and `tiny`, trained once for all tests of a session."""
    return finished("train.py", *words(*overrides, tiny=tiny))


def finished(script, *arguments):
    """Returns the folder of a finished command, run once for all tests of a session; see `shared`."""

    def make(home):
        code, _, err = run(script, *arguments, f"hydra.run.dir={home / 'run'}", cwd=home)
        assert code == 0, err

    return shared(f"runs/{hashlib.blake2b(repr((script, arguments)).encode(), digest_size=8).hexdigest()}", make) / "run"


def figures(folder):
    """{name: mean} of the receipt in a folder."""
    return {each.name: each.mean for each in receipt.read_receipt(Path(folder)).figures}


def pixels(path):
    """The pixels of every frame of a picture, without what it says of itself."""
    with Image.open(path) as picture:
        return [(frame.mode, frame.size, frame.tobytes()) for frame in ImageSequence.Iterator(picture)]


def checkpoint(folder, name="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def checkpoints(folder):
    """The names of all checkpoints and snapshots below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt"))


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
