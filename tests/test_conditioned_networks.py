"""Networks with conditions: vectors, tokens and images."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from alphabar.models.networks import ConditionReader
from alphabar.models.networks.blocks import CrossAttention
from alphabar.models.networks.dit import DiT
from alphabar.models.networks.simple_unet import SimpleUNet
from alphabar.models.networks.unet import UNet
from test_networks import SMALL, randomise

DIT = {"channels": 2, "resolution": 8, "patch_size": 2, "width": 16, "depth": 2, "num_heads": 4}
WIDTHS = {"vector_channels": 6, "token_channels": 5, "image_channels": 3}
MAKERS = {
    "ddpm": lambda **widths: UNet(**SMALL, **widths),
    "adm": lambda **widths: UNet(**SMALL, scale_shift=True, head_channels=4, **widths),
    "dit": lambda **widths: DiT(**DIT, **widths),
}
NETWORKS = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
LENGTHS = [4, 1, 2]


def inputs(batch=3):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 2, 8, 8, generator=generator)
    return x, torch.arange(batch) * 100.0


def condition(batch=3, **changes):
    generator = torch.Generator().manual_seed(3)
    cond = {
        "vector": torch.randn(batch, 6, generator=generator),
        "tokens": torch.randn(batch, 4, 5, generator=generator),
        "mask": torch.arange(4) < torch.tensor(LENGTHS[:batch])[:, None],
        "image": torch.randn(batch, 3, 8, 8, generator=generator),
    }
    return {name: value for name, value in {**cond, **changes}.items() if value is not None}


@NETWORKS
def test_gradient_reaches_every_parameter(make):
    network = randomise(make(**WIDTHS))
    network(*inputs(), condition()).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert silent == []


@NETWORKS
@pytest.mark.parametrize("key", WIDTHS)
def test_one_condition_alone_is_read(make, key):
    network = randomise(make(**{key: WIDTHS[key]}))
    names = {"vector_channels": ["vector"], "token_channels": ["tokens", "mask"], "image_channels": ["image"]}[key]
    cond = {name: value for name, value in condition().items() if name in names}
    y = network(*inputs(), cond)
    other = {**cond, names[0]: cond[names[0]].roll(1, dims=0)}
    assert (network(*inputs(), other) - y).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@NETWORKS
@pytest.mark.parametrize("name", ["vector", "tokens", "image"])
def test_each_condition_changes_its_own_images_alone(make, name):
    network = randomise(make(**WIDTHS))
    cond = condition()
    changed = cond[name].clone()
    changed[1, :1] += 1  # the first token, the first channel
    change = (network(*inputs(), {**cond, name: changed}) - network(*inputs(), cond)).abs().amax(dim=(1, 2, 3))
    assert change[1] > 1e-3
    assert change[[0, 2]].max() < 1e-5


@NETWORKS
@pytest.mark.parametrize("value", [7.0, -1e30, float("nan")])
def test_masked_tokens_have_no_influence_not_even_on_the_last_bit(make, value):
    network = randomise(make(**WIDTHS))
    cond = condition()
    changed = cond["tokens"].masked_fill(~cond["mask"][:, :, None], value)
    assert not torch.equal(changed, cond["tokens"])
    assert torch.equal(network(*inputs(), {**cond, "tokens": changed}), network(*inputs(), cond))


@NETWORKS
def test_masked_tokens_may_as_well_not_be_there(make):
    network = randomise(make(**WIDTHS))
    cond = condition()
    y = network(*inputs(), cond)
    x, label = inputs()
    for i, length in enumerate(LENGTHS):
        one = {name: value[i : i + 1] for name, value in cond.items()}
        one |= {"tokens": one["tokens"][:, :length], "mask": one["mask"][:, :length]}
        torch.testing.assert_close(network(x[i : i + 1], label[i : i + 1], one), y[i : i + 1], atol=1e-5, rtol=1e-5)


@NETWORKS
def test_a_mask_without_tokens_attends_to_zeros(make):
    network = randomise(make(**WIDTHS))
    nothing = condition(mask=torch.zeros(3, 4, dtype=torch.bool))
    zero = condition(tokens=torch.zeros(3, 1, 5), mask=torch.ones(3, 1, dtype=torch.bool))
    y = network(*inputs(), nothing)
    torch.testing.assert_close(y, network(*inputs(), zero), atol=1e-5, rtol=1e-5)
    y.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@NETWORKS
def test_permuted_rows_are_permuted_outputs(make):
    network = randomise(make(**WIDTHS))
    x, label = inputs()
    order = torch.tensor([2, 0, 1])
    permuted = {name: value[order] for name, value in condition().items()}
    y = network(x[order], label[order], permuted)
    torch.testing.assert_close(y, network(x, label, condition())[order], atol=1e-5, rtol=1e-5)


@NETWORKS
def test_channels_last_is_the_same(make):
    network = randomise(make(**WIDTHS))
    x, label = inputs()
    expected = network(x, label, condition())
    image = condition()["image"].to(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)
    y = network(x.to(memory_format=torch.channels_last), label, condition(image=image))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@NETWORKS
def test_bfloat16_autocast_is_close_to_float32(make):
    network = randomise(make(**WIDTHS))
    exact = network(*inputs(), condition())
    with torch.autocast("cpu", torch.bfloat16):
        y = network(*inputs(), condition())
    y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() / exact.norm() < 0.05
    assert all(p.grad.isfinite().all() for p in network.parameters())


@NETWORKS
def test_compiles_to_one_graph(make):
    network = randomise(make(**WIDTHS))
    expected = network(*inputs(), condition())
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs(), condition()), expected)
    assert counter.frame_count == 1


@NETWORKS
def test_a_network_that_reads_nothing_has_nothing_to_read_with(make):
    shared = make().state_dict()
    conditioned = make(**WIDTHS).state_dict()
    more = {name for name in conditioned if name not in shared}
    assert shared.keys() <= conditioned.keys()
    assert all(".cross." in name or name.startswith("embedding.vector.") for name in more)
    torch.manual_seed(0)
    network = make()
    torch.manual_seed(0)
    same = make(vector_channels=0, token_channels=0, image_channels=0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))
    network = randomise(network)
    assert torch.equal(network(*inputs()), network(*inputs(), {}))


@NETWORKS
def test_the_image_joins_behind_the_channels_of_the_input(make):
    plain, conditioned = randomise(make()), make(image_channels=3)
    weights = plain.state_dict()
    name = next(name for name, weight in conditioned.state_dict().items() if weight.shape != weights[name].shape)
    wide = torch.zeros_like(conditioned.state_dict()[name])
    wide[:, : weights[name].shape[1]] = weights[name]
    conditioned.load_state_dict({**weights, name: wide})
    expected = plain(*inputs())
    torch.testing.assert_close(conditioned(*inputs(), {"image": condition()["image"]}), expected, atol=1e-5, rtol=1e-5)


def test_attention_to_tokens_follows_every_attention_to_pixels():
    network = UNet(**SMALL, token_channels=5)
    names = [name for name, module in network.named_modules() if isinstance(module, CrossAttention)]
    assert names == ["down.1.layers.0.cross", "middle.0.cross", "up.0.layers.0.cross", "up.0.layers.1.cross"]


def test_attention_to_tokens_is_softmax_of_queries_and_keys_per_head():
    attention = randomise(CrossAttention(8, 5, head_channels=4, norm_groups=2, norm_eps=1e-6)).double()
    x = torch.randn(3, 8, 3, 3, dtype=torch.float64)
    cond = condition()
    tokens = ConditionReader(token_channels=5).read({"tokens": cond["tokens"].double(), "mask": cond["mask"]}, x).tokens
    inner = attention.attention
    pixels = nn.functional.group_norm(x, 2, attention.norm.weight, attention.norm.bias, 1e-6).flatten(2).mT
    q, (k, v) = inner.q(pixels), inner.kv(cond["tokens"].double()).split(8, dim=2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].mT / 2
        heads.append(scores.masked_fill(~cond["mask"][:, None], -torch.inf).softmax(dim=2) @ v[..., part])
    torch.testing.assert_close(attention(x, tokens), x + inner.out(torch.cat(heads, dim=2)).mT.reshape(x.shape))


def test_the_vector_joins_the_noise_level_before_the_last_silu():
    embedding = randomise(UNet(**SMALL, vector_channels=6)).embedding
    label, vector = torch.tensor([3.0]), torch.randn(1, 6)
    before = torch.randn(1, 32)
    embedding.linear2.forward = lambda hidden: before
    torch.testing.assert_close(embedding(label, vector), nn.functional.silu(before + embedding.vector(vector)))


@NETWORKS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector": None}, "this network reads a vector of 6 numbers, and was given none"),
        ({"tokens": None}, "this network reads tokens of 5 numbers, and was given none"),
        ({"mask": None}, "this network reads tokens with a mask [B, L], True for words, and was given none"),
        ({"image": None}, "this network reads an image of 3 channels, and was given none"),
        (
            {"vector": torch.zeros(3, 7)},
            "this network reads a vector of 6 numbers, here of shape [3, 6], and was given [3, 7]",
        ),
        ({"vector": torch.zeros(1, 6)}, "this network reads a vector of 6 numbers, here of shape [3, 6], and was given [1, 6]"),
        ({"vector": torch.zeros(6)}, "this network reads a vector of 6 numbers, here of shape [3, 6], and was given [6]"),
        (
            {"tokens": torch.zeros(3, 4, 6)},
            "this network reads tokens of 5 numbers, here of shape [3, L, 5], and was given [3, 4, 6]",
        ),
        (
            {"tokens": torch.zeros(3, 0, 5), "mask": torch.zeros(3, 0, dtype=torch.bool)},
            "this network reads tokens of 5 numbers, here of shape [3, L, 5], and was given [3, 0, 5]",
        ),
        (
            {"mask": torch.ones(3, 5, dtype=torch.bool)},
            "need a mask of bool and of shape [3, 4], as the tokens, got torch.bool, [3, 5]",
        ),
        ({"mask": torch.ones(3, 4)}, "need a mask of bool and of shape [3, 4], as the tokens, got torch.float32, [3, 4]"),
        (
            {"image": torch.zeros(3, 3, 4, 4)},
            "this network reads an image of 3 channels, here of shape [3, 3, 8, 8], and was given [3, 3, 4, 4]",
        ),
        ({"words": torch.zeros(3)}, "networks read vector, tokens with mask, image and augmentation, and this was given words"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_condition_that_is_missing_or_does_not_fit_is_one_line(make, changes, message):
    with pytest.raises(ValueError) as caught:
        make(**WIDTHS)(*inputs(), condition(**changes))
    assert str(caught.value) == message


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda: SimpleUNet(2)], ids=[*MAKERS, "simple"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vector"], "no vector, and was given a vector of 6 numbers: set network.vector_channels=6,"),
        (["tokens", "mask"], "no tokens, and was given tokens of 5 numbers: set network.token_channels=5,"),
        (["image"], "no image, and was given an image of 3 channels: set network.image_channels=3,"),
        (["mask"], "no tokens, and was given a mask without any"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_not_read_is_refused_by_the_key_to_set(make, names, message):
    cond = {name: value for name, value in condition().items() if name in names}
    with pytest.raises(ValueError) as caught:
        make()(*inputs(), cond)
    assert f"this network reads {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@NETWORKS
@pytest.mark.parametrize("key", WIDTHS)
def test_widths_below_zero_are_refused(make, key):
    with pytest.raises(ValueError, match=rf"^need {key} >= 0 \(0: read none\), got {key}=-1$"):
        make(**{key: -1})
