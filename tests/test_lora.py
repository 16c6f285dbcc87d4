"""`lora=default`: a run that trains low-rank changes of a frozen network, which is sampled, evaluated and resumed as any other."""

import shutil

import pytest
import torch

import runs
from alphabar.models.networks.lora import LoRA
from alphabar.models.networks.unet import UNet

SOURCE = ("trainer.max_steps=20",)
LORA = ("lora=default", "lora.rank=2")
BASE = "denoiser.network.network."


def words(*overrides):
    return [*runs.BRIEF[1:], *LORA, f"init_from={runs.trained(*SOURCE)}", *overrides]


def adapted():
    return runs.trained(*words("trainer.max_steps=4"))


def plain_names(state):
    inside = {
        name.removeprefix(BASE).replace(".base_layer.", "."): weight for name, weight in state.items() if name.startswith(BASE)
    }
    return {name: weight for name, weight in inside.items() if ".lora_" not in name}


def test_the_network_stays_and_its_adapters_learn():
    theirs, ours = runs.checkpoint(runs.trained(*SOURCE)), runs.checkpoint(adapted())
    averages = theirs["state_dict"] | theirs["ema"]["weights"]
    frozen = plain_names(ours["state_dict"])
    assert len(frozen) > 100
    assert all(weight.equal(averages[f"denoiser.network.{name}"]) for name, weight in frozen.items())
    learned = {name: weight for name, weight in ours["state_dict"].items() if ".lora_B." in name}
    assert learned
    assert any(weight.abs().max() > 0 for weight in learned.values())
    assert all(".lora_" in name for name in ours["ema"]["weights"])
    composition = (adapted() / "receipt.json").read_text()
    assert "of them trained" in composition


def test_it_is_sampled_and_evaluated_as_any_other(command):
    samples = ("num=4", "sampler.num_steps=2", "accelerator=cpu")
    code, _, err = command("sample", f"checkpoint={adapted()}", *samples, "format=npz", "film=0", "hydra.run.dir=sampled")
    assert code == 0, err
    code, _, err = command(
        "evaluate",
        f"checkpoint={adapted()}",
        "metric=bpd",
        "num=4",
        "bpd_steps=2",
        "bpd_terms=2",
        "accelerator=cpu",
        "hydra.run.dir=evaluated",
    )
    assert code == 0, err


def test_it_goes_on_exactly(command, tmp_path):
    shutil.copytree(runs.trained(*words("trainer.max_steps=2", "callbacks.checkpoints.every_n_steps=1")), tmp_path / "run")
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 0, err
    resumed, uncut = (runs.checkpoint(folder) for folder in ("run", adapted()))
    assert all(resumed["state_dict"][name].equal(weight) for name, weight in uncut["state_dict"].items())
    assert all(resumed["ema"]["weights"][name].equal(weight) for name, weight in uncut["ema"]["weights"].items())


def test_a_run_may_begin_from_an_adapted_one(command):
    code, out, err = command("train", *runs.words(*runs.BRIEF, *LORA, f"init_from={adapted()}", folder="run"))
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("  init_from"))
    assert "not taken" not in line
    assert line.endswith(")")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora=default"], "lora: needs init_from=RUN"),
        (words("network.num_res_blocks=2"), "lora trains none of the network's own weights, and "),
        (words("lora.rank=0"), "need rank >= 1"),
        (words("lora.targets=[nothing]"), "has no linear layer of such a name"),
    ],
)
def test_bad_input_ends_in_one_line(command, tmp_path, overrides, message):
    code, _, err = command("train", *runs.words(*overrides, folder="run"))
    assert code == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run").exists()


def test_it_begins_as_the_network_was():
    torch.manual_seed(0)
    network = UNet(1, 8, base_channels=8, channel_multipliers=[1, 2], num_res_blocks=1, attention_resolutions=[4], norm_groups=4)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    before = network(x, label)
    lora = LoRA(network, rank=3)
    assert lora(x, label).equal(before)
    assert sum(weight.requires_grad for weight in lora.parameters()) == sum(".lora_" in name for name, _ in lora.named_parameters())
