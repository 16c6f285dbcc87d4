"""Files and models in place of the placeholders of the documents' commands: tiny files, and models that are trained when first asked for."""

import re
import struct

import numpy as np
from PIL import Image

import pictured
import runs
import streamed
import tiny_texts

SNAPSHOTS = ("trainer.max_steps=8", "ema=power", "callbacks.snapshots.every_n_steps=1", *runs.BRIEF[1:])
CACHE_DIR = f"{runs.CACHE}/documents-cache"


def home():
    """Returns the folder of the files: pictures with captions, samples, files of Fashion-MNIST, a text encoder."""
    return runs.shared("documents", make)


def make(folder):
    photos = pictured.pictures(folder / "photos")
    tiny_texts.make("t5", folder / "encoder")
    (folder / "prompts.txt").write_text("a cat\nred dog\n")
    (folder / "wanted.csv").write_text("0.3,1.2\n0.5,-1\n")
    numbers = np.random.default_rng(0)
    np.savez(folder / "cells.npz", images=numbers.integers(0, 256, (100, 8, 8, 3), np.uint8), vectors=numbers.random((100, 2)))
    heights = numbers.integers(0, 2**16, (100, 8, 8), np.uint16)
    np.savez(folder / "heights.npz", images=heights)
    (folder / "scans").mkdir()
    for index, each in enumerate(heights):
        Image.fromarray(each).save(folder / "scans" / f"{index:06d}.png")
    (folder / "samples").mkdir()
    for index, path in enumerate(sorted(photos.rglob("*.png"))):
        with Image.open(path) as image:
            image.resize((64, 64)).save(folder / "samples" / f"{index}.png")
            wide = {0: (image.width, image.height * 3 // 4), 1: (image.width * 3 // 4, image.height)}.get(index % 4)
            if wide is not None:
                image.resize(wide).save(path)  # of the proportions of some buckets
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0)
    for split, num in {"train": 100, "t10k": 80}.items():
        images, labels = pixels.integers(0, 256, num * 28 * 28, np.uint8), bytes(index % 10 for index in range(num))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, num, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels)


def encoder(prefix="conditioner."):
    """Returns the overrides that name the tiny text encoder."""
    return [f"{prefix}encoder.name={home() / 'encoder'}", f"{prefix}encoder.max_length=9"]


def prepared():
    """Returns the folder of prepared images."""
    done = runs.shared("prepared", lambda home: runs.run("prepare.py", *prepared_words(), f"to={home / 'photos64'}", cwd=home))
    return done / "photos64"


def prepared_words():
    return [f"data.root={home() / 'photos'}", "data.resolution=64"]


def text():
    """Returns the overrides of a model that is conditioned on captions."""
    return [*encoder(), f"conditioner.cache_dir={CACHE_DIR}"]


def contrastive():
    """Returns the overrides of a CLIP."""
    return [*encoder("module.towers."), f"module.cache_dir={CACHE_DIR}"]


def smoke(name, *words):
    """Returns the folder of a run of experiment=smoke/<name> on the pictures."""
    return runs.trained(f"experiment=smoke/{name}", f"data.root={home() / 'photos'}", *words, tiny=())


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


