"""The logger of MLflow, an optional package, which works without a server."""

import hashlib
import logging
import os
import secrets
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image

from alphabar.config.build import first_line
from alphabar.errors import UserError
from alphabar.files.atomic import write_text

log = logging.getLogger(__name__)
ID_FILE = "mlflow_id.txt"
STORE = "mlruns"  # in the folder of the run
KEY_TAG = "alphabar.key"
MAX_PARAMETER = 250  # characters, of any version of MLflow


class MLFlowRun(MLFlowLogger):
    """Logs figures, pictures and the configuration to MLflow: to a server, or to a store of files in the folder of the run.

    tracking_uri: the server; None: that in MLFLOW_TRACKING_URI or, without it, the store of files.
    A resumed run keeps its id, see `stored_id`. Raises UserError without the package, and for a server that does not answer.
    """

    def __init__(
        self, run_dir: str, name: str, group: str | None = None, experiment_name: str = "alphabar", tracking_uri: str | None = None
    ) -> None:
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # recent versions want a word for stores of files
            uri = (Path(run_dir).absolute() / STORE).as_uri()
        self.id_file = Path(run_dir) / ID_FILE
        tags = {} if group is None else {"group": group}
        try:
            super().__init__(experiment_name, name, uri, tags)
            self._run_id = self.stored_id()
        except ModuleNotFoundError as error:
            raise UserError("logger=mlflow needs a package that is not installed: pip install mlflow") from error
        except Exception as error:
            if not is_of_mlflow(error):
                raise
            raise UserError(f"logger=mlflow: {first_line(error)}") from error

    def stored_id(self) -> str | None:
        """Returns the id in the folder of a resumed run, or None if there is none that is ours.

        The folder may come from somebody else, with the id of any run. So it has a key beside the id, whose hash is a tag of the
        run on the server. A warning says if they do not match, or if the run was logged to another server before.
        """
        if not self.id_file.is_file():
            return None
        run_id, key, uri, *_ = [*self.id_file.read_text(encoding="utf-8", errors="replace").split(maxsplit=2), "", "", ""]
        if (place := without_account(self._tracking_uri)) != uri.strip() and not uri.startswith("file:"):
            log.warning("mlflow: logged to %s, and until now to %s; logger.mlflow.tracking_uri=... says where", place, uri.strip())
            return None
        try:
            tags = self._mlflow_client.get_run(run_id).data.tags
        except Exception as error:
            if not is_of_mlflow(error):
                raise
            tags = {}
        if tags.get(KEY_TAG) == hash_of(key):
            return run_id
        log.warning("mlflow: there is no run %s that began in this folder, so a new run is begun", run_id)
        return None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs the part of the configuration that the server does not have yet, and writes the id into the folder."""
        client = self._mlflow_client
        if self._run_id is None:
            if (experiment := client.get_experiment_by_name(self._experiment_name)) is None:  # Lightning would warn of that
                self._experiment_id = client.create_experiment(self._experiment_name)
            else:
                self._experiment_id = experiment.experiment_id
            key = secrets.token_hex(16)
            self.tags = {**(self.tags or {}), KEY_TAG: hash_of(key)}
            write_text(self.id_file, f"{self.run_id} {key} {without_account(self._tracking_uri)}\n")
        run_id = str(self.run_id)
        client.update_run(run_id, status="RUNNING")
        known = client.get_run(run_id).data.params  # which cannot change
        content = {} if isinstance(params, Namespace) else flat(params)
        super().log_hyperparams({key: str(value)[:MAX_PARAMETER] for key, value in content.items() if key not in known})

    @rank_zero_only
    def log_image(self, key: str, images: list[Image], step: int | None = None, **_: object) -> None:
        """Logs pictures as artifacts: `samples/step_0000600.png`."""
        for index, image in enumerate(images):
            name = f"{key}/step_{step or 0:07d}{f'_{index}' if index else ''}.png"
            self.experiment.log_image(self.run_id, image, artifact_file=name)

    @rank_zero_only
    def log_video(self, key: str, videos: list[str], step: int | None = None, **_: object) -> None:
        """Logs the files of films as artifacts, each replacing the one before."""
        for path in videos:
            self.experiment.log_artifact(self.run_id, path, key)


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def without_account(uri: str) -> str:
    """Returns the address of a server without user name and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def hash_of(key: str) -> str:
    """Returns the hash of a key that is kept on the server."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_of_mlflow(error: BaseException) -> bool:
    """Returns whether an error is one of MLflow's own; the package is not imported."""
    return any(cls.__name__ == "MlflowException" for cls in type(error).__mro__)
