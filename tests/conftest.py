import logging
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_CACHE = tempfile.TemporaryDirectory(prefix="alphabar-tests-")
os.environ["ALPHABAR_TEST_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch, tmp_path):
    """No test finds an account, reaches a network or is told that it is part of a sweep."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "ALPHABAR_RESULT", "ALPHABAR_SWEEP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture(autouse=True)
def _own_logging():
    """What a command run in this process does to logging ends with the test."""
    yield
    logger = logging.getLogger("alphabar")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
