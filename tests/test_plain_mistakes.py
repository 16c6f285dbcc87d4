"""Plain mistakes are answered at once, before torch is loaded, which takes seconds; what asks for too much memory, when it does."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import runs
from alphabar.cli.exit_status import outcome_of

MISTAKES = {
    "evaluate.py": "error: need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: got none of them",
    "evaluate.py samples=x": "error: need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: samples=... needs the real images beside it",
    "evaluate.py checkpoint=nowhere.ckpt": "checkpoint=nowhere.ckpt: no such file",
    "evaluate.py metric=bpd": "checkpoint: missing, give checkpoint=...",
    "sample.py": "checkpoint: missing, give checkpoint=...",
    "sample.py checkpoint=nowhere.ckpt": "checkpoint=nowhere.ckpt: no such file",
    "train.py data=folder": "data.root: missing, give data.root=...",
}
SCRIPT = """
import runpy, sys
root, *lines = sys.argv[1:]
sys.path[:0] = [root, root + "/src"]
for line in lines:
    sys.argv = line.split()
    try:
        runpy.run_path(f"{root}/{sys.argv[0]}", run_name="__main__")
    except SystemExit as end:
        print(end.code, "torch" in sys.modules, file=sys.stderr)
"""


def test_plain_mistakes_are_answered_before_torch_is_loaded(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(runs.ROOT), *MISTAKES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(MISTAKES), done.stderr
    for (words, message), line, end in zip(MISTAKES.items(), lines[::2], lines[1::2], strict=True):
        assert message in line, (words, line)
        assert end == "2 False", words
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


TOO_MUCH = {
    "for 4,194,304.0 GiB at once": lambda: torch.empty(2**50),
    "for what was asked": lambda: torch.empty(2**40, 2**40),
    "for 4.00 PiB at once": lambda: np.empty(2**52, np.uint8),
}


@pytest.mark.parametrize("asked", TOO_MUCH)
def test_memory_that_is_not_there_is_one_line(asked):
    with pytest.raises((RuntimeError, ValueError, MemoryError)) as caught:
        TOO_MUCH[asked]()
    outcome = outcome_of(caught.value)
    (line,) = outcome.lines
    assert line.startswith(
        f"not enough memory {asked}: smaller images (data.resolution), batches (data.batch_size, batch_size) or "
    )
    assert (outcome.code, outcome.is_bug) == (2, False)


def test_memory_of_a_gpu_that_is_full_is_one_line():
    (line,) = outcome_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")).lines
    assert line.startswith("not enough memory of the GPU for 2.00 GiB at once: ")
