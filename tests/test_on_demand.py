"""torchmetrics is loaded when something of it is used, and then it is what it always is."""

import os
import subprocess
import sys

import runs

ON_DEMAND = "from alphabar.on_demand import load_torchmetrics_on_demand; load_torchmetrics_on_demand(); import lightning.pytorch"
USES = [
    "from torchmetrics.image.fid import FrechetInceptionDistance as metric",
    "import torchmetrics.functional; assert torchmetrics.functional.accuracy; metric = torchmetrics.SumMetric",
    "from torchmetrics import MetricCollection, Accuracy as metric; assert MetricCollection.__module__ == 'torchmetrics.collections'",
    "import torchmetrics; metric = torchmetrics.classification.BinaryAccuracy",
    "from torchmetrics import *; metric = Accuracy",
    """
import builtins, torchmetrics
real = builtins.__import__
def breaks(name, *args, **kwargs):
    if name == "torchmetrics.aggregation":
        raise OSError("no memory")
    return real(name, *args, **kwargs)
builtins.__import__ = breaks
for _ in range(2):
    try:
        torchmetrics.Accuracy
    except OSError as error:
        assert str(error) == "no memory"
    else:
        raise AssertionError
builtins.__import__ = real
metric = torchmetrics.Accuracy""",
    """
from concurrent.futures import ThreadPoolExecutor
import torchmetrics
names = ["F1Score", "functional", "SumMetric", "Metric", "AUROC", "image"]
with ThreadPoolExecutor(6) as pool:
    assert all(pool.map(lambda name: getattr(torchmetrics, name), names))
metric = torchmetrics.AUROC""",
]
CHECK = """
import importlib, sys, torchmetrics
from lightning.pytorch.utilities import types
assert "torchvision" in sys.modules and issubclass(metric, types.Metric) and types.Metric is torchmetrics.Metric
assert all(hasattr(torchmetrics, name) for name in torchmetrics.__all__)
fid = importlib.import_module("torchmetrics.image.fid")
assert fid.__spec__.name == fid.__name__ == "torchmetrics.image.fid" and importlib.reload(fid) is fid
"""


def executed(code, cwd=runs.ROOT, *words):
    env = os.environ | {"PYTHONPATH": str(runs.ROOT / "src"), "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_of_torchmetrics_is_there_from_its_first_use_on():
    """Each use is the first one of a process, a fork of one that has loaded Lightning."""
    code = f"""
import os, sys, traceback
{ON_DEMAND}
assert "torchvision" not in sys.modules
for use in {USES!r}:
    if (child := os.fork()) == 0:
        try:
            exec(use + {CHECK!r}, {{}})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, use
"""
    executed(code)


def test_a_run_loads_no_library_that_it_does_not_need(tmp_path):
    code = f"""
import atexit, runpy, sys
heavy = ("transformers", "torchvision", "sklearn", "scipy.signal", "scipy.stats", "pandas", "wandb", "diffusers")
atexit.register(lambda: print([name for name in heavy if name in sys.modules]))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path({str(runs.ROOT / "train.py")!r}, run_name="__main__")
"""
    words = runs.words(*runs.BRIEF, folder=tmp_path / "run")
    assert executed(code, tmp_path, *words).splitlines()[-1] == "[]"


def test_torchmetrics_that_is_loaded_is_left_alone():
    assert executed(f"import torchmetrics; {ON_DEMAND}; print(type(torchmetrics).__name__)").strip() == "module"
