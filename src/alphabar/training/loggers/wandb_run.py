"""The logger of Weights and Biases, which works without an account and without a network."""

import hashlib
import hmac
import logging
import netrc
import os
import re
import secrets
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from wandb.errors import Error as WandbError

from alphabar.config.build import first_line
from alphabar.errors import UserError
from alphabar.files.atomic import write_text
from alphabar.files.paths import display_path

log = logging.getLogger(__name__)
ID_FILE = "wandb_id.txt"
RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
REFUSED = "/\\#?%:"  # characters that the name of a project cannot have
MAX_NAME = 128
Mode = Literal["auto", "online", "offline", "disabled"]


class WandbRun(WandbLogger):
    """Logs to wandb: online if there is an account and a network, else offline; it never asks and never waits.

    mode: "auto" decides as above, and goes offline with one line if the server refuses or does not answer; the environment's
    WANDB_MODE takes precedence. Raises UserError if mode="online" is not possible. A resumed run keeps its id; offline, each
    start of the run writes a separate fragment under that id. Account and server are never those of a configuration, and the id
    that a folder has is used online only if this account signed it, see `WandbId`.
    """

    def __init__(
        self,
        run_dir: str,
        name: str,
        group: str | None = None,
        project: str = "alphabar",
        mode: Mode = "auto",
    ) -> None:
        check_project(project)
        keep_out_of_home(Path(run_dir))
        chosen = os.environ.get("WANDB_MODE") or mode
        online = account_key() is not None and is_reachable() if chosen == "auto" else chosen == "online"
        self.mode = ("online" if online else "offline") if chosen == "auto" else chosen
        self.may_fall_back = chosen == "auto"
        self._own_id = find_id(Path(run_dir) / ID_FILE, project, online=self.mode == "online")
        super().__init__(
            name=name,
            save_dir=run_dir,
            project=project,
            id=self._own_id.id,
            offline=self.mode == "offline",
            settings=wandb_settings(self.mode),
            group=group,
            resume="allow" if self.mode == "online" else None,
        )
        self._wandb_init.pop("anonymous", None)  # gone from wandb; Lightning still passes it, and wandb warns

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs the configuration to wandb, and writes the run's id into its folder."""
        path = Path(self.save_dir or ".") / ID_FILE
        if self._own_id.is_ours or not path.exists():
            write_text(path, f"{self._own_id.id} {self._own_id.signature}".strip() + "\n")
        try:
            super().log_hyperparams(params)
        except WandbError as error:
            if not self.may_fall_back:
                raise UserError(f"logger=wandb: {first_line(error)}; logger.wandb.mode=offline needs no server") from error
            log.warning("wandb cannot be used online (%s): this run is logged offline", first_line(error))
            wandb.teardown()  # else the id would be taken
            self.mode, self._offline = "offline", True
            self._wandb_init |= {"settings": wandb_settings("offline"), "resume": None}
            super().log_hyperparams(params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the run with its exit status, and prints how to view it."""
        if self._experiment is None:
            return
        url = self._experiment.url if self.mode == "online" else None
        self._experiment.finish(exit_code=0 if status == "success" else 1)
        if self.mode == "offline":
            fragments = sorted((Path(self.save_dir or ".") / "wandb").glob("offline-run-*"))
            print(f"wandb ran offline. Look:    wandb leet {display_path(fragments[-1])}")
            print(f"                   Upload:  wandb sync {' '.join(map(display_path, fragments))}")
        elif self.mode == "online":
            print(f"wandb: {url}")


class WandbId(NamedTuple):
    """The id of a folder's run on wandb.

    signature: a hash of id and project, keyed with the API key of this account; empty without an account. Whoever made a folder
    could put the id of any run of ours into it, to which the resumed run would then be logged; nobody else can sign it.
    is_ours: whether the id is new, signed by this account, or named in WANDB_RUN_ID.
    """

    id: str
    signature: str
    is_ours: bool


def find_id(path: Path, project: str, online: bool) -> WandbId:
    """Returns the id in a file, which stays the same every time a run is resumed, or a new one if there is none.

    Online, one that is not ours is replaced by a new one, and a line says so; offline nothing leaves the machine.
    """
    content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    stored, _, signature = content.strip().partition(" ")
    key = account_key()
    if RUN_ID.fullmatch(stored):
        signed = "" if key is None else sign(key, stored, project)
        is_named = os.environ.get("WANDB_RUN_ID") == stored
        is_signed = bool(signed) and hmac.compare_digest(signature.encode(), signed.encode())
        if is_named or is_signed or not online:
            return WandbId(stored, signed, is_named or is_signed)
        log.warning(
            "wandb: this account did not begin run %s of project %s, so a new run is begun; WANDB_RUN_ID=%s goes on with that one",
            *(stored, project, stored),
        )
    new = secrets.token_hex(4)
    return WandbId(new, "" if key is None else sign(key, new, project), is_ours=True)


def sign(key: str, run_id: str, project: str) -> str:
    """Returns the keyed hash of a run's id and project."""
    return hmac.new(key.encode(), f"{run_id}/{project}".encode(), hashlib.sha256).hexdigest()[:32]


def check_project(project: str) -> None:
    """Raises UserError for a name of a project that wandb refuses."""
    if not project or len(project) > MAX_NAME or (found := sorted(set(project) & set(REFUSED))):
        reason = f"got {' '.join(found)}" if project and len(project) <= MAX_NAME else f"got {len(project)} characters"
        raise UserError(f"project={project}: need 1 to {MAX_NAME} characters without {' '.join(REFUSED)}, {reason}")


def keep_out_of_home(run_dir: Path) -> None:
    """Moves wandb's caches and settings into the folder of the run if there is no home directory that can be written to."""
    home = os.environ.get("HOME")
    if home is not None and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, str((run_dir / "wandb" / name.split("_")[1].lower()).absolute()))


def wandb_settings(mode: str) -> wandb.Settings:
    """Returns settings with which wandb prints nothing and waits at most 15 seconds for a server."""
    return wandb.Settings(silent=True, console="off", x_disable_stats=mode == "offline", init_timeout=15, mode=mode)  # type: ignore[arg-type]


def server() -> SplitResult:
    """Returns the address of the server that wandb would use, by its environment and its settings files."""
    return urlsplit(wandb.setup().settings.base_url)


def account_key() -> str | None:
    """Returns the API key in the environment or, for the server, in the netrc file; None if there is none."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return None
    return next((hosts[name][2] for name in (server().netloc, server().hostname, "api.wandb.ai") if name in hosts), None)


def is_reachable(seconds: float = 2.0) -> bool:
    """Returns whether a connection to the server succeeds within so many seconds."""
    url = server()
    try:
        with socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=seconds):
            return True
    except OSError:
        return False
