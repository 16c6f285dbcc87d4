"""Networks of transformers with few weights, all random, that stand in for the trained ones."""

import shutil

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.errors import UserError
from alphabar.metrics import Splits
from alphabar.models.frozen import silence

NO_IMAGES = ResidentImages(torch.empty(0, 1, 8, 8, dtype=torch.uint8), None)
SPLITS = Splits(NO_IMAGES, NO_IMAGES, "data")


def save(model, path):
    with silence():
        model.save_pretrained(path)
    return path


def dinov2(folder):
    """A DINOv2 for another size of image than it gets, like the real one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        model = Dinov2Model(Dinov2Config(**settings, image_size=70))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return save(model, folder)


def clip(folder):
    """A CLIP with both towers, as OpenAI's is published."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "projection_dim": 8}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 50}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "projection_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return save(model, folder)


def put_into(hub, name, folder):
    """A folder in the cache of the hub's client, as if downloaded."""
    home = hub / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123456789")
    return shutil.copytree(folder, home / "snapshots" / "0123456789")


def pictures(num=3, channels=3, height=40, width=30):
    shape = (num, channels, height, width)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def complaint(features):
    """Returns the message of the error, which is one line."""
    with pytest.raises(UserError) as error:
        features.extractors(SPLITS)
    assert "\n" not in str(error.value)
    return str(error.value)
