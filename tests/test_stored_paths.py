"""Paths and downloads in a configuration out of a file."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import runs
from alphabar.config.build import build
from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.files.bounded_allocation import BoundedAllocation
from alphabar.files.cache import DiskCache
from alphabar.files.paths import caching_in
from alphabar.runs.checkpoints.checkpoint import read_checkpoint
from alphabar.runs.folders.run_dir import stored_config
from alphabar.runs.resume import apply_override
from alphabar.training.modules.diffusion import DiffusionModule

CACHE = "outputs/cache"


def test_what_is_stored_neither_downloads_nor_writes_among_other_files(tmp_path):
    for name in ("home", "cache", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "id_ed25519").write_text("secret")
    cache = DiskCache(tmp_path / "cache")
    cache.store(cache.path("text", 1), {"x": torch.zeros(1)})
    cache.store_array(cache.path("latents", 1), torch.zeros(4).numpy())
    (tmp_path / "to_home").symlink_to("home")
    kept = str(tmp_path / "cache")
    assert confined({"x": [{"cache_dir": kept}]}) == {"x": [{"cache_dir": kept}]}
    for folder in ("home", "to_home", "home/id_ed25519", "empty", "elsewhere/deep", "outputs/cache/../../elsewhere"):
        assert confined({"codec": {"cache_dir": str(tmp_path / folder)}}) == {"codec": {"cache_dir": CACHE}}, folder
    for name in ("a\0b", "~nobody-here/x", "~", "/"):
        assert confined({"cache_dir": name}) == {"cache_dir": CACHE}
    with caching_in(str(tmp_path / "scratch")):
        for folder, place in (("elsewhere/text", "text"), ("scratch/mine", "mine"), ("src/latents", "latents")):
            assert confined({"cache_dir": str(tmp_path / folder)}) == {"cache_dir": str(tmp_path / "scratch" / place)}
    given = {"data": {"download": True, "root": "x"}, "download": "a name"}
    assert confined(given) == {"data": {"download": False, "root": "x"}, "download": False}
    assert given["data"]["download"] is True
    assert confined({"features": {"download": 1}, "x": [{"download": True}]}) == {
        "features": {"download": False},
        "x": [{"download": False}],
    }


def test_run_folders_and_checkpoints_are_read_so(tmp_path, monkeypatch):
    shutil.copytree(runs.trained(*runs.BRIEF), tmp_path / "out")
    config = OmegaConf.load(tmp_path / "out" / "config.yaml")
    (tmp_path / "notes.txt").write_text("mine")
    config.data.download, config.features.cache_dir = True, str(tmp_path)
    OmegaConf.save(config, tmp_path / "out" / "config.yaml")
    stored = stored_config(tmp_path / "out")
    assert (stored.data.download, stored.features.cache_dir) == (False, CACHE)
    path = tmp_path / "out" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["data"]["download"] = True
    content["config"]["features"]["cache_dir"] = str(tmp_path)
    torch.save(content, path)
    stored = read_checkpoint(path)["config"]
    assert (stored["data"]["download"], stored["features"]["cache_dir"]) == (False, CACHE)


def test_a_download_of_a_resumed_run_is_that_of_the_command_line(tmp_path):
    """The data are missing; whoever resumes the run may have them fetched, the one who began it may not."""
    data = {
        "_target_": "alphabar.data.sources.torchvision.Torchvision",
        "name": "MNIST",
        "root": str(tmp_path / "data"),
        "download": True,
    }
    OmegaConf.save({"data": data}, tmp_path / "config.yaml")
    stored = stored_config(tmp_path)
    with pytest.raises(UserError, match=r"no MNIST under .*: missing"):
        build(stored.data, "data")
    apply_override(stored, OmegaConf.create({}), "data.download=true")
    assert build(stored.data, "data").source.download is True
    assert not (tmp_path / "data").exists()


def test_what_the_data_and_frozen_parts_take_is_not_that_of_the_checkpoint(tmp_path, monkeypatch, command):
    """The network alone is bounded by the weights of the checkpoint: captions are encoded by what has weights of its own."""
    shutil.copytree(runs.trained(*runs.BRIEF), tmp_path / "out")
    attach_data = DiffusionModule.attach_data

    def encode(module, datamodule):
        for _ in range(20_000):
            torch.zeros(1)
        attach_data(module, datamodule)

    monkeypatch.setattr(DiffusionModule, "attach_data", encode)
    code, _, err = command("train", f"resume={tmp_path / 'out'}", "trainer.max_steps=3", "logger=csv")
    assert code == 0, err


def test_what_cannot_be_counted_is_refused():
    """The size of a result may depend on values, which are not there before memory is taken."""
    weight = torch.ones(300, 300)
    with BoundedAllocation("checkpoint", 2**20, 1000):
        for read in (Tensor.nonzero, Tensor.tolist, Tensor.numpy, torch.unique, lambda each: torch.equal(each, each)):
            read(weight)
        with pytest.raises(UserError, match=r"it calls bincount, and how much that takes is not known before"):
            torch.bincount(weight.long().flatten())
        with pytest.raises(UserError, match=r"more than belongs to the weights in checkpoint"):
            torch.ones(1, device="cpu").expand(2**30).nonzero()


def test_a_bound_stands_for_the_one_around_it():
    with BoundedAllocation("checkpoint", 0, 0):
        with BoundedAllocation("frozen part", 2**10, 1000):
            for _ in range(5000):
                torch.zeros(1)
            with pytest.raises(UserError, match=r"than belongs to the weights in frozen part"):
                torch.zeros(2**30)
        torch.zeros(1)
        with pytest.raises(UserError, match=r"than belongs to the weights in checkpoint"):
            torch.zeros(2**30)
