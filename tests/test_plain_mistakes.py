"""Plain mistakes are answered at once: before torch, which takes seconds to load."""

import subprocess
import sys

import runs

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
