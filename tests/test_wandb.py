import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from alphabar.training.loggers.wandb_run import WandbRun, has_account


class Refuses(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server that knows nobody."""
    import wandb

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    yield server
    server.shutdown()
    server.server_close()
    wandb.teardown()


def test_a_server_that_refuses_leaves_an_offline_run(server, tmp_path):
    run = WandbRun(str(tmp_path), "name")
    assert run.mode == "online"
    run.log_hyperparams({"seed": 0})
    run.log_metrics({"loss": 1.0}, step=1)
    run.finalize("success")
    assert run.mode == "offline"
    (fragment,) = (tmp_path / "wandb").glob("offline-run-*")
    assert fragment.name.endswith((tmp_path / "wandb_id.txt").read_text().strip())


def test_without_an_account_nothing_is_asked(tmp_path, monkeypatch):
    assert not has_account()
    assert WandbRun(str(tmp_path), "name").mode == "offline"


def test_jobs_of_a_sweep_share_a_group(tmp_path):
    first, second = (WandbRun(str(tmp_path / name), name, group="sweep") for name in "ab")
    assert first._wandb_init["group"] == second._wandb_init["group"] == "sweep"
    assert first._wandb_init["id"] != second._wandb_init["id"]
