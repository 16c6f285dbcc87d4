"""How models follow each other, and which of them are guided."""

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from alphabar.data import Shape
from alphabar.diffusion.denoiser import Cond, NetworkDenoiser
from alphabar.diffusion.guidance import CFGDenoiser
from alphabar.diffusion.noise import SINGLE_PROCESS, ImageNoise, RankShare
from alphabar.diffusion.objectives.denoising import Denoising
from alphabar.diffusion.parameterizations import X
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Dynamic, Static
from alphabar.errors import UserError
from alphabar.models.codecs import Codec
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.conditioners import Conditioner, ImageConditioner
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.models.conditioners.low_resolution import LowResolution
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.models.networks import Network
from alphabar.sampling.cascade import RecordingSamples, cascade_job, check_cascade, samplers_for
from alphabar.sampling.conditions import null_conditions
from alphabar.sampling.guidance_config import APG, Autoguidance, ClassifierFree, guided_stages
from alphabar.sampling.model import LoadedModel
from alphabar.training.modules.diffusion import DiffusionModule

CPU = torch.device("cpu")


class Vectors(Codec):
    """A space of 5 numbers, in which no images are."""

    is_bounded = False
    makes_images = False

    def space(self, channels: int, height: int, width: int) -> Sequence[int]:
        return (5,)

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Tensor:
        return self.encode(batch["image"])

    def encode(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 5)

    def decode(self, x: Tensor) -> Tensor:
        return x


class OfVectors(ImageConditioner):
    """Tells the mean of such numbers."""

    is_optional = True

    def attach_captions(self, captions: Sequence[str] | None) -> None: ...

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        return self.null(len(batch["image"]))

    def null(self, num: int) -> Cond:
        return {"vector": torch.zeros(num, 1)}

    def from_prompts(self, words: Sequence[str]) -> Cond:
        raise ValueError("no words")

    def must_follow(self, codec: Codec, channels: int, height: int, width: int) -> None:
        if codec.makes_images:
            raise ValueError("need what a prior makes")

    def from_image(self, output: Tensor, noise: ImageNoise) -> Cond:
        return {"vector": output.mean(dim=1, keepdim=True)}


class Told(Network):
    """A network whose x_hat is half of x plus the mean of its condition."""

    def forward(self, x: Tensor, label: Tensor, cond: Cond = None) -> Tensor:
        means = [value.flatten(1).mean(dim=1) for value in (cond or {}).values()]
        conditions = torch.stack(means).sum(0) if means else torch.zeros(len(x))
        return x / 2 + conditions.view(-1, *(1,) * (x.ndim - 1))


def loaded(conditioner: Conditioner, resolution: int, codec: Codec | None = None) -> LoadedModel:
    denoiser = NetworkDenoiser(Told(), LinearSchedule(), X())
    adam = partial(torch.optim.Adam, lr=1e-3)
    module = DiffusionModule(denoiser, Denoising(), codec or Pixels(), adam, 0, conditioner=conditioner).eval()
    return LoadedModel(module, OmegaConf.create(), Shape(3, resolution, resolution), 0)


@pytest.fixture
def chain():
    """A prior, its decoder of 4 x 4, and a larger one of 8 x 8."""
    torch.manual_seed(0)
    return [
        loaded(ClassLabel(2, 4), 4, Vectors()),
        loaded(OfVectors(), 4),
        loaded(LowResolution(3, 8, 4, width=4), 8),
    ]


def draw(chain, num, batch_size, seed=0, conditions=None, wrap_upstream=lambda pictures: pictures):
    samplers = samplers_for(chain, DDIM(num_steps=3))
    conditions = conditions or null_conditions(chain[0].model.conditioner)
    denoisers = [each.model.denoiser for each in chain]
    generation = cascade_job(chain, denoisers, samplers, conditions, seed, batch_size, CPU, wrap_upstream=wrap_upstream)
    with torch.no_grad():
        return torch.cat([part.images for part in generation.images(denoisers[-1], num, CPU)])


