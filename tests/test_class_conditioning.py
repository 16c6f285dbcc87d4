"""Class-conditional models: trained, guided, sampled and evaluated."""

import json
import shutil
import sys

import evaluate
import pytest
import sample
import torch
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.data.sources.digits import DigitsSource
from alphabar.evaluation import receipt
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.sampling.conditions import dataset_conditions, expand_labels, prompt_conditions

FEATURES = (f"features.cache_dir={runs.CACHE}", "features.max_images=200")


def call(monkeypatch, script, *words):
    """The exit code of a command in this process."""
    main = {"sample": sample.main, "evaluate": evaluate.main}[script]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
    return execute(main.__wrapped__, App(runs.ROOT / "conf", script))


@pytest.fixture(scope="module")
def trained():
    return runs.trained("conditioner=class_label", "guidance=classifier_free", "trainer.max_steps=20")


@pytest.fixture(scope="module")
def unconditional():
    return runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"


def test_dropout_drops_the_condition_of_some_images_in_training_alone():
    torch.manual_seed(0)
    conditioner = ClassLabel(10, 4, dropout=0.25)
    batch = {"label": torch.zeros(4000, dtype=torch.int64)}
    null = conditioner.null(1)["vector"]
    dropped = (conditioner(batch)["vector"] == null).all(1).float().mean()
    assert dropped == pytest.approx(0.25, abs=0.03)
    assert torch.equal(conditioner.eval()(batch)["vector"], conditioner.from_prompts(["0"])["vector"].expand(4000, -1))


def test_every_image_has_the_condition_of_its_own_label():
    images = DigitsSource().train()
    conditioner = ClassLabel(10, 4).eval()
    conditions = dataset_conditions(conditioner, images)
    expected = conditioner.from_prompts([str(int(label)) for label in images.labels[[0, 5]]])["vector"]
    assert torch.equal(conditions([0, 5])["vector"], expected)
    assert torch.equal(conditions([len(images), len(images) + 5])["vector"], expected)
    assert dataset_conditions(Unconditional(), images)([0, 1]) is None


def test_labels_are_repeated_for_more_images():
    conditioner = ClassLabel(10, 4).eval()
    conditions = prompt_conditions(conditioner, ["3", "7"], "labels")
    assert torch.equal(conditions([0, 1, 2])["vector"], conditioner.from_prompts(["3", "7", "3"])["vector"])


@pytest.mark.parametrize(
    ("given", "words"),
    [(3, "3"), ("3", "3"), ([3, 5], "3 5"), ("all", "0 1 2 3"), ("0-2", "0 1 2"), (["1-2", 0], "1 2 0"), ("x", "x")],
)
def test_labels_are_spelt_out(given, words):
    assert expand_labels(given, list("0123")) == words.split()


@pytest.mark.parametrize(
    ("given", "words"),
    [("cat", "cat"), (["dog", "cat"], "dog cat"), ("all", "dog cat 7 1-2"), (2, "7"), (7, "7"), ("0-1", "dog cat"), ("1-2", "1-2")],
    ids=str,
)
def test_labels_are_names_of_classes_before_they_are_numbers(given, words):
    assert expand_labels(given, ["dog", "cat", "7", "1-2"]) == words.split()


def test_a_class_has_a_name_and_a_number():
    conditioner = ClassLabel(3, 4, names=["dog", "cat", "0"]).eval()
    by_name, by_number = (conditioner.from_prompts(prompts)["vector"] for prompts in (["dog", "cat", "0"], ["2", "1", "0"]))
    assert torch.equal(by_name, conditioner({"label": torch.arange(3)})["vector"])
    assert torch.equal(by_number[1:], by_name[1:])
    with pytest.raises(ValueError, match=r"^need labels 0..2 or dog, cat, 0, got cta. Did you mean cat\?$"):
        conditioner.from_prompts(["cta"])
    with pytest.raises(ValueError, match=r"^need as many names as classes, got 1 names, num_classes=3$"):
        ClassLabel(3, 4, names=["dog"])


