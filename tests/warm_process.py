"""Scripts in processes of their own that are forked from one that has already imported everything.

Such a process has its own signals, exit code and working directory, and starts in milliseconds instead of seconds. So do the
processes that it starts in its turn: the second rank of a run and the jobs of a sweep.
"""

import atexit
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

from lightning.fabric.strategies.launchers import subprocess_script as launcher_of_fabric
from lightning.pytorch.strategies.launchers import subprocess_script as launcher_of_trainer

from alphabar.metrics.features import classifier

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


def warm_context():
    """Returns the context of multiprocessing whose processes are forked from one that has imported everything.

    On macOS they are new interpreters: frameworks of the system do not survive a fork.
    """
    if sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, *modules()])
    return context


class WarmProcess:
    """A script or `-m module` in a forked process, with the part of the interface of `subprocess.Popen` that the tests use."""

    def __init__(self, arguments, cwd, env):
        self.args = list(arguments)
        self.folder = tempfile.TemporaryDirectory(prefix="alphabar-output-")
        self.files = [str(Path(self.folder.name) / name) for name in ("stdout", "stderr")]
        self.process = warm_context().Process(target=main, args=(self.args, str(cwd), dict(env), self.files))
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


def main(arguments, cwd, env, files):
    """Runs a script or a module as `python ARGUMENTS` does, with stdout and stderr in files."""
    # Not the forkserver of this process: workers of a run are started as they are where nobody tests, and die with a run that is killed.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    train_briefly()
    settle(env, cwd)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    atexit._clear()  # what the process that this one was forked from has registered
    try:
        if arguments[0] == "-m" or ROOT not in Path(arguments[0]).parents:  # perhaps of another copy of the package
            forget_package()
        run(fork_children(arguments) or arguments)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them


def train_briefly():
    """Trains every classifier for features in this process in a quarter of the steps; it knows 93.5% of the digits, not 94.5%."""
    classifier.MIN_STEPS = 100


def settle(env, cwd):
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # is read from the environment again
    os.chdir(cwd)


def run(arguments):
    """Runs `python ARGUMENTS` in this process."""
    sys.argv = list(arguments)
    if arguments[0] == "-m":
        del sys.argv[0]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")


def forget_package():
    """Makes the next import of the package that of PYTHONPATH."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("alphabar", "hydra_plugins")]:
        del sys.modules[name]
    sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)


def fork_children(arguments):
    """Forks the processes that a command with two devices, or a sweep of at most two jobs, will start.

    Returns their arguments in each of them, once it has been started, and None in the parent.
    """
    if any(word.endswith("devices=2") for word in arguments):
        starters, num = (launcher_of_fabric, launcher_of_trainer), 1
    elif "-m" in arguments[1:]:
        starters, num = (importlib.import_module("alphabar.cli.processes"),), 2
    else:
        return None
    children = []
    for _ in range(num):
        child = Child()
        if child.arguments is not None:
            return child.arguments
        children.append(child)

    def popen(command, *, env, cwd, **options):
        return (
            children.pop(0).start(command, env, cwd, options)
            if children
            else subprocess.Popen(command, env=env, cwd=cwd, **options)
        )

    for starter in starters:
        starter.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    return None


class Child:
    """A fork that waits for its command, with the part of the interface of `subprocess.Popen` that launchers use.

    arguments: of the command, in the fork, after it has been given; None in the parent.
    """

    def __init__(self):
        receiving, self.sending = os.pipe()
        self.returncode, self.arguments = None, None
        self.lock = threading.Lock()  # as Popen, it may be asked from several threads
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.sending)
            self.arguments = self.receive(receiving)
        else:
            os.close(receiving)

    def receive(self, pipe):
        with open(pipe) as file:
            order = file.readline()  # not up to the end: later forks hold the sending end, too
        if not order:  # the parent has ended without need of it
            os._exit(0)
        (_, *arguments), env, cwd, options = json.loads(order)
        settle(env, cwd or ".")
        if "process_group" in options:
            os.setpgid(0, options["process_group"])
        return arguments

    def start(self, command, env, cwd, options):
        with open(self.sending, "w") as file:
            file.write(json.dumps((command, dict(env), cwd and str(cwd), options)) + "\n")
        return self

    def poll(self):
        with self.lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)
