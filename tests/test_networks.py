import importlib
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import parts
from alphabar.models.networks import Network, kernels
from alphabar.models.networks.blocks import ResidualBlock, SelfAttention, sinusoidal_embedding
from alphabar.models.networks.simple_unet import SimpleUNet
from alphabar.models.networks.unet import UNet

CONF = Path(__file__).parents[1] / "conf" / "network"
SMALL = {
    "channels": 2,
    "resolution": 8,
    "base_channels": 8,
    "channel_multipliers": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [4],
    "norm_groups": 4,
}


def preset(name, channels, resolution, learned_variance=False):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    shape = {"channels": channels, "resolution": resolution}
    widths = {"vector": 0, "tokens": 0, "image": 0, "augmentation": 0}
    config = OmegaConf.create({"space": shape, "learned_variance": learned_variance, "conditioning": widths, "network": node})
    arguments = OmegaConf.to_container(config, resolve=True)["network"]
    module, _, leaf = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), leaf)(**arguments)


def randomise(network):
    """Weights far from the initial ones, so that no branch is silent and no norm is neutral."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (1 if "norm" in name and name.endswith("weight") else 0))
    return network


def inputs(batch=2, channels=2, resolution=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, resolution, resolution, generator=generator)
    return x, torch.arange(batch) * 100.0


@pytest.mark.parametrize(
    ("name", "channels", "resolution"),
    [
        ("simple_unet", 1, 7),
        ("simple_unet", 4, 32),
        ("unet_tiny", 1, 8),
        ("unet_tiny", 3, 28),
        ("unet_small", 1, 28),
        ("unet_small", 3, 32),
        ("dit_tiny", 1, 8),
        ("dit_tiny", 3, 16),
    ],
)
def test_preset_keeps_the_shape(name, channels, resolution):
    network = preset(name, channels, resolution)
    x, label = inputs(2, channels, resolution)
    assert isinstance(network, Network)
    assert network(x, label).shape == x.shape


def test_a_learned_variance_doubles_the_channels_that_come_out():
    network = preset("unet_tiny", 3, 8, learned_variance=True)
    x, label = inputs(2, 3, 8)
    assert network(x, label).shape == (2, 6, 8, 8)


@pytest.mark.parametrize(
    ("name", "channels", "resolution", "num_parameters"),
    [
        ("simple_unet", 3, 32, 149_635),
        ("unet_tiny", 1, 8, 701_345),
        ("unet_small", 3, 32, 3_832_515),
        ("unet_cifar10", 3, 32, 35_746_307),
        ("unet", 3, 64, 92_025_731),
        ("dit_tiny", 1, 8, 722_788),
        ("dit", 3, 32, 32_471_436),
        ("prior", 128, 1, 3_057_024),
    ],
)
def test_preset_has_the_number_of_parameters_that_its_comment_gives(name, channels, resolution, num_parameters):
    with torch.device("meta"):
        network = preset(name, channels, resolution)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    comment = (CONF / f"{name}.yaml").read_text().splitlines()[0]
    number, unit = re.match(r"# ([\d.]+) (thousand|million) parameters", comment).groups()
    scale = {"thousand": 1e3, "million": 1e6}[unit]
    assert round(num_parameters / scale, 1 if "." in number else 0) == float(number)


@pytest.mark.parametrize("name", parts.choices("network"))
def test_every_network_keeps_the_shape_and_opens_with_a_comment(name):
    """Whatever conf/network offers, computed without values."""
    shape = (128,) if name == "prior" else (3, 32, 32)
    with FakeTensorMode():
        network = preset(name, shape[0], 32)
        x, label = torch.zeros(2, *shape), torch.zeros(2)
        assert isinstance(network, Network)
        assert network(x, label).shape == x.shape
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("channels", [1, 3])
def test_simple_unet_is_these_four_convolutions(channels):
    network = SimpleUNet(channels)
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.padding[0], layer.stride[0]
            found.append((type(layer), *sizes))
        elif isinstance(layer, nn.ReLU):
            found.append(nn.ReLU)
    assert found == [
        (nn.Conv2d, channels, 64, 3, 1, 1),
        nn.ReLU,
        (nn.Conv2d, 64, 128, 3, 1, 1),
        nn.ReLU,
        (nn.ConvTranspose2d, 128, 64, 3, 1, 1),
        nn.ReLU,
        (nn.Conv2d, 64, channels, 1, 0, 1),
    ]


def test_simple_unet_ignores_the_noise_level_and_unet_does_not():
    x, label = inputs()
    simple, unet = SimpleUNet(2), randomise(UNet(**SMALL))
    assert torch.equal(simple(x, label), simple(x, label + 1))
    assert (unet(x, label) - unet(x, label + 1)).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("scale_shift", [False, True], ids=["ddpm", "adm"])
def test_unet_starts_at_zero_and_every_branch_as_identity(scale_shift):
    network = UNet(**SMALL, scale_shift=scale_shift)
    x, label = inputs()
    assert torch.equal(network(x, label), torch.zeros_like(x))
    h = torch.randn(2, 8, 8, 8)
    assert torch.equal(network.down[0].layers[0](h, network.embedding(label)), h)
    h = torch.randn(2, 16, 4, 4)
    assert torch.equal(network.middle[0](h, network.embedding(label)), h)


@pytest.mark.parametrize("options", [{}, {"scale_shift": True, "head_channels": 4}], ids=["ddpm", "adm"])
def test_gradient_reaches_every_parameter(options):
    network = randomise(UNet(**SMALL, **options))
    x, label = inputs()
    network(x, label).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


def test_attention_is_at_attention_resolutions_and_in_the_middle():
    arguments = {**SMALL, "channel_multipliers": [1, 1, 2], "num_res_blocks": 2, "attention_resolutions": [4, 16]}
    network = UNet(**arguments)
    names = [name for name, module in network.named_modules() if isinstance(module, SelfAttention)]
    assert names == [
        "down.1.layers.0.attention",
        "down.1.layers.1.attention",
        "middle.0.attention",
        "up.1.layers.0.attention",
        "up.1.layers.1.attention",
        "up.1.layers.2.attention",
    ]


def test_attention_is_softmax_of_queries_and_keys_per_head():
    torch.manual_seed(0)
    attention = randomise(SelfAttention(8, head_channels=4, norm_groups=2, norm_eps=1e-6)).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    pixels = nn.functional.group_norm(x, 2, attention.norm.weight, attention.norm.bias, 1e-6).flatten(2).mT
    q, k, v = attention.qkv(pixels).split(8, dim=2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = (q[..., part] @ k[..., part].mT / 2).softmax(dim=2)
        heads.append(weights @ v[..., part])
    expected = x + attention.out(torch.cat(heads, dim=2)).mT.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_sinusoidal_embedding_is_the_formula():
    found = sinusoidal_embedding(torch.tensor([0.0, 3.0, 999.0]), 8, frequency_shift=1)
    assert found.dtype == torch.float32
    label = torch.tensor([0.0, 3.0, 999.0], dtype=torch.float64)[:, None]
    angles = label * 10_000 ** (-torch.arange(4, dtype=torch.float64) / 3)
    torch.testing.assert_close(found.double(), torch.cat([angles.sin(), angles.cos()], 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cast", [False, True], ids=["autocast", "bfloat16 weights"])
def test_a_thousand_labels_have_a_thousand_embeddings_in_bfloat16(cast):
    embedding = randomise(UNet(**{**SMALL, "base_channels": 32})).embedding
    if cast:
        embedding = embedding.bfloat16()
    label = torch.arange(1000.0)
    with torch.autocast("cpu", torch.bfloat16):
        sinusoids, vectors = sinusoidal_embedding(label, 8, 1), embedding(label)
    assert sinusoids.dtype == torch.float32
    assert sinusoids.unique(dim=0).shape[0] == 1000
    assert vectors.dtype == (torch.bfloat16 if cast else torch.float32)
    assert vectors.unique(dim=0).shape[0] == 1000


@pytest.mark.parametrize("options", [{}, {"scale_shift": True, "head_channels": 4}], ids=["ddpm", "adm"])
def test_bfloat16_autocast_is_finite_and_close_to_float32(options):
    network = randomise(UNet(**SMALL, **options))
    x, label = inputs()
    exact = network(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x, label)
        loss = y.float().square().mean()
    loss.backward()
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() / exact.norm() < 0.05
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_channels_last_gives_the_same_output_in_channels_last():
    network = randomise(UNet(**SMALL))
    x, label = inputs()
    expected = network(x, label)
    y = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), label)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_compiles_to_one_graph_whatever_the_labels():
    network = randomise(UNet(**SMALL))
    x, label = inputs()
    expected = network(x, label + 7)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    compiled(x, label)
    torch.testing.assert_close(compiled(x, label + 7), expected)
    assert counter.frame_count == 1


def test_dropout_acts_in_training_alone():
    network = randomise(UNet(**SMALL, dropout=0.5))
    x, label = inputs()
    assert not torch.equal(network(x, label), network(x, label))
    network.eval()
    assert torch.equal(network(x, label), network(x, label))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"resolution": 28, "channel_multipliers": [1, 1, 1, 1]},
            ["multiple of 8", "4 channel_multipliers halve it 3 times", "resolution=28", "data.resolution=24 or 32"],
        ),
        ({"resolution": 2, "channel_multipliers": [1, 1, 1]}, ["multiple of 4", "data.resolution=4"]),
        ({"resolution": 0}, [">= 1", "resolution=0"]),
        ({"base_channels": 6}, ["norm_groups", "norm_groups=4", "[6, 12]"]),
        ({"norm_groups": 0}, ["norm_groups >= 1", "norm_groups=0"]),
        ({"head_channels": 5}, ["head_channels=5", "[16]"]),
        ({"head_channels": 0}, ["head_channels >= 1", "head_channels=0"]),
        ({"channel_multipliers": []}, ["channel_multipliers", "[]"]),
        ({"channel_multipliers": [1, 0]}, ["each >= 1", "[1, 0]"]),
        ({"attention_resolutions": [4, 0]}, ["attention_resolutions > 0", "[4, 0]"]),
        ({"dropout": 1.0}, ["0 <= dropout < 1", "dropout=1.0"]),
        ({"dropout": -0.1}, ["0 <= dropout < 1", "dropout=-0.1"]),
        ({"channels": 0}, ["channels >= 1", "channels=0"]),
        ({"num_res_blocks": 0}, ["num_res_blocks=0"]),
        ({"base_channels": 9}, ["even", "base_channels=9"]),
        ({"frequency_shift": 4}, ["frequency_shift=4"]),
        ({"norm_eps": 0.0}, ["norm_eps > 0"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_unet_refuses_in_one_line(change, parts):
    with pytest.raises(ValueError) as caught:
        UNet(**{**SMALL, **change})
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_simple_unet_refuses_no_channels():
    with pytest.raises(ValueError, match="channels=0"):
        SimpleUNet(0)


def test_resolution_that_halves_often_enough_is_taken():
    network = preset("unet_small", 1, 36)
    x, label = inputs(1, 1, 36)
    assert network(x, label).shape == x.shape


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_attention(masked, monkeypatch):
    q, k, v = (torch.randn(2, 3, length, 8) for length in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.equal(kernels.attention(q, k, v, mask), exact)
    low, fused_attention, calls = [part.bfloat16() for part in (q, k, v)], F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *q, **k: calls.append(1) or fused_attention(*q, **k))
    by_products = kernels.attention(*low, mask)
    assert not calls
    monkeypatch.setattr(kernels, "MAX_SCORES", 2 * 3 * 5 * 7 - 1)
    fused = kernels.attention(*low, mask)
    assert calls
    assert by_products.dtype == fused.dtype == torch.bfloat16
    for found in (by_products, fused):
        assert (found.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_does_not_depend_on_the_memory_format(dtype, memory_format):
    norm = nn.GroupNorm(4, 16)
    nn.init.normal_(norm.weight)
    x = (3 * torch.randn(2, 16, 4, 6) + 1).to(dtype)
    exact = norm(x.float())
    for kernel, expected in ((kernels.group_norm, exact), (kernels.group_norm_silu, nn.functional.silu(exact))):
        for with_gradients in (True, False):
            with torch.set_grad_enabled(with_gradients):
                found = kernel(norm, x.to(memory_format=memory_format))
            assert found.dtype == dtype
            assert found.is_contiguous(memory_format=memory_format)
            assert (found.float() - expected).norm() <= (0.005 if dtype == torch.bfloat16 else 1e-6) * expected.norm()


@pytest.mark.parametrize("scale_shift", [False, True])
def test_the_noise_level_is_not_rounded_to_bfloat16(scale_shift):
    network = randomise(UNet(**SMALL, scale_shift=scale_shift))
    found = []
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.project.register_forward_hook(lambda layer, inputs, output: found.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(*inputs())
    assert set(found) == {torch.float32}
