import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import runs
from alphabar.training.loggers.wandb_run import ID_FILE, WandbRun, account_key, find_id


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
    assert fragment.name.endswith((tmp_path / "wandb_id.txt").read_text().split()[0])


def test_without_an_account_nothing_is_asked(tmp_path, monkeypatch):
    assert account_key() is None
    assert WandbRun(str(tmp_path), "name").mode == "offline"


def test_a_resumed_run_is_logged_to_the_run_of_its_own_account(tmp_path, monkeypatch, caplog):
    """Whoever made the folder cannot name a run of ours; whoever began the run goes on with it."""
    path = tmp_path / ID_FILE

    def stored(content, online=True):
        path.write_text(content)
        return find_id(path, "alphabar", online)

    for content in ("mine", "mine ", f"mine {'0' * 32}", "../../mine", "mine mine", "\0"):
        assert stored(content).id != "mine"  # without an account
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    own = find_id(tmp_path / "nothing", "alphabar", online=True)
    assert stored(f"{own.id} {own.signature}\n") == own
    assert stored(f"{own.id}\n", online=False) == own._replace(is_ours=False)
    caplog.clear()
    for content in (own.id, f"{own.id} {'0' * 32}", f"other {own.signature}", f"../x {own.signature}"):
        found = stored(content)
        assert found.is_ours
        assert found.id not in (own.id, "other", "../x")
    assert f"WANDB_RUN_ID={own.id} goes on with that one" in caplog.messages[0]
    path.write_text(f"{own.id} {own.signature}")
    assert find_id(path, "another", online=True).id != own.id
    monkeypatch.setenv("WANDB_RUN_ID", own.id)
    assert stored(own.id) == own
    monkeypatch.setenv("WANDB_API_KEY", "1" * 40)
    monkeypatch.delenv("WANDB_RUN_ID")
    assert stored(f"{own.id} {own.signature}").id != own.id


def test_jobs_of_a_sweep_share_a_group(tmp_path):
    first, second = (WandbRun(str(tmp_path / name), name, group="sweep") for name in "ab")
    assert first._wandb_init["group"] == second._wandb_init["group"] == "sweep"
    assert first._wandb_init["id"] != second._wandb_init["id"]


@pytest.mark.parametrize(("project", "found"), [("a/b", "got /"), ("x" * 129, "got 129 characters"), ("''", "got 0 characters")])
def test_a_project_that_wandb_refuses_is_one_line_and_leaves_nothing(command, tmp_path, project, found):
    code, _, err = command("train", *runs.words(f"logger.wandb.project={project}", logger="wandb"))
    assert code == 2
    assert err.startswith("error: logger.wandb.project=")
    assert err.endswith(f"{found}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_no_folder_makes_no_noise(tmp_path):
    (tmp_path / "home").touch()
    words = runs.words("trainer.max_steps=1", "callbacks=null", folder="run", logger="wandb", tiny=runs.TINY[:3])
    code, out, err = runs.run("train.py", *words, cwd=tmp_path, env={"HOME": str(tmp_path / "home"), "WANDB_MODE": "offline"})
    assert (code, err) == (0, "")
    assert "wandb ran offline" in out
    assert (tmp_path / "home").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "run"]


def test_without_a_home_caches_lie_in_the_folder_of_the_run(monkeypatch, tmp_path):
    from alphabar.training.loggers.wandb_run import keep_out_of_home

    names = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_out_of_home(tmp_path / "run")
    assert not any(name in os.environ for name in names)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    keep_out_of_home(tmp_path / "run")
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "run" / "wandb" / "cache")
    assert os.environ["WANDB_CONFIG_DIR"] == str(tmp_path / "run" / "wandb" / "config")
    assert os.environ["WANDB_DATA_DIR"] == "mine"
