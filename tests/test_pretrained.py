"""DINOv2 and CLIP: what they make of images; tiny networks with random weights stand in for the trained ones."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, Dinov2Model

from alphabar.metrics.features.clip import CLIPFeatures
from alphabar.metrics.features.dinov2 import DINOv2Features
from alphabar.metrics.features.pretrained import Colours, Preprocessing, resize
from alphabar.models.frozen import silence
from tiny_models import SPLITS, complaint, pictures, save


@pytest.mark.parametrize(("side", "size"), [(8, 224), (32, 224), (64, 224), (256, 224), (64, 336), (512, 28)])
def test_resize_is_that_of_pillow(side, size):
    """To the bit nearly everywhere; where not, rounding across differed, which going down can make two grey levels at most."""
    sharp = pictures(height=side, width=side)
    smooth = F.avg_pool2d(sharp.float(), 5, 1, 2).to(torch.uint8)
    for images in (smooth, sharp):
        found = resize(images, size)
        assert found.shape == (3, 3, size, size)
        assert torch.equal(found, found.round().clamp(0, 255))
        for ours, image in zip(found, images, strict=True):
            theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
            difference = np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(theirs))
            assert difference.max() <= 2
            assert (difference > 0).mean() < 0.01
            assert (difference > 1).mean() < 1e-4


def test_images_of_the_right_size_are_only_normalised():
    images = pictures(channels=1, height=28, width=28)
    found = Preprocessing(28, Colours((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))(images)
    for channel in range(3):
        expected = (images[:, 0] / 255 - 0.1 * (channel + 1)) / (0.4 + 0.1 * channel)
        torch.testing.assert_close(found[:, channel], expected)


def test_dinov2_gives_the_class_token_of_transformers(dinov2_folder):
    images = pictures()
    extractor = DINOv2Features(str(dinov2_folder), "cache").extractors(SPLITS)[0]
    with silence():
        model = Dinov2Model.from_pretrained(dinov2_folder).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((resize(images, 224) / 255 - mean) / std).last_hidden_state[:, 0]
    found = extractor(images)
    assert found.shape == (3, 16) == (3, extractor.num_features)
    torch.testing.assert_close(found, expected)
    assert expected.std(0).mean() > 1e-3
    assert not extractor.has_classes


def test_clip_gives_the_embedding_of_transformers(clip_folder):
    """With its own preprocessing too, to within the grey level by which resizing differs."""
    images = pictures(height=30)
    extractor = CLIPFeatures(str(clip_folder), "cache").extractors(SPLITS)[0]
    with silence():
        model = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    processor = CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False)
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(extractor.network.preprocessing(images), pixels, rtol=0, atol=1.01 / 255 / 0.26)
    with torch.no_grad():
        expected = F.normalize(model(extractor.network.preprocessing(images)).image_embeds, dim=1)
    found = extractor(images)
    assert found.shape == (3, 8) == (3, extractor.num_features)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert expected.std(0).mean() > 1e-3


def test_a_clip_without_texts_is_the_same_clip(clip_folder, tmp_path):
    with silence():
        save(CLIPVisionModelWithProjection.from_pretrained(clip_folder), tmp_path)
    whole, half = (CLIPFeatures(str(folder), "cache").extractors(SPLITS)[0] for folder in (clip_folder, tmp_path))
    assert torch.equal(whole(pictures()), half(pictures()))
    assert whole.description == half.description


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_properties_of_an_extractor(kind, dinov2_folder, clip_folder):
    folder, features = {"dinov2": (dinov2_folder, DINOv2Features), "clip": (clip_folder, CLIPFeatures)}[kind]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    extractor = features(str(folder), "cache").extractors(SPLITS)[0]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    digest = extractor.description.rsplit(" ", 1)[1]
    assert len(digest) == 16
    assert extractor.name == f"{kind}_{digest[:8]}"
    for part in (kind, f"resized to {224 if kind == 'dinov2' else 28} bicubic with antialiasing", "float32", "own weights"):
        assert part in extractor.description
    grey = pictures(channels=1)
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


def test_other_weights_have_another_name(dinov2_folder, tmp_path):
    with silence():
        model = Dinov2Model.from_pretrained(dinov2_folder)
    model.layernorm.bias.data[0] += 1
    save(model, tmp_path)
    first, second = (DINOv2Features(str(folder), "cache").extractors(SPLITS)[0] for folder in (dinov2_folder, tmp_path))
    assert first.name != second.name
    assert first.description != second.description


def test_half_precision_in_the_file_becomes_float32(dinov2_folder, tmp_path):
    with silence():
        save(Dinov2Model.from_pretrained(dinov2_folder).half(), tmp_path)
    extractor = DINOv2Features(str(tmp_path), "cache").extractors(SPLITS)[0]
    assert {parameter.dtype for parameter in extractor.parameters()} == {torch.float32}


def test_the_default_precision_of_the_trainer_does_not_matter(clip_folder):
    expected = CLIPFeatures(str(clip_folder), "cache").extractors(SPLITS)[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = CLIPFeatures(str(clip_folder), "cache").extractors(SPLITS)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.description == expected.description
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found(pictures()), expected(pictures()))


def test_colours_of_the_folder_count(dinov2_folder, tmp_path):
    folder = shutil.copytree(dinov2_folder, tmp_path / "x")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    extractor = DINOv2Features(str(folder), "cache").extractors(SPLITS)[0]
    assert "mean 0.5/0.5/0.5, std 0.25/0.25/0.25" in extractor.description
    assert extractor.network.preprocessing(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)).unique() == 2
    for wrong in ({}, {"image_mean": [0.5] * 2, "image_std": [1] * 2}, {"image_mean": "x", "image_std": [1] * 3}, [1]):
        (folder / "preprocessor_config.json").write_text(json.dumps(wrong))
        assert "preprocessor_config.json" in complaint(DINOv2Features(str(folder), "cache"))