def test_a_prior_a_decoder_and_a_larger_model_follow_each_other(chain):
    check_cascade(chain, ["a", "b", "c"])
    kept: dict[int, Tensor] = {}
    images = draw(chain, 5, 2, wrap_upstream=lambda pictures: RecordingSamples(pictures, 3, kept))
    assert images.shape == (5, 3, 8, 8)
    assert {index: image.shape for index, image in kept.items()} == dict.fromkeys(range(3), (3, 4, 4))
    assert torch.equal(images, draw(chain, 5, 5))
    assert not torch.equal(images, draw(chain, 5, 5, seed=1))
    classes = chain[0].model.conditioner
    labelled = draw(chain, 5, 5, conditions=lambda indices: classes.from_prompts(["1"] * len(indices)))
    assert not torch.equal(images, labelled)  # the condition of the first reaches the last


def test_the_first_draws_what_it_draws_alone_and_each_has_its_own_noise(chain):
    decoder, larger = loaded(Unconditional(), 4), chain[2]
    kept: dict[int, Tensor] = {}
    draw([decoder, larger], 4, 4, wrap_upstream=lambda pictures: RecordingSamples(pictures, 4, kept))
    assert torch.equal(torch.stack([kept[index] for index in range(4)]), draw([decoder], 4, 4))
    samplers, denoisers = [DDIM(num_steps=3)] * 2, [decoder.model.denoiser] * 2
    assert cascade_job([decoder, larger], denoisers, samplers, lambda indices: None, 7, 4, CPU).seed != 7


def test_only_what_fits_may_follow(chain):
    prior, decoder, larger = chain
    for models, complaint in (
        ([prior, larger], "stages: p1 cannot follow p0: need a stage that makes images of 3 x 4 x 4, got one that makes none"),
        ([larger, decoder], "stages: p1 cannot follow p0: need what a prior makes"),
        ([decoder, prior], r"stages: p1 cannot follow p0: it is conditioned on no images \(it has ClassLabel\)"),
        ([prior], r"checkpoint=p0: this model makes no images .* give 'stages=\[p0\]' and checkpoint="),
    ):
        with pytest.raises(UserError, match=complaint):
            check_cascade(models, [f"p{index}" for index in range(len(models))])


def test_thresholding_acts_where_there_is_a_range(chain):
    dynamic = DDIM(num_steps=3, thresholding=Dynamic())
    assert [each.thresholding for each in samplers_for(chain, dynamic)] == [None, Dynamic(), Dynamic()]
    assert samplers_for(chain[:1], DDIM(num_steps=3, thresholding=Static()))[0].thresholding is None
    with pytest.raises(UserError, match="thresholding=dynamic"):
        samplers_for(chain[:1], dynamic)


@pytest.mark.parametrize("guide", [ClassifierFree(weight=2.0), APG(weight=2.0)], ids=["cfg", "apg"])
def test_guidance_acts_where_a_model_can_do_without_its_condition(chain, guide):
    modules = [each.model for each in chain]
    assert [isinstance(each, CFGDenoiser) for each in guided_stages(modules, guide)] == [True, True, False]
    assert guided_stages(modules, None) == [module.denoiser for module in modules]
    null = {"vector": torch.ones(1, 4)}
    first, second, _ = guided_stages(modules, guide, null)
    assert torch.equal(first.null["vector"], null["vector"])
    assert torch.equal(second.null["vector"], torch.zeros(1, 1))  # words are the first model's alone
    strict = [loaded(ClassLabel(2, 4, dropout=0.0), 4).model, modules[2]]
    with pytest.raises(UserError, match="none of these models was trained to do without its condition"):
        guided_stages(strict, guide)
    mixed = [strict[0], loaded(LowResolution(3, 8, 4, width=4, dropout=0.1), 8).model]
    assert [isinstance(each, CFGDenoiser) for each in guided_stages(mixed, guide)] == [False, True]
    with pytest.raises(UserError, match="this model was never trained to do without its condition"):
        guided_stages(mixed, guide, null)


def test_guidance_by_a_weaker_model_is_named_after_its_weights():
    settings = {"weight": 2.0, "checkpoint": "early.ckpt"}
    assert Autoguidance(**settings).label == "autocfg2.0"
    assert Autoguidance(**settings, weights="raw", interval=[0.2, 0.8]).label == "autocfg2.0-interval0.2-0.8-raw"
    assert Autoguidance(**settings, ema_length=0.1).label == "autocfg2.0-ema0.1"
