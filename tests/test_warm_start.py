"""`init_from=...`: a run that begins with weights of another one, or of a network of diffusers."""

import json
import pickle
import shutil

import pytest
import torch
from omegaconf import OmegaConf

import runs
from alphabar.models.networks.diffusers import from_diffusers
from alphabar.models.networks.diffusers_dit import dit_from_diffusers

STILL = ("optimizer.lr=1e-30",)  # weights stay what they are at the beginning
SOURCE = ("trainer.max_steps=20",)
NETWORK = "denoiser.network."
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
LIKE_UNET = (
    "network.channel_multipliers=[1,2]", "network.num_res_blocks=1", "network.attention_resolutions=[]", "+network.head_channels=8",
    "+network.norm_eps=1e-5", "+network.symmetric_padding=true", "+network.frequency_shift=0",
)  # fmt: skip


def start(command, *words, folder="run"):
    return command("train", *runs.words(*runs.BRIEF, *STILL, *words, folder=folder))


def network_of(state):
    return {name.removeprefix(NETWORK): weight for name, weight in state.items() if name.startswith(NETWORK)}


def equal(weights, others):
    return weights.keys() == others.keys() and all(
        torch.allclose(weight, others[name], rtol=0, atol=1e-20) for name, weight in weights.items()
    )


def saved(model, folder):
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("words", "is_averaged"), [([], True), (["init_weights=ema"], True), (["init_weights=raw"], False)])
def test_it_begins_with_the_weights_of_a_run(command, words, is_averaged):
    source = runs.trained(*SOURCE)
    code, out, err = start(command, f"init_from={source}", *words)
    assert code == 0, err
    theirs, ours = runs.checkpoint(source), runs.checkpoint("run")
    expected = theirs["state_dict"] | (theirs["ema"]["weights"] if is_averaged else {})
    assert equal(network_of(ours["state_dict"]), network_of(expected))
    assert equal(
        network_of(ours["ema"]["weights"]), {k: v for k, v in network_of(expected).items() if NETWORK + k in ours["ema"]["weights"]}
    )
    assert ours["global_step"] == 2  # all but the weights begins anew
    num = len(network_of(expected))
    line = next(line for line in out.splitlines() if line.startswith("  init_from"))
    assert f"{num} of {num} weights" in line
    assert ("the averages of" if is_averaged else "the raw weights of") in line
    assert "step 20" in line
    assert "not taken" not in line
    assert OmegaConf.load("run/config.yaml").init_from == str(source)
    start_of_run = json.loads((runs.Path("run") / "receipt.json").read_text())["starts"][0]
    assert start_of_run["composition"]["init_from"] in line


def test_a_run_goes_on_without_what_it_began_from(command, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(runs.trained(*SOURCE), source)
    words = runs.words(*runs.BRIEF, f"init_from={source}", folder="run")
    assert command("train", *words, "trainer.max_steps=2")[0] == 0
    shutil.rmtree(source)
    assert command("train", "resume=run", "trainer.max_steps=4")[0] == 0
    assert (
        command("train", *words[:-1], "init_from=" + str(source), "hydra.run.dir=auto", "resume=auto", "trainer.max_steps=2")[0]
        == 2
    )
    shutil.copytree(runs.trained(*SOURCE), source)
    assert command("train", *words, "trainer.max_steps=4", "hydra.run.dir=uncut")[0] == 0
    resumed, uncut = (runs.checkpoint(name)["state_dict"] for name in ("run", "uncut"))
    assert equal(resumed, uncut)
    code, _, err = command("train", "resume=run", f"init_from={source}")
    assert code == 2
    assert "init_from: cannot change when a run is resumed" in err


def test_what_does_not_fit_begins_anew_and_is_told(command):
    source = runs.trained(*SOURCE)
    code, out, err = start(
        command, f"init_from={source}", "conditioner=class_label", "network.attention_resolutions=[]", folder="other"
    )
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("  init_from"))
    assert "missing (" in line
    assert "not of it (" in line
    assert "trained with network." in line
    ours, theirs = (network_of(runs.checkpoint(folder)["state_dict"]) for folder in ("other", source))
    assert not equal(ours, theirs)


