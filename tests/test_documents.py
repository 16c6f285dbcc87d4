"""Every command that a document shows is composed as it stands, and runs with tiny models and files.

A command that is added to a document is found and run without a change here.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import document_files
import documents
import runs

WALKS = {"smoke.md": "test_walks.py", "extending.md": "test_mylab.py"}  # documents whose commands another test runs in their order
COMMANDS = [command for command in documents.commands() if command.document not in WALKS]
SCRIPTS = {
    name: [command for command in COMMANDS if command.script == f"{name}.py"] for name in ("train", "sample", "evaluate", "prepare")
}
# Composed, and not run, with the reason.
COMPOSED_ONLY = {"data.name=CIFAR10": "torchvision compares its 170 MB with a hash"}
# Neither: run by other tests.
ELSEWHERE = {
    "sweep.resume=outputs/sweeps/NAME": "test_sweep_resume.py has sweeps that stopped",
}
NUMBERS = ("num", "sampler.num_steps", "trainer.max_steps", "trainer.devices", "network")  # what smoke sizes leave out
BRIEF = ("trainer.max_steps=2", "report=false", "logger=csv", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=1")
LOOKS = ("callbacks.samples=null", "callbacks.film=null", "callbacks.fid=null", "callbacks.curves=null")
NETWORK = ("network.base_channels=8", "++network.norm_groups=4", "data.batch_size=4", "callbacks.held_out_loss.num=4")
SUBCOMMANDS = ("compare", "report", "record")
REPLACED = {*NUMBERS, *map(documents.key, (*BRIEF, *NETWORK))}
CHANGED = {*REPLACED, "experiment", "ema_length"}


def is_among(command, some):
    return any(word in command.words for word in some)


def named(commands):
    return [pytest.param(command, id=str(command)) for command in commands if not is_among(command, ELSEWHERE)]


def different(commands):
    """Returns the commands without those that are, at a smoke size, the same as an earlier one."""
    first = {}
    for command in commands:
        words = without(document_files.marked(documents.jobs(command.arguments)[0]), REPLACED)
        first.setdefault(frozenset(re.sub("^ema_length=.*", "ema_length", word) for word in words), command)
    return list(first.values())


def run(command, shown, words):
    """Returns what a document's command prints when it is run with these words.

    It is run in this process, unless it has a subcommand, or a profiler that warns when it is deleted.
    """
    if words[0] in SUBCOMMANDS or any(word.startswith("profiler=") for word in words):
        code, out, err = runs.run(shown.script, *words, cwd=".")
    else:
        code, out, err = command(shown.script.removesuffix(".py"), *words)
    assert code == 0, f"{' '.join(words)}\n{err}"
    return out


def without(words, keys):
    return [word for word in words if documents.key(word) not in keys]


def is_changed(command):
    """Returns whether a command is run with other words than its own: a smaller size, one job of a sweep, or not at all."""
    is_run = command in different(SCRIPTS[command.script.removesuffix(".py")]) and not is_among(command, COMPOSED_ONLY)
    is_sweep = len(documents.jobs(command.arguments)) > 1
    return not is_run or is_sweep or any(documents.key(word) in CHANGED for word in command.arguments)


@pytest.mark.parametrize("shown", named(filter(is_changed, [*SCRIPTS["train"], *SCRIPTS["sample"], *SCRIPTS["evaluate"]])))
def test_a_command_is_a_good_one_as_it_stands(shown, monkeypatch, capsys):
    app = runs.App(runs.ROOT / "conf", shown.script.removesuffix(".py"))
    for words in documents.jobs(shown.arguments):
        words = document_files.filled(words)  # checkpoints and runs are looked at before anything else
        if not {*words[:1]} & {*SUBCOMMANDS}:
            assert runs.say(monkeypatch, *words, app=app) == 0, capsys.readouterr().err


@pytest.mark.parametrize("shown", named(different(SCRIPTS["train"])))
def test_training(command, shown, tmp_path):
    words = smoke_training(documents.jobs(shown.arguments)[0], tmp_path)
    run(command, shown, words)
    assert "--help" in words or list(tmp_path.rglob("last.ckpt"))


def smoke_training(words, tmp_path):
    """Returns the arguments of a training of two steps; an experiment that has a smoke size takes it."""
    words = document_files.filled(words)
    experiment = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), "")
    if "--help" in words:
        return words
    if "debug=default" in words:  # is small already, and has none of the callbacks that others are made small by
        return [*words, *NETWORK[:3], f"hydra.run.dir={tmp_path / 'run'}"]
    if any(word.startswith("resume=") and word != "resume=auto" for word in words):
        shutil.copytree(runs.trained(*runs.BRIEF), tmp_path / "run")
        return [f"resume={tmp_path / 'run'}", "trainer.max_steps=3"]
    text = document_files.text() if is_text(words, experiment) else []
    here = f"hydra.run.dir={tmp_path / 'run'}"
    if (runs.ROOT / "conf" / "experiment" / "smoke" / f"{experiment}.yaml").exists():
        more = document_files.contrastive() if experiment == "contrastive" else []
        more += [f"codec.cache_dir={tmp_path}"] if experiment in ("unclip_prior", "latent_text") else []
        return [word.replace("experiment=", "experiment=smoke/") for word in words] + [*text, *more, here, *BRIEF]
    network = NETWORK[2:] if experiment == "simple_unet" else NETWORK
    return [*without(words, NUMBERS), *text, *network, *LOOKS, *BRIEF, here]


def is_text(words, experiment):
    return "conditioner=text" in words or experiment in ("cascade_base", "latent_text", "unclip_prior")


@pytest.mark.parametrize("shown", named(different(SCRIPTS["sample"])))
def test_sampling(command, shown, tmp_path):
    words = [*without(document_files.filled(shown.arguments), NUMBERS), "num=2", "sampler.num_steps=3"]
    words += ["task.num_resamples=1", "task.jump_length=1"] if "task=inpaint" in words else []
    out = run(command, shown, [*words, "accelerator=cpu", f"hydra.run.dir={tmp_path / 'out'}"])
    assert list((tmp_path / "out" / "images").glob("*.png")), out


@pytest.mark.parametrize("shown", named(different(SCRIPTS["evaluate"])))
def test_evaluating(command, shown, tmp_path):
    if is_among(shown, COMPOSED_ONLY):
        pytest.skip(next(reason for word, reason in COMPOSED_ONLY.items() if word in shown.words))
    words = document_files.filled(documents.jobs(shown.arguments)[0])
    if words[0] == "report":
        shutil.copytree(words[1], tmp_path / "run")
        words[1] = str(tmp_path / "run")
    elif words[0] not in SUBCOMMANDS:
        words = smoke_evaluation(words, tmp_path)
    assert run(command, shown, words)


@pytest.mark.parametrize("shown", named(SCRIPTS["prepare"]))
def test_preparing(command, shown, tmp_path):
    words = document_files.filled(without(shown.arguments, ["to"]))
    assert "written" in run(command, shown, [*words, f"to={tmp_path / 'out'}"])
    assert (tmp_path / "out" / "manifest.json").is_file()


def smoke_evaluation(words, tmp_path):
    """Returns the arguments of an evaluation of a few images."""
    words = [*without(words, NUMBERS), f"hydra.run.dir={tmp_path / 'out'}", "accelerator=cpu"]
    if "ema_length" in map(documents.key, words):
        words = [*without(words, ["ema_length"]), "ema_length=0.1"]  # in reach of so short a run
    if "metric=bpd" in words:
        return [*words, "num=2", "bpd_steps=2", "bpd_terms=2"]
    if any(word.startswith("checkpoint=") for word in words):
        words += ["num=8", "batch_size=8", "sampler.num_steps=2"]
    if "features=contrastive" not in words:
        words += ["features=classifier", "features.max_images=200", "features.max_side=8", f"features.cache_dir={runs.CACHE}"]
    return [*words, "statistics.fid.allow_few=true"]


def test_no_shell_takes_a_word_for_a_pattern():
    """zsh stops with "no matches found" where brackets are not in quotes: in documents, in --help and in the notes of experiments."""
    shown = [(file.name, line) for file in documents.FILES for line in documents.typed(file.read_text())]
    notes = [(file, line) for file in (runs.ROOT / "conf").rglob("*.yaml") for line in file.read_text().splitlines()]
    shown += [(str(file), re.split(r"\s{2,}", line[line.index("python ") :])[0]) for file, line in notes if "python " in line]
    assert len(shown) > 200
    assert [(name, line) for name, line in shown if documents.patterns(line)] == []


@pytest.mark.parametrize("target", sorted({command.words[1] for command in COMMANDS if command.words[0] == "make"}))
def test_a_target_of_make_exists(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_of_a_kind_that_is_tested():
    """Those of benchmarks are in test_benchmarks.py, and the program `python -m alphabar` in test_program.py."""
    for command in COMMANDS:
        if command.words == ("python", "-m", "alphabar"):
            continue
        assert command.words[0] in ("python", "make"), command
        assert command.script == "" or re.fullmatch(r"(train|sample|evaluate|prepare|benchmarks/\w+)\.py", command.script), command
        assert Path(runs.ROOT / command.script).exists(), command
