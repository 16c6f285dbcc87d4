"""Weights of DINOv2 and CLIP: where they are looked for, and messages when they are missing or others."""

import json
import shutil
import sys

import pytest
import torch
from huggingface_hub import constants

from alphabar.metrics.features.clip import CLIPFeatures
from alphabar.metrics.features.dinov2 import DINOv2Features
from alphabar.models import hub as hub_files
from tiny_models import SPLITS, complaint, put_into


@pytest.mark.parametrize("weights", [None, "facebook/dinov2-large"])
def test_the_usual_model_is_found_in_the_cache_and_bears_the_bare_name(hub, dinov2_folder, weights):
    put_into(hub, "facebook/dinov2-large", dinov2_folder)
    extractor = DINOv2Features(weights, "cache").extractors(SPLITS)[0]
    assert extractor.name == "dinov2"
    assert "facebook/dinov2-large" in extractor.description


def test_another_model_of_the_hub_has_its_hash_in_the_name(hub, clip_folder):
    put_into(hub, "some/clip", clip_folder)
    extractor = CLIPFeatures("some/clip", "cache").extractors(SPLITS)[0]
    assert extractor.name.startswith("clip_")
    assert "some/clip" in extractor.description


@pytest.mark.parametrize("there", ["nothing", "configuration"])
@pytest.mark.parametrize(
    ("features", "model"),
    [
        (DINOv2Features(None, "cache", download=True), "facebook/dinov2-large"),
        (CLIPFeatures(None, "cache", download=True), "openai/clip-vit-large-patch14-336"),
        (CLIPFeatures("some/clip", "cache", download=True), "some/clip"),
    ],
    ids=["dinov2", "clip", "named"],
)
def test_missing_weights_without_a_network(hub, tmp_path_factory, features, model, there):
    if there == "configuration":
        folder = tmp_path_factory.mktemp("half")
        (folder / "config.json").write_text("{}")
        put_into(hub, model, folder)
    found = complaint(features)
    for part in (model, str(hub), f"https://huggingface.co/{model}", "config.json", "model.safetensors", "features.weights=PATH"):
        assert part in found


@pytest.mark.parametrize("there", ["nothing", "configuration"])
@pytest.mark.parametrize("features", [DINOv2Features(None, "cache"), CLIPFeatures("some/clip", "cache")], ids=["dinov2", "named"])
def test_without_a_download_nobody_is_asked(hub, tmp_path_factory, monkeypatch, features, there):
    if there == "configuration":
        (folder := tmp_path_factory.mktemp("half")).joinpath("config.json").write_text("{}")
        put_into(hub, features.weights or "facebook/dinov2-large", folder)
        assert hub_files.would_be_downloaded(features.weights or "facebook/dinov2-large")
    monkeypatch.setattr("huggingface_hub.get_session", None)
    assert "not fetched; features.download=true fetches it" in complaint(features)


def test_a_missing_network_is_noticed_at_once(tmp_path, monkeypatch):
    """The hub's client alone would try for half a minute."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise OSError("no route to\nhost. Or so")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    assert "cannot be downloaded (no route to host); get" in complaint(DINOv2Features(None, "cache", download=True))
    assert asked == [(constants.ENDPOINT, hub_files.TIMEOUT)]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (
            "nowhere",
            "nowhere does not exist; get config.json, model.safetensors or pytorch_model.bin of https://huggingface.co/facebook/dinov2",
        ),
        ("file", "file is a file, not a folder"),
        ("empty", "has no config.json with model.safetensors or pytorch_model.bin; get"),
        ("damaged", "config.json is damaged or another kind of file"),
        ("no weights", "has no config.json with model.safetensors or pytorch_model.bin; get"),
        ("half", "cannot read the weights in"),
        ("clip", "holds a network of type clip, not dinov2"),
        ("another size", "do not fit their config.json: missing or of another size are"),
        ("more layers", "do not fit their config.json: missing or of another size are encoder.layer.2."),
    ],
)
def test_wrong_weights(tmp_path, dinov2_folder, clip_folder, weights, reason):
    path = tmp_path / weights
    if weights == "file":
        path.touch()
    elif weights == "empty":
        path.mkdir()
    elif weights != "nowhere":
        shutil.copytree(clip_folder if weights == "clip" else dinov2_folder, path)
    config, values = path / "config.json", path / "model.safetensors"
    if weights == "damaged":
        config.write_text("{")
    elif weights == "no weights":
        values.unlink()
    elif weights == "half":
        values.write_bytes(values.read_bytes()[:-100])
    elif weights in ("another size", "more layers"):
        changes = {"another size": {"hidden_size": 32}, "more layers": {"num_hidden_layers": 3}}[weights]
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    found = complaint(DINOv2Features(str(path), "cache"))
    assert reason in found
    assert str(path) in found
    assert found.startswith("dinov2: ")


def test_the_other_network_given_to_clip(dinov2_folder):
    found = complaint(CLIPFeatures(str(dinov2_folder), "cache"))
    assert found == f"clip: {dinov2_folder} holds a network of type dinov2, not clip or clip_vision_model"


def test_foreign_code_is_not_run(tmp_path, dinov2_folder):
    folder = shutil.copytree(dinov2_folder, tmp_path / "x")
    (folder / "evil.py").write_text("raise SystemExit('run')")
    content = json.loads((folder / "config.json").read_text())
    content["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(content))
    DINOv2Features(str(folder), "cache").extractors(SPLITS)[0]
    (folder / "model.safetensors").unlink()
    torch.save({"weight": print}, folder / "pytorch_model.bin")
    assert "cannot read the weights" in complaint(DINOv2Features(str(folder), "cache"))


def test_without_transformers(monkeypatch, dinov2_folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for features in (DINOv2Features(None, "cache", download=True), CLIPFeatures(str(dinov2_folder), "cache")):
        assert complaint(features).endswith("pip install 'alphabar[transformers]'")


def test_loading_is_silent_and_leaves_the_settings_of_transformers_alone(clip_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    CLIPFeatures(str(clip_folder), "cache").extractors(SPLITS)[0]
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
