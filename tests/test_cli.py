"""The command line around a configuration: exit codes, help, and the folders in which it may run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

import parts
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import quoted
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.runs.folders.run_dir import claim, must_be_resumable
from runs import ROOT, say

pytestmark = pytest.mark.usefixtures("shell")


def run(script, *words, **env):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | env
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("error", "code", "state", "lines"),
    [
        (
            UserError("checkpoint=x: no such file\ndata: empty"),
            2,
            "failed",
            ["error: checkpoint=x: no such file", "error: data: empty"],
        ),
        (MisconfigurationException("no GPU\n here"), 2, "failed", ["error: no GPU here"]),
        (PermissionError(13, "Permission denied", "/x/last.ckpt"), 2, "failed", ["error: /x/last.ckpt: Permission denied"]),
        (OSError(28, "No space left on device"), 2, "failed", ["error: [Errno 28] No space left on device"]),
        (KeyboardInterrupt(), 130, "stopped", ["stopped by Ctrl-C"]),
        (SystemExit(143), 143, "stopped", ["stopped by SIGTERM"]),
        (SystemExit(138), 138, "stopped", ["stopped by SIGUSR1"]),
        (SystemExit(0), 0, "finished", []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_ending_has_its_exit_code(monkeypatch, capfd, tmp_path, error, code, state, lines):
    monkeypatch.setenv("ALPHABAR_RESULT", str(tmp_path / "result.json"))

    def main(cfg):
        raise error

    assert say(monkeypatch, main=main) == code
    assert capfd.readouterr().err.splitlines() == lines
    assert json.loads((tmp_path / "result.json").read_text())["state"] == state


def test_ctrl_c_is_distinguished_from_other_exits_though_lightning_makes_it_one(monkeypatch):
    def main(cfg):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert say(monkeypatch, main=main) == 130


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_RESULT", str(tmp_path / "result.json"))

    def main(cfg):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        say(monkeypatch, main=main)
    left = json.loads((tmp_path / "result.json").read_text())
    assert left["state"] == "failed"
    assert left["error"] == "RuntimeError: a bug"
    assert "in main" in left["traceback"]


def test_the_result_is_handed_over(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    monkeypatch.setenv("ALPHABAR_RESULT", str(path))
    say(monkeypatch, main=lambda cfg: {"loss": 0.5, "folder": Path("x")})
    assert json.loads(path.read_text()) == {"state": "finished", "loss": 0.5, "folder": "x"}
    path.unlink()
    monkeypatch.setenv("LOCAL_RANK", "1")
    say(monkeypatch, main=lambda cfg: {"loss": 0.5})
    assert not path.exists()


def test_processes_of_one_run_print_the_same_error_once_and_another_error_too(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("ALPHABAR_ERRORS", str(tmp_path / "said"))
    for rank, line in [("0", "same"), ("1", "same"), ("2", "only here")]:
        monkeypatch.setenv("LOCAL_RANK", rank)

        def main(cfg, line=line):
            raise UserError(line)

        assert say(monkeypatch, "hydra.run.dir=x", main=main) == 2
    assert capfd.readouterr().err.splitlines() == ["error: same", "error: only here"]


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(28, "No space left on device")], ids=str)
def test_an_error_in_the_summary_of_a_sweep_is_that_of_the_command(monkeypatch, capfd, error):
    def finish_sweeps(outcome):
        Path(os.environ["ALPHABAR_ERRORS"]).mkdir()
        folders.append(Path(os.environ["ALPHABAR_ERRORS"]))
        raise error

    folders = []
    monkeypatch.setattr("alphabar.cli.command.finish_sweeps", finish_sweeps)
    if isinstance(error, OSError):
        assert say(monkeypatch, main=lambda cfg: {}) == 2
        assert capfd.readouterr().err.endswith("No space left on device\n")
    else:
        with pytest.raises(ValueError, match="a bug"):
            say(monkeypatch, main=lambda cfg: {})
    assert not folders[0].exists()


def test_help_is_for_people(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "400")
    assert say(monkeypatch, "--help") == 0
    text = capfd.readouterr().out
    schedules = [f"{name}*" if name == "linear" else name for name in parts.choices("schedule")]
    assert "python train.py -m schedule.beta_end=0.01,0.02,0.04" in text
    assert f"  schedule          {', '.join(schedules)}\n" in text
    assert "hydra/" not in text
    assert "_target_" not in text


@pytest.mark.parametrize("name", ["train", "sample", "evaluate"])
def test_every_command_has_help_and_shows_its_configuration(monkeypatch, capfd, name):
    app = App(ROOT / "conf", name)
    assert say(monkeypatch, "--help", app=app) == 0
    assert f"python {name}.py" in capfd.readouterr().out
    assert say(monkeypatch, "--cfg", "job", app=app) == 0
    plain = OmegaConf.create(capfd.readouterr().out)
    assert say(monkeypatch, "--cfg", "job", "--resolve", app=app) == 0
    resolved = OmegaConf.create(capfd.readouterr().out)
    assert set(plain) == set(resolved)
    assert "hydra" not in plain
    assert resolved.sampler.num_steps == plain.sampler.num_steps


def test_a_resolved_configuration_shows_what_is_filled_in_later(monkeypatch, capfd):
    say(monkeypatch, "--cfg", "job", "--resolve", "-p", "network")
    assert "channels: ???" in capfd.readouterr().out


@pytest.mark.parametrize("resolve", [(), ("--resolve",)], ids=["as-written", "resolved"])
@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["trainer.max_steps=1e5"], "trainer.max_steps", 100_000),
        (["data=folder", "data.root=2024"], "data.root", "2024"),
        (["name=1e3"], "name", "1e3"),
        (["callbacks=null"], "callbacks", {}),
        (["logger=null", "recipe=one_gpu"], "logger", {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_configuration_that_is_shown_is_the_one_that_would_run(monkeypatch, capfd, words, key, value, resolve):
    seen = []
    assert say(monkeypatch, *words, main=lambda cfg: seen.append(OmegaConf.select(cfg, key)) or {}) == 0
    capfd.readouterr()
    assert say(monkeypatch, "--cfg", "job", *resolve, *words) == 0
    shown = OmegaConf.select(OmegaConf.create(capfd.readouterr().out), key)
    assert shown == seen[0] == value
    assert type(shown) is type(seen[0])


def test_resolve_needs_a_configuration_to_show(monkeypatch, capfd):
    assert say(monkeypatch, "--resolve") == 2
    assert capfd.readouterr().err == "error: --resolve: is for --cfg=job, which shows the configuration\n"


@pytest.mark.parametrize("words", [["-m", "seed=1,2"], ["resume=run"]], ids=" ".join)
def test_configurations_that_are_not_those_of_one_new_run_are_not_shown(monkeypatch, capfd, words):
    assert say(monkeypatch, "--cfg", "job", *words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "error: --cfg=job: " in err


def test_a_part_of_the_configuration_that_does_not_exist_is_one_line(monkeypatch, capfd):
    for resolve in ((), ("--resolve",)):
        assert say(monkeypatch, "--cfg", "job", "-p", "shedule", *resolve) == 2
        assert capfd.readouterr().err == "error: --package=shedule: there is no such key in the configuration\n"


@pytest.mark.parametrize("mode", ["mode: MULTIRUN", '"mode" : ${oc.env:MODE_OF_TEST}'])
def test_a_yaml_file_may_ask_for_a_sweep(monkeypatch, shell, mode):
    monkeypatch.setenv("MODE_OF_TEST", "MULTIRUN")
    (folder := Path("own") / "experiment").mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\nhydra:\n  {mode}\n  sweeper: {{params: {{seed: '3,4'}}}}\n")
    seeds = []
    words = ("--config-dir=own", "experiment=mine", "hydra/launcher=basic")
    assert say(monkeypatch, *words, main=lambda cfg: seeds.append(cfg.seed) or {}) == 0
    assert seeds == [3, 4]


def test_a_command_that_is_refused_removes_the_folders_that_it_made_and_no_others(monkeypatch, tmp_path):
    def refuse(cfg):
        raise UserError("no")

    (tmp_path / "mine").mkdir()
    assert say(monkeypatch, main=refuse) == 2
    assert say(monkeypatch, "paths.outputs=mine/new", main=refuse) == 2
    assert say(monkeypatch, "hydra.run.dir=mine", main=refuse) == 2
    monkeypatch.chdir(tmp_path / "mine")
    assert say(monkeypatch, "hydra.run.dir=.", main=refuse) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    "words", [["--help"], ["sead=1"], ["-sc", "query=bash"], ["--cfg", "job", "--resolve"]], ids=lambda words: words[0]
)
def test_torch_is_not_loaded_where_it_is_not_needed(words):
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print([m for m in ('torch', 'lightning', 'numpy', 'matplotlib') "
        "if m in sys.modules])); sys.argv = ['train.py', *sys.argv[1:]]; "
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COMP_LINE": "train.py sched"}
    output = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=60)
    assert output.stdout.splitlines()[-1] == "[]", output.stderr


@pytest.mark.parametrize(
    ("line", "choices"), [("train.py schedule=", "schedule=cosine schedule=edm"), ("train.py optimizer.", "optimizer.lr=")]
)
def test_completion_works(line, choices):
    output = run(ROOT / "train.py", "-sc", "query=bash", COMP_LINE=line)
    assert choices in output.stdout


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_a_real_bad_command_line_ends_with_code_2_and_no_traceback(script, tmp_path):
    output = run(ROOT / script, "sampler.num_step=3")
    assert output.returncode == 2
    assert output.stderr == ("error: sampler.num_step=3: there is no key sampler.num_step. Did you mean sampler.num_steps?\n")
    assert list(tmp_path.iterdir()) == []


def make_run(folder):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (folder / "config.yaml").write_text("seed: 1\n")
    return folder


def content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_resume_goes_on_in_the_folder_of_the_run(monkeypatch, tmp_path):
    folder = make_run(tmp_path / "it's a=run, 2")
    seen = []
    say(monkeypatch, f"resume={quoted(str(folder))}", main=lambda cfg: seen.append(cfg.run_dir) or {})
    assert seen == [str(folder)]


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("checkpoints/last.ckpt", "this run left no checkpoint"),
        ("config.yaml", "not the folder of a run"),
        (".", "there is no such folder"),
    ],
)
def test_what_cannot_be_resumed_is_refused_and_left_as_it_is(monkeypatch, capfd, tmp_path, missing, line):
    folder = make_run(tmp_path / "run")
    if missing == ".":
        folder = tmp_path / "elsewhere"
    else:
        (folder / missing).unlink()
        (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)  # from which alone a run goes on
    before = content(tmp_path)
    assert say(monkeypatch, f"resume={folder}") == 2
    (message,) = capfd.readouterr().err.splitlines()
    assert message.startswith(f"error: resume={folder}: {line}")
    assert content(tmp_path) == before


def test_the_run_that_is_called_as_one_resumes_is_named(monkeypatch, capfd, tmp_path):
    for name, label in (("a", "first"), ("b", "'first'"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"seed: 0\nname: {label}\n")
    assert say(monkeypatch, f"resume={tmp_path}/first") == 2
    line = f"there is no such folder; name=first is a label, of the run in {display_path(tmp_path / 'b')} and {display_path(tmp_path / 'a')}"
    assert capfd.readouterr().err == f"error: resume={tmp_path}/first: {line}\n"


def test_a_file_cannot_be_resumed(tmp_path):
    folder = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="is a file: give the folder of the run"):
        must_be_resumable(folder / "checkpoints" / "last.ckpt", "x")


def test_processes_started_from_outside_need_a_common_folder(monkeypatch, capfd):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert say(monkeypatch) == 2
    assert "give all of them the same hydra.run.dir=..." in capfd.readouterr().err
    assert say(monkeypatch, "hydra.run.dir=here") == 0


def test_a_new_run_leaves_another_run_s_folder_as_it_is(monkeypatch, capfd, tmp_path):
    folder = make_run(tmp_path / "run")
    before = content(folder)
    assert say(monkeypatch, f"hydra.run.dir={folder}", main=lambda cfg: claim(Path(cfg.run_dir)) or {}) == 2
    assert f"resume={folder}" in capfd.readouterr().err
    assert content(folder) == before


def test_of_two_runs_in_one_folder_at_once_exactly_one_wins(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from alphabar.runs.folders.run_dir import claim\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try: claim(Path(sys.argv[1])); print('mine')\n"
        "except ValueError as error: print('taken')"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    import time

    start = time.time() + 0.7
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(start)]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(process.communicate()[0].strip() for process in both) == ["mine", "taken", "taken", "taken"]


def test_only_the_first_process_of_a_run_claims(monkeypatch, tmp_path):
    claim(tmp_path / "run")
    monkeypatch.setenv("LOCAL_RANK", "1")
    claim(tmp_path / "run")


def test_sigterm_before_training_ends_the_process(tmp_path):
    script = tmp_path / "train.py"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("hydra: {output_subdir: null, run: {dir: out}}")
    script.write_text(
        "from alphabar.cli.command import command\nimport time\n"
        "@command('train')\ndef main(cfg):\n    print('here', flush=True)\n    time.sleep(60)\nmain()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in (143, -signal.SIGTERM)
    process.stdout.close()


def test_a_choice_in_a_folder_of_its_group_is_one(monkeypatch, shell, capsys):
    assert say(monkeypatch, "experiment=smoke/cascade_base", "data.root=x", "network.base_chanels=8") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no key network.base_chanels. Did you mean network.base_channels?" in line


@pytest.mark.parametrize("name", ["train", "sample", "evaluate"])
def test_help_describes_the_choices_of_a_group(monkeypatch, capfd, name):
    group = "metric" if name == "evaluate" else "sampler"
    app = App(ROOT / "conf", name)
    assert say(monkeypatch, "--help", group, app=app) == 0
    out = capfd.readouterr().out
    for choice in app.choices()[group]:
        assert f"\n  {choice} " in out
    if group == "sampler":
        assert "ddim                     Song et al. 2021; eta 0: deterministic, 1: DDPM\n" in out
        assert "    num_steps: 50\n" in out


def test_help_of_an_unknown_group_is_one_line(monkeypatch, capfd):
    assert say(monkeypatch, "--help", "samplr") == 2
    assert capfd.readouterr().err == "error: --help samplr: there is no group of this name. Did you mean sampler?\n"


def test_help_of_sampling_lists_the_keys_of_conditions(monkeypatch, capfd):
    assert say(monkeypatch, "--help", app=App(ROOT / "conf", "sample")) == 0
    out = capfd.readouterr().out
    assert all(f"{key}=" in out for key in ("labels", "prompt", "prompts", "negative", "stages", "images"))


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = f"{sys.executable} {ROOT / 'train.py'} --help sampler | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "sampler=CHOICE takes, with the keys that each sets:\n"
