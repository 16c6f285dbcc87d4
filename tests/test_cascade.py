"""Models that follow each other: trained by the experiments of the cascade at smoke size, sampled from and judged."""

import json
import sys

import evaluate
import pytest
import sample
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import runs
import tiny_texts
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.evaluation import receipt

MAINS = {"sample": sample.main, "evaluate": evaluate.main}
FEATURES = (f"features.cache_dir={runs.CACHE}", "features.max_images=200")
PROMPT = ("prompt=a red heart", "guidance=classifier_free", "guidance.weight=3")


def call(script, *words):
    """The exit code of a command in this process."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *words])
        return execute(MAINS[script].__wrapped__, App(runs.ROOT / "conf", script))


def make(folder):
    tiny_texts.make("bert", folder / "bert")
    lines = []
    for kind, colour in {"cat": (200, 180, 20), "heart": (220, 20, 40)}.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for index in range(30):
            image = Image.new("RGB", (20, 20), "white")
            image.paste(colour, (2, 2, 6 + index % 12, 18))
            image.save(folder / "photos" / kind / f"{index}.png")
            lines.append(json.dumps({"file_name": f"{kind}/{index}.png", "text": f"a red {kind}"}))
    (folder / "photos" / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def home():
    """A folder with images of two classes, with captions, and a text encoder."""
    return runs.shared("cascade", make)


def trained(home, experiment, *words):
    quick = ("lr_scheduler.warmup_steps=0", "optimizer.lr=0.03")  # so that a few steps leave a trace
    data = (f"data.root={home / 'photos'}", "logger=csv", *quick)
    return runs.finished("train.py", f"experiment=smoke/{experiment}", *data, *words) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def base(home):
    encoder = (
        f"conditioner.encoder.name={home / 'bert'}",
        "conditioning.tokens=8",
        f"conditioner.cache_dir={runs.CACHE}/cascade-cache",
    )
    return trained(home, "cascade_base", *encoder)


@pytest.fixture(scope="module")
def classes(home):
    """Another first model, which is conditioned on classes."""
    words = ("conditioner=class_label", "data.caption_key=null", "callbacks.film=null")
    return trained(home, "cascade_base", *words)


@pytest.fixture(scope="module")
def larger(home):
    return trained(home, "cascade_super_resolution")


def draw(folder, checkpoint, *words):
    settings = ("sampler.num_steps=3", "film=0", "weights=raw", f"hydra.run.dir={folder}")
    assert call("sample", f"checkpoint={checkpoint}", *settings, *words) == 0
    return pixels(folder / "images")


def pixels(folder):
    files = sorted(folder.iterdir())
    return torch.stack([torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8).int() for file in files])


def width(path):
    with Image.open(path) as image:
        return image.width


def test_a_run_shows_the_conditions_of_its_samples(base, larger):
    for checkpoint in (base, larger):
        (last,) = (checkpoint.parents[1] / "samples").glob("step_0000004.png")
        assert width(last) > 3 * 52  # captions, or what the model sees and what the picture was


def test_a_prompt_goes_through_both_models(base, larger, shell, tmp_path):
    drawn = draw(tmp_path / "out", larger, f"stages=[{base}]", "num=3", *PROMPT)
    assert drawn.shape == (3, 16 * 16 * 3)
    pair = 2 * (48 + 2) + 2
    assert width(tmp_path / "out" / "grid.png") >= 4 + 2 * (pair + 4)  # two columns, as wide as their captions if these are wider
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["000002.png"] == "a red heart"
    other = draw(tmp_path / "other", larger, f"stages=[{base}]", "num=3", "prompt=a cat", *PROMPT[1:])
    assert (drawn != other).any()


def test_an_image_depends_on_seed_and_index_alone(base, larger, shell, tmp_path):
    words = (f"stages=[{base}]", *PROMPT)
    drawn = draw(tmp_path / "all", larger, "num=4", *words)
    few = draw(tmp_path / "few", larger, "num=3", "batch_size=2", *words)
    assert (drawn[:3] - few).abs().max() <= 1
    assert (draw(tmp_path / "seed", larger, "num=4", "seed=1", *words) - drawn).abs().max() > 1
    assert (drawn[0] - drawn[1]).abs().max() > 1


def test_two_processes_draw_the_same(base, larger, shell, tmp_path):
    words = (f"stages=[{base}]", "num=5", "batch_size=2", "accelerator=cpu", *PROMPT)
    draw(tmp_path / "1", larger, *words)
    more = (f"checkpoint={larger}", "devices=2", "sampler.num_steps=3", "film=0", "weights=raw", f"hydra.run.dir={tmp_path / '2'}")
    code, _, err = runs.run("sample.py", *words, *more, cwd=tmp_path)
    assert code == 0, err
    for name in ("grid.png", "images/000003.png", "images/000004.png"):
        assert runs.pixels(tmp_path / "1" / name) == runs.pixels(tmp_path / "2" / name)


def test_a_later_model_alone_takes_held_out_images_or_files(home, larger, shell, tmp_path):
    held_out = draw(tmp_path / "held_out", larger, "num=4")
    assert held_out.shape == (4, 16 * 16 * 3)
    assert width(tmp_path / "held_out" / "grid.png") == 4 + 2 * (3 * (48 + 2) + 2 + 4)  # seen, made, original
    one = draw(tmp_path / "one", larger, "num=2", f"images={home / 'photos' / 'cat' / '0.png'}")
    assert (one[0] != one[1]).any()  # of one picture, two
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (8, 8), "green").save(small / "a.png")
    draw(tmp_path / "low", larger, "num=1", f"images={small}")
    assert width(tmp_path / "low" / "grid.png") == 4 + 2 * (48 + 2) + 2 + 4  # as an earlier model makes it: there is no original


def test_classes_go_through_both_models_and_have_a_row_each(classes, larger, shell, tmp_path):
    draw(tmp_path / "out", larger, f"stages=[{classes}]", "num=6", "labels=all")
    with Image.open(tmp_path / "out" / "grid.png") as image:
        assert image.height == 4 + 2 * 52
        assert image.width > 4 + 3 * (2 * 50 + 6)


def test_tasks_tell_the_model_of_the_images_themselves_or_refuse(larger, shell, tmp_path, capsys):
    for task in ("encode", "image_to_image"):
        words = (f"checkpoint={larger}", f"task={task}", "num=2", "sampler.num_steps=2", f"hydra.run.dir={tmp_path / task}")
        assert call("sample", *words) == 0
    capsys.readouterr()
    for task in ("inpaint", "interpolate"):
        assert call("sample", f"checkpoint={larger}", f"task={task}", f"hydra.run.dir={tmp_path / task}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"task={task}: this model is conditioned on images" in line
        assert not (tmp_path / task).exists()


def test_one_model_and_the_whole_cascade_are_judged(base, classes, larger, shell, tmp_path):
    few = ("num=8", "sampler.num_steps=1", "metric=fid", "statistics.fid.allow_few=true")
    words = (f"checkpoint={larger}", *few, *FEATURES)
    names = {}
    for name, stages in {"alone": [], "base": [f"stages=[{base}]"], "classes": [f"stages=[{classes}]"]}.items():
        assert call("evaluate", *words, *stages, f"hydra.run.dir={tmp_path / name}") == 0
        found = receipt.read_receipt(tmp_path / name)
        names[name] = next(figure.name for figure in found.figures if figure.metric == "fid")
        assert found.run["network_evaluations"] == (1 if name == "alone" else 2)
        assert ("stages" in found.protocol) == (name != "alone")
    assert names["base"] == names["alone"] + "-cascade2"
    base_stages, class_stages = (receipt.read_receipt(tmp_path / name).protocol["stages"] for name in ("base", "classes"))
    assert base_stages != class_stages
    assert receipt.read_receipt(tmp_path / "base").identity["stages"][0]["checkpoint"] == str(base)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["checkpoint={base}", "stages=[{larger}]"],
            "stages: {base} cannot follow {larger}: it is conditioned on no images (it has Text)",
        ),
        (
            ["checkpoint={larger}", "stages=[{larger}]"],
            "stages: {larger} cannot follow {larger}: need a stage that makes images of 3 x 8 x 8, got 3 x 16 x 16",
        ),
        (["checkpoint={larger}", "prompt=a cat"], "prompt: conditioner=low_resolution is conditioned on images"),
        (["checkpoint={larger}", "labels=1"], "labels=1: this model was not trained on classes"),
        (["checkpoint={larger}", "guidance=classifier_free"], "guidance: this model was never trained to do without its condition"),
        (
            ["checkpoint={larger}", "stages=[{classes}]", "guidance=classifier_free", "negative=dog"],
            "negative: need labels 0..1 or cat, heart, got dog",
        ),
        (["checkpoint={larger}", "stages=[nowhere]"], "stages=nowhere: no such file"),
        (["checkpoint={base}", "images=nowhere"], "images=nowhere: this model is not conditioned on images (it has Text)"),
        (["checkpoint={larger}", "images=nowhere"], "images=nowhere: there is no such file or folder"),
        (["checkpoint={larger}", "stages=[{base}]", "images=nowhere"], "images=nowhere: this model is not conditioned on images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(base, larger, classes, shell, tmp_path, capsys, words, complaint):
    paths = {"base": base, "larger": larger, "classes": classes}
    capsys.readouterr()
    assert call("sample", *(word.format(**paths) for word in words), f"hydra.run.dir={tmp_path / 'out'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint.format(**paths) in line
    assert not (tmp_path / "out").exists()
