"""Numbers as conditions: trained, guided, sampled and evaluated."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.data.sources.arrays import Arrays
from alphabar.data.sources.folder import Folder
from alphabar.diffusion.guidance import CFGDenoiser, Linear
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.errors import UserError
from alphabar.models.conditioners import VectorConditioner
from alphabar.models.conditioners.vector import Vector
from alphabar.sampling.conditions import dataset_conditions, prompt_conditions, read_vectors, vector_prompt
from oracle import ConditionalGaussianDenoiser, GuidedGaussian

VECTORS = np.random.RandomState(1).randn(48, 2).astype(np.float32) * [1, 30] + [0, 100]


def arrays(path):
    """An .npz file of flat images whose grey level is linear in the first number; the second says nothing."""
    level = np.clip(128 + 60 * VECTORS[:, 0], 0, 255).astype(np.uint8)
    np.savez(path, images=np.broadcast_to(level[:, None, None], (48, 8, 8)), vectors=VECTORS.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def trained():
    home = runs.shared("vectors", lambda folder: arrays(folder / "x.npz"))
    words = ["data=arrays", f"data.path={home / 'x.npz'}", "conditioner=vector", "guidance=classifier_free", "network=unet_tiny"]
    tiny = [*runs.TINY, "data.batch_size=16", "callbacks.samples.num=4", "optimizer.lr=5e-3", "features=pixels"]
    return runs.trained(*words, "trainer.max_steps=150", "callbacks.film=null", "callbacks.fid.num=8", tiny=tiny)


def measured(dropout=0.1):
    torch.manual_seed(0)
    conditioner = Vector(2, 4, dropout)
    conditioner.attach_vectors(torch.from_numpy(VECTORS).float())
    return conditioner


def test_vectors_are_standardised_by_the_training_images_and_dropped_in_training_alone():
    conditioner = measured(0.25)
    assert conditioner.mean.numpy() == pytest.approx(VECTORS.mean(0), rel=1e-5)
    assert conditioner.std.numpy() == pytest.approx(VECTORS.std(0), rel=1e-5)
    batch = {"vector": torch.ones(4000, 2)}
    dropped = (conditioner(batch)["vector"] == conditioner.null(1)["vector"]).all(1).float().mean()
    assert dropped == pytest.approx(0.25, abs=0.03)
    whole = conditioner.eval()(batch)["vector"]
    torch.testing.assert_close(whole, conditioner.from_prompts(["1, 1"])["vector"].expand(4000, -1))
    expected = conditioner.layers((torch.ones(2) - conditioner.mean) / conditioner.std)
    assert torch.allclose(whole[0], expected)


def test_a_number_that_is_always_the_same_does_no_harm():
    conditioner = Vector(1, 4)
    conditioner.attach_vectors(torch.full((5, 1), 7.0))
    assert (float(conditioner.mean), float(conditioner.std)) == (7, 1)


def test_every_image_has_the_condition_of_its_own_vector(tmp_path):
    images = Arrays(str(arrays(tmp_path / "x.npz"))).train_set
    conditioner = measured().eval()
    found = dataset_conditions(conditioner, images)([0, 5, len(images)])["vector"]
    prompts = [vector_prompt(images.vectors[place].tolist()) for place in (0, 5, 0)]
    assert torch.equal(found, conditioner.from_prompts(prompts)["vector"])


@pytest.mark.parametrize("prompt", ["1", "1, 2, 3", "1, nan", "1, two", ""])
def test_a_vector_of_another_length_or_of_no_numbers_is_refused(prompt):
    with pytest.raises(ValueError, match=r"^need 2 (finite )?numbers, "):
        measured().from_prompts([prompt])
    with pytest.raises(ValueError, match=r"^need vectors of 2 numbers, as in training, got 3$"):
        measured()({"vector": torch.zeros(1, 3)})


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt"])
def test_vectors_are_read_from_files(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, VECTORS[:3].astype(np.float32))
    else:
        path.write_text("\n".join(("," if suffix == ".csv" else " ").join(map(str, vector)) for vector in VECTORS[:3]))
    conditioner = measured()
    found = conditioner.from_prompts(read_vectors(str(path)))["vector"]
    assert torch.equal(found, conditioner({"vector": torch.from_numpy(VECTORS[:3]).float()})["vector"])


class LinearConditioner(VectorConditioner):
    """The exact condition of data N(0.25 v - 0.1, 0.1^2), and of N(0, 0.5^2) without one: cond["vector"] = (mean, std)."""

    def embed(self, vectors):
        return torch.stack([0.25 * vectors[:, 0] - 0.1, torch.full((len(vectors),), 0.1)], dim=1)

    def null(self, num):
        return {"vector": torch.tensor([[0.0, 0.5]]).expand(num, -1)}


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_samples_follow_a_gaussian_whose_mean_is_linear_in_the_vector(weight):
    """With the exact denoiser every trajectory ends where it must, with guidance, too; without, with the mean and std of the data."""
    schedule, conditioner, sampler = StraightSchedule(), LinearConditioner(1, 2), Heun(num_steps=200)
    vectors, num = (-1.0, 0.0, 2.0), 60
    conditions = prompt_conditions(conditioner, list(map(str, vectors)), "vectors")
    denoiser = CFGDenoiser(ConditionalGaussianDenoiser(schedule), Linear(weight=weight), conditioner.null(1))
    quantiles = torch.special.ndtri((torch.arange(num, dtype=torch.float64) + 0.5) / num)
    x_T = sampler.start(schedule, quantiles.repeat_interleave(3)[:, None])
    x = sampler.sample(denoiser, x_T, conditions(range(3 * num)))
    alpha, sigma = (value.double() for value in schedule(sampler.times(schedule)[0]))
    for place, vector in enumerate(vectors):
        mean, found = 0.25 * vector - 0.1, x[place::3]
        assert (found - GuidedGaussian(mean, 0.1, 0.5, weight).end(x_T[place::3], alpha, sigma)).abs().max() < 2e-3
        if weight == 1:
            assert [float(found.mean()), float(found.std())] == pytest.approx([mean, 0.1], abs=2e-3)


def test_a_run_learns_what_its_vectors_say(trained, command):
    """Grey levels of samples follow the first number; the grid shows the vectors, the checkpoint keeps mean and standard deviation."""
    config = runs.checkpoint(trained)["config"]
    assert config["vector_length"] == config["conditioner"]["length"] == 2
    assert (trained / "samples" / "step_0000150.png").exists()
    words = [f"checkpoint={trained}", "sampler.num_steps=20", "film=0", "num=6", "format=npz"]
    code, _, err = command("sample", *words, "vectors=[[-1,100],[0,100],[1,100]]", "hydra.run.dir=out")
    assert code == 0, err
    with np.load("out/images.npz") as file:
        levels = file["images"].reshape(2, 3, -1).mean((0, 2))
    assert (np.diff(levels) > 30).all()  # 68, 128, 188 in the data
    with open("out/labels.json") as file:
        assert list(json.load(file).values()) == ["-1.0, 100.0", "0.0, 100.0", "1.0, 100.0"] * 2
    code, _, err = command("sample", *words, "vector=[1,100]", "guidance=classifier_free", "hydra.run.dir=alone")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vector=[1,2,3]"], "error: vector: need 2 finite numbers, as in training, got 1.0, 2.0, 3.0"),
        (["vector=[1,nan]"], "error: vector: need finite numbers, got [1, nan]"),
        (["vector=5"], "error: vector: need 2 finite numbers, as in training, got 5.0"),
        (
            ["vector=[1,2]", "labels=3"],
            "error: inference: need one of labels, prompt, prompts, vector and vectors, got labels=3 vector=[1, 2]",
        ),
        (["vectors=missing.npy"], "error: vectors=missing.npy: cannot be read"),
        (["labels=3"], "error: labels=3: this model was not trained on classes (conditioner=class_label)"),
    ],
)
def test_wrong_vectors_end_in_one_line(trained, command, words, message):
    code, _, err = command("sample", f"checkpoint={trained}", *words)
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_models_and_data_without_vectors_say_so(command):
    code, _, err = command("sample", f"checkpoint={runs.trained(*runs.BRIEF)}", "vector=[1]")
    assert (code, err) == (2, "error: vector=[1]: this model was not trained on vectors (conditioner=vector)\n")
    code, _, err = command("train", "conditioner=vector")
    assert (code, err) == (2, "error: conditioner=vector needs images with vectors, and these data have none\n")


def pictures(folder):
    for index in range(10):
        Image.new("L", (8, 8), 20 * index).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_vectors_of_a_folder_are_columns_of_its_metadata(tmp_path, table):
    rows = [{"file_name": f"{index}.png", "age": index, "name": "x", "height": -index / 4} for index in range(10)]
    if table == "metadata.csv":
        lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
    else:
        lines = list(map(json.dumps, rows))
    (pictures(tmp_path) / table).write_text("\n".join(lines))
    data = Folder(str(tmp_path), 8, channels=1, held_out=0.3, vector_keys=["height", "age"], caption_key=None)
    assert data.source.vector_length == 2
    for images in (data.train_set, data.held_out_set):
        batch = images.batch(torch.arange(len(images)))
        index = batch["image"][:, 0, 0, 0].float() / 20
        assert batch["vector"].equal(torch.stack([-index / 4, index], dim=1))
    others = Folder(str(tmp_path), 8, channels=1, held_out=0.3, vector_keys=["age", "height"], caption_key=None)
    assert data.source.fingerprint() != others.source.fingerprint()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file_name,age", *(f"{index}.png,{index}" for index in range(9))], "has no line about 9.png"),
        (
            ["file_name,age", *(f"{index}.png,{'old' if index == 3 else 1}" for index in range(10))],
            "line 5: need a number under 'age', got 'old'",
        ),
        (["file_name,age", *(f"{index}.png,nan" for index in range(10))], "line .*: need a finite number under 'age', got nan"),
        (["file_name,size", *(f"{index}.png,1" for index in range(10))], "has no column 'age', only 'file_name', 'size'"),
        (None, r"data.vector_keys: need one table of .*, metadata.csv or metadata.jsonl, got none"),
    ],
)
def test_columns_that_are_no_vectors_end_in_one_line(tmp_path, lines, message):
    pictures(tmp_path)
    if lines is not None:
        (tmp_path / "metadata.csv").write_text("\n".join(lines))
    data = Folder(str(tmp_path), 8, vector_keys=["age"], caption_key=None)
    with pytest.raises(UserError, match=message):
        data.source.train()