@pytest.fixture(scope="module")
def named():
    """A run on two folders, one of whose names a configuration would resolve, and the folder of its images."""

    def make(home):
        for index in range(16):
            folder = home / ("fox", "${oc.env:HOME}", "red panda")[index % 3]
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (10 * index, 0, 0)).save(folder / f"{index}.png")

    photos = runs.shared("classes_with_names", make)
    words = [
        "data=folder",
        f"data.root={photos}",
        "data.resolution=8",
        "network=unet_tiny",
        "conditioner=class_label",
        "features=classifier",
    ]
    return runs.trained(*words, *runs.BRIEF, "data.held_out=0", tiny=[*runs.TINY, "data.batch_size=4"]), photos


def test_a_checkpoint_knows_its_classes_by_their_names(named, command):
    run, _ = named
    assert runs.checkpoint(run)["config"]["class_names"] == ["0", "fox", "red panda"]
    words = [f"checkpoint={run}", "sampler.num_steps=2", "film=0", "num=4", "hydra.run.dir=out"]
    code, _, err = command("sample", *words, "labels=[red panda,fox]")
    assert code == 0, err
    assert list(json.loads(open_text("out/labels.json")).values()) == ["red panda", "fox"] * 2
    code, _, err = command("sample", *words, "labels=red_panda")
    assert (code, err) == (2, "error: labels: need labels 0..2 or 0, fox, red panda, got red_panda. Did you mean red panda?\n")


def test_a_model_of_very_many_classes_knows_them_by_numbers_and_is_read_again(named, command, monkeypatch):
    _, photos = named
    monkeypatch.setattr("alphabar.training.run.MAX_NAMED_CLASSES", 2)
    words = ["data=folder", f"data.root={photos}", "data.resolution=8", "network=unet_tiny", "conditioner=class_label"]
    words = [*runs.words(*words, "features=classifier", *runs.BRIEF, folder="out", tiny=[*runs.TINY, "data.batch_size=4"])]
    code, _, err = command("train", *words)
    assert code == 0, err
    assert "3 classes are too many to keep their names: this model knows them by their numbers" in err
    config = runs.checkpoint("out")["config"]
    assert (config["class_names"], config["conditioner"]["names"], config["num_classes"]) == (None, None, 3)


def test_a_configuration_that_could_not_be_read_again_is_refused_before_the_first_step(command, tmp_path):
    code, _, err = command("train", *runs.words("data.batch_size=100000", folder="out"))
    assert (code, err) == (2, "error: data.batch_size: expected a number up to 65,536, got 100000\n")
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_judged_by_other_classes(named, command, tmp_path):
    run, photos = named
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "fox").rename(tmp_path / "photos" / "foxes")
    code, _, err = command("evaluate", f"checkpoint={run}", "data_root=photos", "num=4", "features=inception")
    assert (code, err) == (2, "error: checkpoint: this model was trained on other classes: the class fox is foxes in these data\n")


def test_grids_have_a_row_for_each_class(trained, monkeypatch, shell):
    with Image.open(trained / "samples" / "step_0000020.png") as picture:
        assert picture.height > 3 * picture.width  # num=4 in tests: one column of ten classes
    assert call(monkeypatch, "sample", f"checkpoint={trained}/checkpoints/last.ckpt", "labels=all", "num=30", "hydra.run.dir=out",
                "sampler.num_steps=2", "guidance=classifier_free") == 0  # fmt: skip
    with Image.open("out/grid.png") as picture:
        assert picture.height == 10 * 52 + 4
        assert picture.width > 3 * 52 + 4  # names, left of the rows
    assert json.loads(open_text("out/labels.json"))["000013.png"] == "3"


def open_text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def test_an_image_depends_on_its_label_and_its_index_alone(trained, monkeypatch, shell, tmp_path):
    checkpoint = f"checkpoint={trained}/checkpoints/last.ckpt"
    for name, words in {"all": ["labels=all", "num=10"], "some": ["labels=[0,1,2,3]", "num=4"], "other": ["labels=[5]", "num=4"],
                        "w1": ["labels=all", "num=10", "guidance.weight=1"], "none": ["labels=all", "num=10", "guidance=none"]}.items():  # fmt: skip
        guidance = [] if name == "none" else ["guidance=classifier_free"]
        words = [checkpoint, "sampler.num_steps=3", "film=0", "batch_size=4", *guidance, *words, f"hydra.run.dir={name}"]
        assert call(monkeypatch, "sample", *words) == 0
    pixels = {
        name: [runs.pixels(tmp_path / name / "images" / f"{i:06d}.png") for i in range(4)] for name in ("all", "some", "other")
    }
    assert pixels["all"] == pixels["some"]
    assert pixels["all"] != pixels["other"]
    for index in range(10):
        file = f"{index:06d}.png"
        assert runs.pixels(tmp_path / "w1" / "images" / file) == runs.pixels(tmp_path / "none" / "images" / file)


