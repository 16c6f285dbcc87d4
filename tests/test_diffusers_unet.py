"""`UNet` against diffusers' UNet2DModel: random weights, the same input, the same output."""

import pytest
import torch
from diffusers import UNet2DModel

from alphabar.models.networks.diffusers import from_diffusers, to_diffusers
from alphabar.models.networks.unet import UNet

# google/ddpm-cifar10-32, 8 times narrower.
HO = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (16, 32, 32, 32),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 16,
    "time_embedding_type": "positional",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
# What is left out is diffusers' default: cosines first, heads of 8, padding 1, norm_eps 1e-5.
DEFAULTS = {"sample_size": 16, "block_out_channels": (16, 32, 48, 64), "norm_num_groups": 8}
GREY = {
    "sample_size": 12,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8, 24),
    "layers_per_block": 1,
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "freq_shift": 1,
    "time_embedding_dim": 32,
}
FILM = {**DEFAULTS, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8, "downsample_padding": 0}
ONE_LEVEL = {
    "sample_size": 5,
    "block_out_channels": (16,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 3,
    "norm_num_groups": 4,
}
CONFIGS = pytest.mark.parametrize(
    "config", [HO, DEFAULTS, GREY, FILM, ONE_LEVEL], ids=["ho", "defaults", "grey", "film", "one level"]
)
OURS = {"resolution": 16, "base_channels": 16, "norm_groups": 8}
NETWORKS = pytest.mark.parametrize(
    "arguments",
    [
        {**OURS, "channels": 3, "attention_resolutions": [8]},
        {**OURS, "channels": 1, "channel_multipliers": [1, 3], "num_res_blocks": 1, "attention_resolutions": [16]},
        {**OURS, "channels": 3, "scale_shift": True, "head_channels": 8, "symmetric_padding": True, "norm_eps": 1e-5},
        {**OURS, "channels": 2, "attention_resolutions": [], "frequency_shift": 0},
    ],
    ids=["ho", "attention at full resolution", "adm", "attention in the middle alone"],
)


def randomise(network):
    """Every weight, norms and zero-initialised outputs too, at a scale that keeps activations near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (1 if "norm" in name and name.endswith("weight") else 0))
    return network


def assert_same_output(ours, theirs):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, ours.channels, ours.resolution, ours.resolution, generator=generator)
    label = torch.tensor([0.0, 1.0, 421.0, 999.0])
    with torch.no_grad():
        found, expected = ours.eval()(x, label), theirs.eval()(x, label).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def old_names(state_dict):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state_dict.items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        renamed[name] = tensor
    return renamed


@CONFIGS
def test_their_weights_compute_the_same_here(config):
    theirs = randomise(UNet2DModel(**config))
    assert_same_output(from_diffusers(theirs.config, theirs.state_dict()), theirs)


@CONFIGS
def test_a_config_that_leaves_defaults_out_is_the_same_config(config):
    theirs = randomise(UNet2DModel(**config))
    weights = theirs.state_dict()
    full, short = from_diffusers(theirs.config, weights), from_diffusers(config, weights)
    assert to_diffusers(full)[0] == to_diffusers(short)[0]


@NETWORKS
def test_our_weights_compute_the_same_there(arguments):
    ours = randomise(UNet(**arguments))
    config, state_dict = to_diffusers(ours)
    theirs = UNet2DModel(**config)
    theirs.load_state_dict(state_dict, strict=True)
    assert_same_output(ours, theirs)


@NETWORKS
def test_there_and_back_is_exact(arguments):
    ours = randomise(UNet(**arguments))
    back = from_diffusers(*to_diffusers(ours))
    assert to_diffusers(back)[0] == to_diffusers(ours)[0]
    found = back.state_dict()
    assert list(found) == list(ours.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in ours.state_dict().items())


def test_the_networks_train_alike(monkeypatch):
    # The masks of dropout depend on the memory layout; a clamp in its place shows where it acts, and how strong it is.
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x.clamp(max=self.p) if self.p else x)
    theirs = randomise(UNet2DModel(**HO, dropout=0.3)).train()
    ours = from_diffusers(theirs.config, theirs.state_dict()).train()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([3.0, 700.0])
    found, expected = ours(x, label), theirs(x, label).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.square().mean().backward()
    expected.square().mean().backward()
    first = theirs.down_blocks[0].resnets[0].conv1.weight.grad
    torch.testing.assert_close(ours.down[0].layers[0].residual.conv1.weight.grad, first, atol=1e-5, rtol=1e-4)


def test_attention_by_its_old_names_converts():
    theirs = randomise(UNet2DModel(**HO))
    old = old_names(theirs.state_dict())
    assert "mid_block.attentions.0.proj_attn.weight" in old
    assert_same_output(from_diffusers({**HO, "_class_name": "UNet2DModel"}, old), theirs)


def test_the_cifar10_network_has_their_size():
    config = {**HO, "sample_size": 32, "block_out_channels": (128, 256, 256, 256), "norm_num_groups": 32}
    with torch.device("meta"):
        ours, theirs = UNet(channels=3, resolution=32), UNet2DModel(**config)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert counts == [35_746_307, 35_746_307]


def test_exported_weights_are_copies():
    ours = UNet(**OURS, channels=1)
    _, state_dict = to_diffusers(ours)
    for tensor in state_dict.values():
        tensor.fill_(7)
    assert not any((parameter == 7).any() for parameter in ours.parameters())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"num_class_embeds": 10}, "num_class_embeds=10"),
        ({"downsample_type": "resnet"}, "downsample_type='resnet'"),
        ({"upsample_type": "resnet"}, "upsample_type='resnet'"),
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"add_attention": False}, "add_attention=False"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor=2"),
        ({"center_input_sample": True}, "center_input_sample=True"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"time_embedding_dim": 100}, "time_embedding_dim=100"),
        ({"out_channels": 6}, "out_channels=6"),
        ({"sample_size": None}, "sample_size=None"),
        ({"sample_size": (16, 32, 8)}, "sample_size=(16, 32, 8)"),
        ({"block_out_channels": (16, 24, 32, 32)}, "block_out_channels=(16, 24, 32, 32)"),
        ({"downsample_padding": 2}, "downsample_padding=2"),
        ({"norm_num_groups": None}, "norm_num_groups=None"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=None"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups=4"),
        ({"down_block_types": ("SkipDownBlock2D",) * 4}, "down_block_types='SkipDownBlock2D'"),
        ({"up_block_types": ("UpBlock2D",) * 4}, "need attention where down_block_types have it"),
        ({"up_block_types": ("UpBlock2D",) * 3}, "need one per block_out_channels"),
        ({"window_size": 7}, "window_size=7"),
        ({"sample_size": 12}, "multiple of 8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_unet_cannot_represent_is_refused_by_name(change, part):
    with pytest.raises(ValueError) as caught:
        from_diffusers({**HO, **change}, {})
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda weights: weights.pop("mid_block.attentions.0.to_k.bias"), "need mid_block.attentions.0.to_k.bias"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 more: extra"),
        (lambda weights: weights.update({"conv_out.bias": torch.zeros(4)}), "conv_out.bias of shape [3]"),
        (lambda weights: weights.pop("time_embedding.linear_1.weight"), "need time_embedding.linear_1.weight"),
    ],
    ids=["missing", "more", "shape", "missing where columns change places"],
)
def test_weights_that_do_not_fit_the_config_are_refused(spoil, part):
    weights = UNet2DModel(**DEFAULTS).state_dict()
    spoil(weights)
    with pytest.raises(ValueError) as caught:
        from_diffusers(DEFAULTS, weights)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_first_level_wider_than_the_input_has_no_counterpart_there():
    with pytest.raises(ValueError, match=r"start with 1.*got \[2, 2\]"):
        to_diffusers(UNet(**OURS, channels=1, channel_multipliers=[2, 2]))


@pytest.mark.parametrize("argument", [{"learned_variance": True}, {"vector_channels": 8}])
def test_what_theirs_does_not_have_is_not_exported(argument):
    ours = UNet(1, 8, base_channels=8, channel_multipliers=[1], num_res_blocks=1, norm_groups=4, **argument)
    with pytest.raises(ValueError, match="neither conditions nor a learned variance"):
        to_diffusers(ours)
