"""Weights and Biases, where it costs the user nothing."""

import netrc
import os
import secrets
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from alphabar.training.screen import shown

ID_FILE = "wandb_id.txt"
Mode = Literal["auto", "online", "offline", "disabled"]


class WandbRun(WandbLogger):
    """A run on wandb: online if there is an account and a network, else offline; it never asks and never waits.

    mode: "auto" decides as above; the environment's WANDB_MODE comes first. A run that is resumed keeps its id, which is in
    `wandb_id.txt`; offline, each sitting is a fragment of its own under that id.
    """

    def __init__(
        self,
        run_dir: str,
        name: str,
        group: str | None = None,
        project: str = "alphabar",
        mode: Mode = "auto",
    ) -> None:
        mode = os.environ.get("WANDB_MODE") or mode  # type: ignore[assignment]
        if mode == "auto":
            mode = "online" if has_account() and is_reachable() else "offline"
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=mode == "offline", mode=mode)
        super().__init__(
            name=name,
            save_dir=run_dir,
            project=project,
            id=self.run_id(Path(run_dir) / ID_FILE),
            offline=mode == "offline",
            settings=settings,
            group=group,
            resume="allow" if mode == "online" else None,
        )
        self._wandb_init.pop("anonymous", None)  # gone from wandb; Lightning still passes it, and wandb warns
        self.mode = mode

    @staticmethod
    def run_id(path: Path) -> str:
        """The id that this folder's run has on wandb, the same every time the run is taken up."""
        return path.read_text().strip() if path.exists() else secrets.token_hex(4)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Writes the configuration down on wandb, and the run's id in its folder."""
        (Path(self.save_dir or ".") / ID_FILE).write_text(f"{self._wandb_init['id']}\n")
        super().log_hyperparams(params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the run, one that failed as failed, and says how to look at it."""
        if self._experiment is None:
            return
        url = self._experiment.url if self.mode == "online" else None
        self._experiment.finish(exit_code=0 if status == "success" else 1)
        if self.mode == "offline":
            fragments = sorted((Path(self.save_dir or ".") / "wandb").glob("offline-run-*"))
            print(f"wandb ran offline. Look:    wandb leet {shown(fragments[-1])}")
            print(f"                   Upload:  wandb sync {' '.join(map(shown, fragments))}")
        elif self.mode == "online":
            print(f"wandb: {url}")


def server() -> str:
    """The host that wandb would talk to."""
    return urlsplit(wandb.Settings().base_url).hostname or ""


def has_account() -> bool:
    """Whether a key is at hand, in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return server() in hosts or "api.wandb.ai" in hosts


def is_reachable(seconds: float = 2.0) -> bool:
    """Whether the server answers within so many seconds."""
    url = urlsplit(wandb.Settings().base_url)
    try:
        with socket.create_connection((server(), url.port or (80 if url.scheme == "http" else 443)), timeout=seconds):
            return True
    except OSError:
        return False