def test_figures_name_guidance_and_count_the_hits(trained, monkeypatch, shell, tmp_path):
    words = [f"checkpoint={trained}/checkpoints/last.ckpt", "num=70", "sampler.num_steps=2", "guidance=classifier_free", *FEATURES]
    assert call(monkeypatch, "evaluate", *words, "guidance.weight=1.5", "hydra.run.dir=out") == 0
    found = receipt.read_receipt(tmp_path / "out")
    accuracy = next(figure for figure in found.figures if figure.metric == "accuracy")
    assert accuracy.name == "accuracy/n70-classifier-ema-ddim2-cfg1.5"
    assert 0 <= accuracy.mean <= 1
    assert accuracy.floor > 0.8
    assert found.protocol["guidance"]["weight"] == 1.5
    assert found.run["network_evaluations"] == 4  # two passes a step


def test_autoguidance_by_an_earlier_checkpoint(trained, monkeypatch, shell):
    checkpoint = f"checkpoint={trained}/checkpoints/last.ckpt"
    words = [checkpoint, "num=4", "labels=3", "sampler.num_steps=2", "guidance=autoguidance", "guidance.weights=raw", "film=0"]
    assert call(monkeypatch, "sample", *words, "hydra.run.dir=out") == 0


def test_likelihood_and_editing_of_a_model_with_classes(trained, monkeypatch, shell):
    checkpoint = f"checkpoint={trained}/checkpoints/last.ckpt"
    assert call(monkeypatch, "evaluate", checkpoint, "metric=bpd", "num=4", "bpd_steps=2", "bpd_terms=2", "hydra.run.dir=bpd") == 0
    for task in ("encode", "inpaint", "image_to_image", "interpolate"):
        words = [checkpoint, f"task={task}", "num=2", "sampler.num_steps=3", "labels=[1]", f"hydra.run.dir={task}"]
        assert call(monkeypatch, "sample", *words) == 0, task


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        ("sample", ["labels=10"], "labels: need labels 0..9, got 10"),
        ("sample", ["labels=cat"], "labels: need labels 0..9, got cat"),
        ("sample", ["guidance=classifier_free", "guidance.interval=[0.5]"], "need interval=[low,high]"),
        ("sample", ["guidance=classifier_free", "guidance.interval=[0.5,0.2]"], "need 0 <= low < high <= 1"),
        ("sample", ["guidance=classifier_free", "guidance.rescale=2"], "rescale"),
        ("sample", ["guidance=autoguidance", "guidance.checkpoint=nowhere"], "checkpoint=nowhere: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(trained, monkeypatch, shell, capsys, script, words, complaint):
    assert call(monkeypatch, script, f"checkpoint={trained}/checkpoints/last.ckpt", *words, "hydra.run.dir=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_an_unconditional_model_takes_no_labels_and_no_guidance(unconditional, monkeypatch, shell, capsys):
    for words, part in (
        (["labels=3"], "labels=3: this model was not trained on classes"),
        (["guidance=classifier_free"], "guidance: this model was trained without a condition (conditioner=unconditional)"),
    ):
        assert call(monkeypatch, "sample", f"checkpoint={unconditional}", *words, "hydra.run.dir=out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line


def test_images_without_classes_are_refused(tmp_path):
    (tmp_path / "flat").mkdir()
    for index in range(20):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "flat" / f"{index}.png")
    words = ["data=folder", "data.root=flat", "data.resolution=8", "network=unet_tiny", "conditioner=class_label", "logger=csv"]
    code, _, err = runs.run("train.py", *words, "hydra.run.dir=out", cwd=tmp_path)
    assert code == 2
    assert err.splitlines()[-1] == "error: conditioner=class_label needs images with classes, and these data have none"
    assert not (tmp_path / "out").exists()
