"""`python sample.py task=...`, from a checkpoint to pictures."""

import importlib
import sys

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.sampling.tasks.mask import known_pixels


@pytest.fixture(scope="module", params=["ddpm", "edm", "flow"])
def trained(request):
    return runs.trained(*runs.BRIEF, f"method={request.param}") / "checkpoints" / "last.ckpt"


@pytest.fixture
def sample(monkeypatch, tmp_path, capsys):
    """Runs sample.py in this process, away from the repository: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sample.py", "sampler.num_steps=4", *words])
        code = execute(importlib.import_module("sample").main.__wrapped__, App(runs.ROOT / "conf", "sample"))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["task=encode", "num=3"], ["original", "noise", "reconstruction"]),
        (["task=interpolate", "num=3", "task.num_frames=3"], ["frame00", "frame01", "frame02"]),
        (["task=interpolate", "num=3", "task.num_frames=2", "task.between=noise"], ["frame00", "frame01"]),
        (["task=image_to_image", "num=3", "task.strengths=[0.5,1]"], ["original", "strength0.5", "strength1"]),
        (
            ["task=inpaint", "num=3", "task.num_fillings=2", "task.mask=left", "task.num_resamples=2"],
            ["original", "masked", "filling0", "filling1"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_task_leaves_a_row_for_every_image(sample, trained, tmp_path, words, columns):
    code, out, err = sample(f"checkpoint={trained}", f"hydra.run.dir={tmp_path / 'new'}", *words)
    assert code == 0, err
    names = {path.name for path in (tmp_path / "new" / "images").iterdir()}
    assert names == {f"{row:06d}_{column}.png" for row in range(3) for column in columns}
    assert (tmp_path / "new" / "grid.png").exists()
    assert "3 rows" in out
    if "task=encode" in words:
        assert np.load(tmp_path / "new" / "latents.npz")["latents"].shape == (3, 1, 8, 8)
        assert "grey levels" in out
    if "task=inpaint" in words:
        for row in range(3):
            pixels = [np.asarray(Image.open(tmp_path / "new" / "images" / f"{row:06d}_{name}.png")) for name in columns]
            assert (pixels[0][:, 4:] == pixels[2][:, 4:]).all()
            assert (pixels[0][:, 4:] == pixels[3][:, 4:]).all()
            assert (pixels[2][:, :4] != pixels[3][:, :4]).any()


@pytest.mark.parametrize("trained", ["flow"], indirect=True)
@pytest.mark.parametrize("task", ["encode", "interpolate", "image_to_image", "inpaint"])
def test_a_row_depends_on_the_seed_and_its_index_alone(sample, trained, tmp_path, task):
    """But for the last bit of a float, which a batch of another size may move, and that a byte by one."""
    words = (f"checkpoint={trained}", f"task={task}", "sampler=heun", *(["task.num_resamples=2"] if task == "inpaint" else []))
    for name, *more in (("all", "num=4"), ("few", "num=3", "batch_size=2"), ("other", "num=3", "seed=1")):
        code, _, err = sample(*words, *more, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, err
    pixels = {}
    for name in ("all", "few", "other"):
        files = sorted((tmp_path / name / "images").glob("00000[012]_*.png"))
        pixels[name] = np.stack([np.asarray(Image.open(file)).astype(int) for file in files])
    assert np.abs(pixels["few"] - pixels["all"]).max() <= 1
    is_drawn = task in ("image_to_image", "inpaint")
    assert (np.abs(pixels["other"] - pixels["all"]).max() > 1) == is_drawn


@pytest.mark.parametrize("trained", ["flow"], indirect=True)
def test_frames_lead_from_the_samples_of_one_seed_to_those_of_the_next(sample, trained, tmp_path):
    words = (f"checkpoint={trained}", "num=3", "sampler=euler")
    for name, *more in (
        ("frames", "task=interpolate", "task.between=noise", "task.num_frames=3", "seed=4"),
        ("first", "seed=4", "film=0"),
        ("last", "seed=5", "film=0"),
    ):
        code, _, err = sample(*words, *more, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, err
    for row in range(3):
        for frame, end in (("frame00", "first"), ("frame02", "last")):
            drawn, wanted = (
                np.asarray(Image.open(tmp_path / folder / "images" / f"{row:06d}{name}.png")).astype(int)
                for folder, name in (("frames", f"_{frame}"), (end, ""))
            )
            assert np.abs(drawn - wanted).max() <= 1


@pytest.mark.parametrize("trained", ["edm"], indirect=True)
def test_one_and_two_processes_leave_the_same(trained, tmp_path):
    words = (f"checkpoint={trained}", "task=encode", "accelerator=cpu", "num=5", "batch_size=2", "sampler.num_steps=3")
    for devices in (1, 2):
        code, out, err = runs.run(
            "sample.py", *words, f"devices={devices}", f"hydra.run.dir={tmp_path / str(devices)}", cwd=tmp_path
        )
        assert code == 0, err
        assert out.count("5 rows") == 1
    one, two = (sorted(path for path in (tmp_path / str(devices)).rglob("*.png")) for devices in (1, 2))
    assert len(one) == 16
    assert [path.name for path in one] == [path.name for path in two]
    assert all(runs.pixels(a) == runs.pixels(b) for a, b in zip(one, two, strict=True))
    one, two = (np.load(tmp_path / str(devices) / "latents.npz")["latents"] for devices in (1, 2))
    assert (one == two).all()


def test_a_mask_is_read_as_images_are_but_without_new_values(tmp_path):
    """Of any size, the centred square of it, black where it is to be filled in."""
    mask = Image.new("RGB", (48, 32), "white")
    mask.paste((0, 0, 0), (0, 0, 24, 16))
    mask.save(tmp_path / "mask.png")
    known = known_pixels(str(tmp_path / "mask.png"), 8, 8)
    assert known.shape == (1, 8, 8)
    assert not known[0, :4, :4].any()
    assert known[0, 4:].all()
    assert known[0, :, 4:].all()
    assert known_pixels("center", 8, 8).sum() == 48
    for word, hidden in {"left": np.s_[:, :4], "right": np.s_[:, 4:], "top": np.s_[:4], "bottom": np.s_[4:]}.items():
        assert not known_pixels(word, 8, 8)[0][hidden].any()
        assert known_pixels(word, 8, 8).sum() == 32


@pytest.mark.parametrize("trained", ["flow"], indirect=True)
def test_own_images_and_an_own_mask(sample, trained, tmp_path):
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "photo.jpg")
    mask = Image.new("L", (16, 16), 255)
    mask.paste(0, (0, 0, 16, 8))
    mask.save(tmp_path / "mask.png")
    words = (f"checkpoint={trained}", "task=inpaint", "images=photo.jpg", "task.mask=mask.png", "task.num_resamples=1")
    code, out, err = sample(*words, f"hydra.run.dir={tmp_path / 'new'}")
    assert code == 0, err
    assert "1 rows" in out
    original, filling = (
        np.asarray(Image.open(tmp_path / "new" / "images" / f"000000_{name}.png")) for name in ("original", "filling0")
    )
    assert (original[4:] == filling[4:]).all()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["task=image_to_image", "task.strengths=[0.5,1.5]"], ["need 0 < strength <= 1", "strength=1.5"]),
        (["task=image_to_image", "task.strengths=[0]"], ["need 0 < strength <= 1"]),
        (["task=encode", "images=nowhere"], ["images=nowhere: there is no such file or folder"]),
        (["task=encode", "images=empty"], ["images=empty: no images in this folder", ".png"]),
        (["task=encode", "images=text.png"], ["text.png"]),
        (["task=encode", "sampler=ddpm"], ["sampler ddpm", "ddim with eta=0, euler and heun with churn=0 can"]),
        (["task=encode", "sampler=dpmpp_2m_sde"], ["sampler dpmpp2m-eta1.0", "ddim with eta=0, euler and heun with churn=0 can"]),
        (["task=encode", "sampler=euler", "sampler.churn=1"], ["sampler euler-churn1"]),
        (["task=encode", "images=notes"], ["images=notes: no images in this folder", ".png"]),
        (["task=encode", "images=notes/a.txt"], ["cannot read", "a.txt", "UnidentifiedImageError"]),
        (["task=encode", "images=notes", "data_root=notes"], ["need images or data_root"]),
        (["task=encode", "data_root=notes"], ["data_root=notes: this checkpoint was trained on data without a root"]),
        (["task=encode", "film=3"], ["film=3: there is no key film"]),
        (["task=interpolate", "images=white.png"], ["images=white.png", "need two images, got 1"]),
        (["task=interpolate", "task.between=seeds"], ["task.between: expected one of images, noise, embeddings, got 'seeds'"]),
        (["task=interpolate", "task.between=noise", "images=notes"], ["task: need", "between=images", "got images=notes"]),
        (["task=interpolate", "task.between=noise", "data_root=x"], ["task: need", "between=images", "got data_root=x"]),
        (["task=interpolate", "thresholding=dynamic"], ["task: need thresholding=none", "got dynamic"]),
        (["task=encode", "thresholding=dynamic"], ["task: need thresholding=none", "got dynamic"]),
        (["task=image_to_image", "task.strengths=[]"], ["need at least one of strengths"]),
        (["task=inpaint", "task.jump_length=4"], ["need jump_length < num_steps=4"]),
        (["task=interpolate", "sampler=unipc"], ["sampler unipc", "ddim with eta=0"]),
        (["task=inpaint", "task.mask=nowhere.png"], ["task.mask=nowhere.png", "center, left, right, top, bottom"]),
        (["task=inpaint", "task.mask=white.png"], ["task.mask=white.png: nothing is to be filled in"]),
        (["task=inpaint", "task.mask=black.png"], ["task.mask=black.png: nothing is known"]),
        (["task=inpaint", "task.mask=text.png"], ["task.mask=text.png"]),
        (["task=inpaint", "task.num_resamples=0"], ["num_resamples=0"]),
        (["task=interpolate", "task.num_frames=1"], ["num_frames"]),
        (["task=decode"], ["task=decode", "encode", "generate", "image_to_image", "inpaint", "interpolate"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
@pytest.mark.parametrize("trained", ["ddpm"], indirect=True)
def test_bad_input_gets_one_line(sample, trained, tmp_path, words, parts):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    for name, value in {"white": 255, "black": 0}.items():
        Image.new("L", (8, 8), value).save(tmp_path / f"{name}.png")
    code, _, err = sample(f"checkpoint={trained}", *words)
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not list(tmp_path.glob("outputs/sample/*"))
