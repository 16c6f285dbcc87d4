"""`DiT` against diffusers' DiTTransformer2DModel: the same weights, the same input, the same output."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from alphabar.models.networks.diffusers_dit import dit_from_diffusers
from alphabar.models.networks.dit import DiT

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}


def random_model(**changes):
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**CONFIG | changes)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
        first, *others = (block.norm1.emb for block in model.transformer_blocks)
        for each in others:
            each.load_state_dict(first.state_dict())
    return model.eval()


@pytest.mark.parametrize(
    "changes", [{}, {"out_channels": 6, "patch_size": 4}, {"in_channels": 4, "out_channels": 4, "attention_head_dim": 6}]
)
def test_the_output_is_that_of_diffusers(changes):
    theirs = random_model(**changes)
    arguments, weights, classes = dit_from_diffusers(theirs.config, theirs.state_dict())
    ours = DiT(**arguments).eval()
    ours.load_state_dict(weights)
    x, label, t = (
        torch.randn(3, ours.patch_in.in_features // ours.patch_size**2, 8, 8),
        torch.tensor([1, 4, 10]),
        torch.tensor([0, 200, 999]),
    )
    with torch.no_grad():
        expected = theirs(x, t, label).sample
        found = ours(x, t.float(), {"vector": classes[label]})
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_what_has_no_counterpart_is_named():
    model = random_model()
    with pytest.raises(ValueError, match="norm_type='layer_norm'"):
        dit_from_diffusers({**model.config, "norm_type": "layer_norm"}, model.state_dict())
    state = model.state_dict()
    del state["proj_out_1.bias"]
    with pytest.raises(ValueError, match=r"need proj_out_1\.bias"):
        dit_from_diffusers(model.config, state)
    state = {name: weight + 1.0 * ("blocks.1.norm1.emb" in name) for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match="one embedding of the noise level for all blocks"):
        dit_from_diffusers(model.config, state)