def test_a_unet_of_diffusers_is_taken_whole(command, tmp_path):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(**UNET)
    code, out, err = start(command, f"init_from={saved(model, tmp_path / 'unet')}", *LIKE_UNET)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("  init_from"))
    assert line.endswith(")"), line
    expected = from_diffusers(model.config, model.state_dict()).state_dict()
    assert equal(network_of(runs.checkpoint("run")["state_dict"]), expected)


def test_a_dit_of_diffusers_is_taken_with_its_classes(command, tmp_path):
    from test_diffusers_dit import random_model

    model = random_model(in_channels=1, out_channels=1)
    network = ("network=dit_tiny", "network.width=16", "network.depth=2", "network.num_heads=2", "+network.frequency_shift=1")
    small = [word for word in runs.TINY if not word.startswith("network.")]
    words = (
        *runs.BRIEF,
        *STILL,
        *network,
        "conditioner=class_label",
        "conditioning.vector=16",
        f"init_from={saved(model, tmp_path / 'pipeline' / 'transformer').removesuffix('/transformer')}",
    )
    code, out, err = command("train", *runs.words(*words, folder="run", tiny=small))
    assert code == 0, err
    assert "not taken" not in next(line for line in out.splitlines() if line.startswith("  init_from")), out
    state = runs.checkpoint("run")["state_dict"]
    _, weights, classes = dit_from_diffusers(model.config, model.state_dict())
    assert equal(network_of(state), weights)
    assert state["conditioner.table.weight"].equal(classes)


def damaged(folder, change):
    """A folder of a tiny UNet2DModel whose configuration was changed."""
    from diffusers import UNet2DModel

    saved(UNet2DModel(**UNET), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    return f"init_from={folder}"


def with_nan(folder):
    content = runs.checkpoint(runs.trained(*SOURCE))
    content["state_dict"]["denoiser.network.conv_out.bias"].fill_(float("nan"))
    torch.save(content, folder / "nan.ckpt")
    return [f"init_from={folder / 'nan.ckpt'}", "init_weights=raw"]


def pickled(folder):
    (folder / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": print}))
    return f"init_from={folder / 'evil.ckpt'}"


BAD = {
    "nowhere": (lambda folder: "init_from=nowhere", "init_from=nowhere: there is no such file or folder; need a checkpoint, the folder of a run, or"),
    "no run": (lambda folder: "init_from=outputs/train/nowhere", "init_from=outputs/train/nowhere: there is no such file or folder; need"),
    "nothing": (lambda folder: f"init_from={folder}", "neither checkpoints/last.ckpt nor weights of diffusers are in this folder; need"),
    "weights of nothing": (lambda folder: "init_weights=raw", "init_weights=raw: chooses weights of init_from"),
    "unknown weights": (lambda folder: ["init_from=x", "init_weights=best"], "init_weights=best: need ema or raw"),
    "fits nowhere": (lambda folder: [f"init_from={runs.trained(*SOURCE)}", "network=dit_tiny", "~network.base_channels", "~network.norm_groups"], "none of its weights has name and shape of one of this model's"),
    "pickle": (pickled, "cannot be read"),
    "nan": (with_nan, "denoiser.network.conv_out.bias is not finite"),
    "another network": (lambda folder: damaged(folder, {"_class_name": "AutoencoderKL"}), "is of AutoencoderKL, need UNet2DModel or DiTTransformer2DModel"),
    "400 terabytes": (lambda folder: damaged(folder, {"block_out_channels": [10_000_000, 10_000_000]}), "makes a tensor of shape"),
    "strange values": (lambda folder: damaged(folder, {"block_out_channels": "many"}), "init_from="),
    "raw of diffusers": (lambda folder: [damaged(folder, {}), "init_weights=raw"], "init_weights=raw: is for checkpoints of runs"),
    "not converted": (lambda folder: damaged(folder, {"act_fn": "relu"}), "act_fn='relu'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_leaves_no_folder(command, tmp_path, case):
    make, message = BAD[case]
    words = make(tmp_path)
    words = [words] if isinstance(words, str) else words
    tiny = [word for word in runs.TINY if not word.startswith("network.")] if "network=dit_tiny" in words else runs.TINY
    code, _, err = command("train", *runs.words(*runs.BRIEF, *[word for word in words if word[0] != "~"], folder="run", tiny=tiny))
    assert code == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run").exists()