MODELS = {
    "plain": lambda: runs.trained("trainer.max_steps=2"),
    "classes": lambda: runs.trained(*runs.BRIEF, "conditioner=class_label"),
    "captions": lambda: smoke("cascade_base", *text()),
    "numbers": lambda: runs.trained(
        *runs.BRIEF, "network=unet_tiny", "data=arrays", f"data.path={home() / 'cells.npz'}", "conditioner=vector"
    ),
    "snapshots": lambda: runs.trained(*SNAPSHOTS),
    "averages": lambda: runs.trained(*runs.BRIEF, "ema.more_decays=[0.99,0.9999]"),
    "super_resolution": lambda: smoke("cascade_super_resolution"),
    "clip": lambda: smoke("contrastive", *contrastive()),
    "prior": lambda: smoke("unclip_prior", f"clip={MODELS['clip']() / 'clip'}", *text(), f"codec.cache_dir={CACHE_DIR}"),
    "decoder": lambda: smoke("unclip_decoder", f"clip={MODELS['clip']() / 'clip'}"),
    "autoencoder": lambda: smoke("autoencoder"),
    "latents": lambda: smoke("latent_text", f"codec.name={MODELS['autoencoder']() / 'autoencoder'}", *text()),
}
PLACEHOLDERS = {
    r"outputs/train/NAME": lambda: MODELS["plain"](),
    r"outputs/evaluate/(A|B)": lambda: runs.finished("evaluate.py", f"checkpoint={last(MODELS['plain']())}", *EVALUATION),
    r"\bRUN/autoencoder": lambda: MODELS["autoencoder"]() / "autoencoder",
    r"\bRUN/checkpoints": lambda: MODELS["latents"]() / "checkpoints",
    r"\bSR(\.ckpt)?(?=[,\]]|$)": lambda: last(MODELS["super_resolution"]()),
    r"\bBASE(\.ckpt)?(?=[,\]]|$)": lambda: last(MODELS["captions"]()),
    r"\bPRIOR(\.ckpt)?(?=[,\]]|$)": lambda: last(MODELS["prior"]()),
    r"\bDECODER(\.ckpt)?(?=[,\]]|$)": lambda: last(MODELS["decoder"]()),
    r"=CLIP\b": lambda: f"={MODELS['clip']() / 'clip'}",
    r"=FILE\b": lambda: f"={home() / 'prompts.txt'}",
    r"=FOLDER_OR_NPZ\b": lambda: f"={home() / 'samples'}",
    r"=(FILE_OR_FOLDER|FOLDER|PATH|photos|emoji)\b": lambda: f"={home() / 'photos'}",
    r"=SHARDS\b": lambda: f"={runs.shared('streams', streamed.write_all) / 'shards'}",
    r"=ROWS\b": lambda: f"={runs.shared('streams', streamed.write_all) / 'rows'}",
    r"=photos64\b": lambda: f"={prepared()}",
    r"=cells\.npz\b": lambda: f"={home() / 'cells.npz'}",
    r"=heights\.npz\b": lambda: f"={home() / 'heights.npz'}",
    r"=scans\b": lambda: f"={home() / 'scans'}",
    r"=wanted\.csv\b": lambda: f"={home() / 'wanted.csv'}",
    r"=photo\.png\b": lambda: f"={home() / 'samples' / '0.png'}",
    r"data\.root=data\b": lambda: f"data.root={home() / 'data'}",
}
EVALUATION = [
    "num=8",
    "sampler.num_steps=2",
    "batch_size=8",
    "accelerator=cpu",
    "metric=fid",
    "statistics.fid.allow_few=true",
    "features.max_images=200",
    f"features.cache_dir={runs.CACHE}",
]


def filled(words):
    """Returns the arguments with files in the place of placeholders; "checkpoint=..." takes the model that the others need."""
    words = [re.sub(r"^checkpoint=(CKPT|\.\.\.\S*)$", f"checkpoint={last(MODELS[model_for(words)]())}", word) for word in words]
    for placeholder, file in PLACEHOLDERS.items():
        words = [re.sub(placeholder, lambda _, file=file: str(file()), word) for word in words]
    return words


def marked(words):
    """Returns the arguments with a mark in the place of each file that `filled` would put there, without making any."""
    words = [re.sub(r"^checkpoint=(CKPT|\.\.\.\S*)$", f"checkpoint=<{model_for(words)}>", word) for word in words]
    for number, placeholder in enumerate(PLACEHOLDERS):
        words = [re.sub(placeholder, f"<{number}>", word) for word in words]
    return words


def model_for(words):
    """Returns the name of the model that "checkpoint=CKPT" stands for."""
    keys = {word.split("=")[0] for word in words}
    if keys & {"prompt", "prompts"} or "features=contrastive" in words:
        return "captions"
    if keys & {"vector", "vectors"}:
        return "numbers"
    if keys & {"labels", "guidance"}:
        return "classes"
    return "snapshots" if "ema_length" in keys else "averages" if "ema_decay" in keys else "plain"
