import functools
import gc
import logging
import os
import pickle
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import omegaconf.base
import pytest
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # for measuring

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as it is in the background of a shell script
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker inherits the folder from the process that starts all of them
    _CACHE = tempfile.TemporaryDirectory(prefix="alphabar-tests-")
    os.environ["ALPHABAR_TEST_CACHE"] = _CACHE.name
    os.environ["ALPHABAR_CONFIG_HOME"] = f"{_CACHE.name}/config"  # also outside of a test


def pytest_collection_finish():
    """Leaves what the libraries and the collected tests hold, and keep, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _parsed_once():
    """Hydra's files, as long as they do not change, and interpolations are parsed once by a worker: hundreds of commands have the same."""
    parsed, load, parse = {}, OmegaConf.load, functools.cache(omegaconf.base.parse)

    def cached(file):
        status = os.stat(file if isinstance(file, str | os.PathLike) else file.fileno())
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if key not in parsed:
            parsed[key] = pickle.dumps(load(file))
        return pickle.loads(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(cached))
        patch.setattr(omegaconf.base, "parse", parse)
        yield


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch, tmp_path):
    """No test finds an account or the user's own configuration, reaches a network or is told that it is part of a sweep."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "ALPHABAR_RESULT", "ALPHABAR_SWEEP", "ALPHABAR_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture(autouse=True)
def _own_logging():
    """What a command run in this process does to logging ends with the test."""
    yield
    logger = logging.getLogger("alphabar")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """An empty folder to work in, and an environment that a command may write to."""
    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "ALPHABAR_ERRORS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


TOYS = """
class Leaf:
    pass

class Tree:
    def __init__(
        self,
        width: int,
        name: str = "oak",
        height: float = 1.0,
        flag: bool = False,
        kind: Literal["soft", "hard"] = "soft",
        maybe: int | None = None,
        sizes: Sequence[int] = (1, 2),
        leaf: Leaf | None = None,
        leaves: Mapping[str, Leaf] = {},
        more: list[Leaf] = [],
        make: Callable[[int], Leaf] | None = None,
        anything=None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name != "self"}
        if width < 1:
            raise ValueError(f"need width >= 1, got width={width}")
        if width == 13:
            raise RuntimeError("a bug")

class Fake:
    def __init__(self, size: int) -> None:
        raise TypeError("size does\\nnot matter")

def function():
    pass
"""


@pytest.fixture
def toys(monkeypatch):
    """The module `alphabar.toys`, whose classes a configuration may name."""
    module = types.ModuleType("alphabar.toys")
    module.__dict__.update(Literal=Literal, Sequence=Sequence, Mapping=Mapping, Callable=Callable, os=os)
    exec(TOYS, module.__dict__)
    monkeypatch.setitem(sys.modules, "alphabar.toys", module)
    return module


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory):
    """A tiny DINOv2 with random weights, as transformers saves it."""
    import tiny_models

    return tiny_models.dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with random weights, as transformers saves it."""
    import tiny_models

    return tiny_models.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def logged(monkeypatch):
    """What the callback for the held-out loss logs: (step, figures)."""
    from alphabar.training.callbacks import held_out_loss

    calls = []
    original = held_out_loss.log_figures

    def log_figures(trainer, figures):
        calls.append((trainer.global_step, dict(figures)))
        original(trainer, figures)

    monkeypatch.setattr(held_out_loss, "log_figures", log_figures)
    return calls


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """A command in this process, in an empty folder: (exit code, stdout, stderr)."""
    import importlib

    from hydra.core.global_hydra import GlobalHydra

    import runs
    from alphabar.cli.command import execute
    from alphabar.cli.composition.hydra_app import App

    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        code = execute(importlib.import_module(name).main.__wrapped__, App(runs.ROOT / "conf", name))
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory):
    import torch
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("squeeze") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def gain(monkeypatch):
    """How much faster bfloat16 is in the trial; here a processor that has it."""

    from alphabar import speed

    def set_gain(times):
        monkeypatch.setattr(speed, "has_bfloat16_units", lambda: True)
        monkeypatch.setattr(speed, "bfloat16_gain", lambda: times)

    set_gain(2.0)
    return set_gain
