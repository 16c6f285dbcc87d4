import pytest
import torch
from diffusers import DiTTransformer2DModel
from sklearn.datasets import load_digits

from alphabar.models.networks.dit import DiT, PatchAttention, patchify, sinusoidal_positions, unpatchify
from test_networks import randomise

SMALL = {"channels": 2, "resolution": 8, "patch_size": 2, "width": 16, "depth": 2, "num_heads": 4}


def inputs(batch=3, channels=2, resolution=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, resolution, resolution, generator=generator), torch.arange(batch) * 100.0


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 12])
def test_unpatchify_is_the_inverse_of_patchify(patch_size):
    x = torch.randn(2, 3, 12, 24)
    patches = patchify(x, patch_size)
    assert patches.shape == (2, 2 * (12 // patch_size) ** 2, 3 * patch_size**2)
    assert torch.equal(unpatchify(patches, patch_size, 12 // patch_size), x)


def test_patches_are_squares_in_reading_order():
    x = torch.randn(2, 3, 6, 6)
    patches = patchify(x, 2)
    assert torch.equal(patches[:, 1], x[:, :, 0:2, 2:4].flatten(1))
    assert torch.equal(patches[:, 5], x[:, :, 2:4, 4:6].flatten(1))


def test_positions_are_the_closed_form():
    found = sinusoidal_positions(4, 5, 16).double()
    assert found.shape == (20, 16)
    for row, column in [(0, 0), (1, 4), (3, 2)]:
        frequencies = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
        parts = [
            (place * frequencies).sin() if wave == "sin" else (place * frequencies).cos()
            for place in (column, row)
            for wave in ("sin", "cos")
        ]
        torch.testing.assert_close(found[5 * row + column], torch.cat(parts), atol=1e-6, rtol=0)
    assert found.unique(dim=0).shape[0] == 20


def test_positions_are_neither_trained_nor_saved():
    network = DiT(**SMALL)
    assert "positions" not in network.state_dict()
    assert "positions" in dict(network.named_buffers())


@pytest.mark.parametrize("widths", [{}, {"token_channels": 5}], ids=["alone", "tokens"])
def test_it_starts_at_zero_and_every_block_as_identity(widths):
    network = DiT(**SMALL, **widths)
    x, label = inputs()
    cond = {"tokens": torch.randn(3, 4, 5), "mask": torch.ones(3, 4, dtype=torch.bool)} if widths else None
    assert torch.equal(network(x, label, cond), torch.zeros_like(x))
    h = torch.randn(3, 16, 16)
    tokens = network.reader.read(cond, x).tokens
    for block in network.blocks:
        assert torch.equal(block(h, network.embedding(label), tokens), h)


def test_weights_start_as_published():
    network = DiT(channels=4, resolution=8, width=384, depth=1, num_heads=6, vector_channels=64)
    for linear in (network.embedding.linear1, network.embedding.linear2, network.embedding.vector):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for linear in (network.patch_in, network.blocks[0].attention.qkv, network.blocks[0].attention.out, network.blocks[0].mlp[0]):
        assert linear.weight.std().item() == pytest.approx((2 / sum(linear.weight.shape)) ** 0.5, rel=0.05)  # Glorot's
    assert all(parameter.abs().max() == 0 for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_a_learned_variance_doubles_the_channels_that_come_out():
    x, label = inputs()
    assert DiT(**SMALL, learned_variance=True)(x, label).shape == (3, 4, 8, 8)


@pytest.mark.parametrize(
    ("size", "millions"),
    [({"width": 384, "depth": 12, "num_heads": 6}, 33), ({"width": 768, "depth": 12, "num_heads": 12}, 130)],
    ids=["S/2", "B/2"],
)
def test_it_has_the_size_of_the_papers(size, millions):
    """Peebles & Xie 2023, table 1: 33 and 130 million in all, of which 1001 vectors of classes are not ours."""
    with torch.device("meta"):
        network = DiT(channels=4, resolution=32, patch_size=2, learned_variance=True, **size)
    num = sum(parameter.numel() for parameter in network.parameters())
    w, depth = size["width"], size["depth"]
    blocks = depth * (4 * (w * w + w) + 8 * w * w + 5 * w + 6 * (w * w + w))
    rest = (16 * w + w) + (256 * w + w + w * w + w) + 2 * (w * w + w) + (32 * w + 32)
    assert num == blocks + rest
    assert round((num + 1001 * w) / 1e6) == millions


def test_attention_is_softmax_of_queries_and_keys_per_head():
    attention = randomise(PatchAttention(8, num_heads=2)).double()
    h = torch.randn(2, 9, 8, dtype=torch.float64)
    q, k, v = attention.qkv(h).split(8, dim=2)
    heads = [(q[..., part] @ k[..., part].mT / 2).softmax(dim=2) @ v[..., part] for part in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(attention(h), attention.out(torch.cat(heads, dim=2)))


def from_theirs(theirs):
    """Their weights under our names: classes are one-hot vectors here."""
    weights = theirs.state_dict()
    noise = "transformer_blocks.0.norm1.emb."
    width = weights["pos_embed.proj.bias"].numel()
    table = weights[f"{noise}class_embedder.embedding_table.weight"]
    ours = {
        # They expect the cosines first.
        "embedding.linear1.weight": weights[f"{noise}timestep_embedder.linear_1.weight"].roll(128, dims=1),
        "embedding.linear1.bias": weights[f"{noise}timestep_embedder.linear_1.bias"],
        "embedding.linear2.weight": weights[f"{noise}timestep_embedder.linear_2.weight"],
        "embedding.linear2.bias": weights[f"{noise}timestep_embedder.linear_2.bias"],
        "embedding.vector.weight": table.T,
        "embedding.vector.bias": torch.zeros(width),
        "patch_in.weight": weights["pos_embed.proj.weight"].flatten(1),
        "patch_in.bias": weights["pos_embed.proj.bias"],
    }
    for part in ("weight", "bias"):
        ours[f"modulation.{part}"] = weights[f"proj_out_1.{part}"]
        # Their patches end with the channels, ours begin with them.
        ours[f"patch_out.{part}"] = weights[f"proj_out_2.{part}"].unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)
        for i in range(len(theirs.transformer_blocks)):
            block = f"transformer_blocks.{i}."
            ours[f"blocks.{i}.modulation.{part}"] = weights[f"{block}norm1.linear.{part}"]
            ours[f"blocks.{i}.attention.qkv.{part}"] = torch.cat([weights[f"{block}attn1.to_{name}.{part}"] for name in "qkv"])
            ours[f"blocks.{i}.attention.out.{part}"] = weights[f"{block}attn1.to_out.0.{part}"]
            ours[f"blocks.{i}.mlp.0.{part}"] = weights[f"{block}ff.net.0.proj.{part}"]
            ours[f"blocks.{i}.mlp.2.{part}"] = weights[f"{block}ff.net.2.{part}"]
    return ours


def test_it_computes_what_diffusers_does():
    theirs = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=3, sample_size=8,
        num_embeds_ada_norm=10, norm_eps=1e-6,
    )  # fmt: skip
    randomise(theirs).eval()
    for block in theirs.transformer_blocks[1:]:  # each has an embedding of its own; in published weights all are equal
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    ours = DiT(3, 8, 2, width=32, depth=3, num_heads=4, learned_variance=True, frequency_shift=1, vector_channels=11)
    ours.load_state_dict(from_theirs(theirs))
    x, label = inputs(4, 3)
    classes = torch.tensor([0, 3, 9, 10])
    with torch.no_grad():
        expected = theirs(x, label, classes).sample
        found = ours(x, label, {"vector": torch.nn.functional.one_hot(classes, 11).float()})
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_alone():
    network = randomise(DiT(**SMALL, dropout=0.5))
    x, label = inputs()
    assert not torch.equal(network(x, label), network(x, label))
    network.eval()
    assert torch.equal(network(x, label), network(x, label))


def test_it_learns_to_denoise_a_batch_of_digits():
    torch.manual_seed(0)
    x = torch.tensor(load_digits().images[:16], dtype=torch.float32)[:, None] / 8 - 1
    eps, label = torch.randn_like(x), torch.linspace(0, 999, 16)
    alpha = torch.linspace(0.95, 0.05, 16)[:, None, None, None]
    x_t = alpha * x + (1 - alpha**2).sqrt() * eps
    network = DiT(1, 8, width=64, depth=2, num_heads=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (network(x_t, label) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(eps.square().mean().item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"resolution": 7}, ["multiple of patch_size=2", "resolution=7", "data.resolution=6 or 8"]),
        ({"resolution": 2, "patch_size": 4}, ["multiple of patch_size=4", "data.resolution=4"]),
        ({"resolution": 0}, ["resolution=0"]),
        ({"patch_size": 0}, ["patch_size >= 1", "patch_size=0"]),
        ({"width": 18}, ["multiple of 4", "width=18"]),
        ({"width": 0}, ["width=0"]),
        ({"num_heads": 3}, ["divides width=16", "num_heads=3"]),
        ({"num_heads": 0}, ["num_heads >= 1", "num_heads=0"]),
        ({"mlp_ratio": 0.0}, ["mlp_ratio=0.0"]),
        ({"depth": 0}, ["depth >= 1", "depth=0"]),
        ({"channels": 0}, ["channels >= 1", "channels=0"]),
        ({"dropout": 1.0}, ["0 <= dropout < 1", "dropout=1.0"]),
        ({"frequency_shift": 128}, ["frequency_shift < 128", "frequency_shift=128"]),
        ({"frequency_shift": -1}, ["frequency_shift=-1"]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(change, parts):
    with pytest.raises(ValueError) as caught:
        DiT(**{**SMALL, **change})
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_images_of_another_size_have_positions_of_their_own():
    x, label = torch.randn(3, 2, 6, 16), torch.zeros(3)
    torch.manual_seed(0)
    network = randomise(DiT(**SMALL))
    torch.manual_seed(0)
    made_for_it = randomise(DiT(**SMALL | {"resolution": [6, 16]}))
    assert torch.equal(network(x, label), made_for_it(x, label))


def test_images_of_sides_that_are_no_patches_are_refused():
    x, label = torch.randn(3, 2, 15, 16), torch.zeros(3)
    with pytest.raises(ValueError, match=r"sides that are multiples of 2, got \[15,16\]: \[14,16\] or 16"):
        DiT(**SMALL)(x, label)
