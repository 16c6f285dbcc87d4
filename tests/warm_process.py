"""Scripts in processes of their own that are forked from one that has already imported everything.

Such a process has its own signals, exit code and working directory, and starts in milliseconds instead of seconds.
"""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
from pathlib import Path

from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
from lightning.pytorch.strategies.launchers import subprocess_script as trainer_launcher

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "lightning.pytorch",
    "torchmetrics",
    "torchvision",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.t5.modeling_t5",
)


def modules():
    """Returns the names of the package's modules, without those that import wandb, whose temporary folder a process owns alone."""
    files = [file for file in sorted((ROOT / "src" / "alphabar").rglob("*.py")) if "import wandb" not in file.read_text()]
    return [".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__") for file in files]


class WarmProcess:
    """A script in a forked process, with the part of the interface of `subprocess.Popen` that the tests use."""

    def __init__(self, script, arguments, cwd, env):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, *modules()])
        self.args = [script, *arguments]
        self.folder = tempfile.TemporaryDirectory(prefix="alphabar-output-")
        self.files = [str(Path(self.folder.name) / name) for name in ("stdout", "stderr")]
        self.process = context.Process(target=run_script, args=(self.args, str(cwd), dict(env), self.files))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        """The exit code, -N if signal N ended the process, None if it still runs."""
        return self.process.exitcode

    def kill(self):
        self.process.kill()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        """Waits for the end and returns (stdout, stderr); raises subprocess.TimeoutExpired."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (Path(file).read_text() for file in self.files)
        self.folder.cleanup()
        return out, err


def run_script(arguments, cwd, env, files):
    """Runs a script as `python SCRIPT ARGUMENTS` does, with stdout and stderr in files."""
    # Not the forkserver of this process: workers of a run are started as they are where nobody tests, and die with a run that is killed.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    sys.path.insert(0, str(Path(arguments[0]).parent))
    if any(word.endswith("devices=2") for word in arguments):
        arguments = SecondRank.fork() or arguments
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


class SecondRank:
    """A fork of a warm process that becomes rank 1, with the part of the interface of `subprocess.Popen` that Lightning's launchers use."""

    def __init__(self, pid, pipe):
        self.pid, self.pipe, self.returncode = pid, pipe, None

    @classmethod
    def fork(cls):
        """Forks; returns None in the parent, whose launchers of Lightning then start the fork, and in the fork its script and arguments."""
        receiving, sending = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(sending)
            with open(receiving) as pipe:
                order = pipe.read()
            if not order:  # the parent has ended without a second rank
                os._exit(0)
            (_, *arguments), env, cwd = json.loads(order)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(cwd or ".")
            return arguments
        os.close(receiving)
        rank = cls(pid, sending)
        for launcher in (fabric_launcher, trainer_launcher):
            launcher.subprocess = types.SimpleNamespace(Popen=rank.start)
        return None

    def start(self, command, env, cwd):
        with open(self.pipe, "w") as pipe:
            json.dump((command, env, cwd), pipe)
        return self

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)
