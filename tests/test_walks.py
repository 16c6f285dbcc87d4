"""Documents whose commands build on each other, followed from the top in an empty folder, each on what the ones before have left."""

import json
import re
import subprocess

import pytest

import document_files
import documents
import runs

README = (runs.ROOT / "README.md").read_text()
SMOKE = (runs.ROOT / "docs" / "smoke.md").read_text()
LATER = {
    "train.py": ["trainer.max_steps=22"],
    "sample.py": ["num=3", "sampler.num_steps=3", "accelerator=cpu"],
    "evaluate.py": document_files.EVALUATION,
}
ENCODERS = dict.fromkeys(("smoke/cascade_base", "smoke/latent_text", "smoke/unclip_prior"), document_files.text)
ENCODERS["smoke/contrastive"] = document_files.contrastive
LEFT = {"sample.py": "images/*.png", "evaluate.py": "receipt.json"}
SUBCOMMANDS = {"report": "report.html", "record": "train.py"}  # what they print


def walk(script, words, folder):
    """Returns what a command of a document prints, which has to succeed."""
    code, out, err = runs.run(script, *words, cwd=folder)
    assert code == 0, f"{script} {' '.join(words)}\n{out}\n{err}"
    return out


def test_the_readme_from_its_first_command_on(tmp_path):
    """python train.py leaves what is promised, and every command on outputs/train/NAME goes on with it."""
    walk("train.py", [*runs.TINY, "report=true", "logger=csv", "trainer.accelerator=cpu", "trainer.max_steps=20"], tmp_path)
    (run,) = (tmp_path / "outputs" / "train").iterdir()
    section = re.search(r"^## What a run leaves\n\n(.*?)\n\n", README, re.MULTILINE | re.DOTALL)[1]
    promised = [name.rstrip("/") for name in documents.SPAN.findall(section) if not name.startswith("outputs")]
    assert len(promised) >= 9
    assert [name for name in promised if not list(run.rglob(name)) and not (run / name).exists()] == []

    later = [words for words in documents.commands_of(README) if any("outputs/train/NAME" in word for word in words)]
    assert {"resume", "checkpoint"} <= {documents.key(word) for words in later for word in words}
    for _, script, *words in later:
        words = [word.replace("outputs/train/NAME", str(run.relative_to(tmp_path))) for word in words]
        words = [word for word in words if documents.key(word) not in ("num", "sampler.num_steps", "trainer.max_steps")]
        words += [*runs.TINY, *runs.BRIEF, "logger=csv"] if documents.key(words[0]) == "init_from" else []
        out = walk(script, words if words[0] in SUBCOMMANDS else [*words, *LATER[script]], tmp_path)
        if words[0] in SUBCOMMANDS:
            assert SUBCOMMANDS[words[0]] in out
        elif script != "train.py":
            assert list((tmp_path / "outputs" / script.removesuffix(".py")).glob(f"*/{LEFT[script]}"))
    assert runs.checkpoint(run)["global_step"] == 22
    assert (run / "report.html").exists()


def test_everything_at_smoke_size(command, tmp_path):
    """docs/smoke.md: its pictures, then every command in its order."""
    (block,) = documents.blocks(SMOKE, "python")
    exec(block, {})
    metadata = tmp_path / "shapes" / "metadata.jsonl"
    entries = [json.loads(line) for line in metadata.read_text().splitlines()]
    assert {entry["text"] for entry in entries} == {f"a {c} {s}" for c in ("red", "green", "blue") for s in ("square", "circle")}
    for entry in entries:  # in words that the tiny encoder knows
        entry["text"] = "red cat" if "circle" in entry["text"] else "a dog"
    metadata.write_text("\n".join(map(json.dumps, entries)))

    steps = [words for words in documents.commands_of(SMOKE) if words[0] == "python"]
    for _, script, *words in steps:
        words = [re.sub("^prompt=.*", "prompt=red cat", word) for word in words]
        experiment = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), "")
        words += ENCODERS.get(experiment, list)()
        if words[0] in SUBCOMMANDS:
            walk(script, words, tmp_path)
        else:
            code, _, err = command(script.removesuffix(".py"), *words)
            assert code == 0, err
    left = {str(path.relative_to(tmp_path / "try").parts[0]) for path in (tmp_path / "try").rglob("last.ckpt")}
    assert left == {"base", "large", "autoencoder", "latent", "clip", "prior", "decoder"}
    for name in ("cascade", "latent_samples", "unclip"):
        assert len(list((tmp_path / "try" / name / "images").glob("*.png"))) == 4
    assert runs.checkpoint(tmp_path / "try" / "base")["global_step"] == 6
    assert (tmp_path / "try" / "base" / "report.html").exists()
    sizes = {path.stem for path in (runs.ROOT / "conf" / "experiment" / "smoke").glob("*.yaml")}
    assert sizes == {word.partition("experiment=smoke/")[2] for words in steps for word in words if "experiment=" in word}


def test_a_clone_has_every_file_that_is_here():
    """A file of the sources that .gitignore names exists here and in no clone."""
    if not (runs.ROOT / ".git").exists():
        pytest.skip("not a repository of git")
    listing = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", "src", "conf", "docs", "tests", "benchmarks"]
    ignored = subprocess.run(listing, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [name for name in ignored if "__pycache__/" not in name and ".egg-info/" not in name] == []
