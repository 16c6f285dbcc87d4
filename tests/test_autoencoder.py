"""The KL autoencoder: its networks and its losses."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import toy
from alphabar.errors import UserError
from alphabar.models.autoencoder import Posterior
from alphabar.models.discriminator import PatchDiscriminator, hinge
from alphabar.training.callbacks.reconstructions import psnr
from alphabar.training.modules.autoencoder import AutoencoderModule
from tiny_autoencoders import module, network


def test_divergence_is_that_of_torch():
    torch.manual_seed(0)
    found = Posterior(torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4))
    other = kl_divergence(Normal(found.mean, (0.5 * found.log_variance).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(found.divergence(), other)


def test_samples_have_the_mean_and_the_variance_of_the_posterior():
    torch.manual_seed(0)
    found = Posterior(torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 4.0).log()).sample()
    assert found.mean() == pytest.approx(3, abs=0.05)
    assert found.std() == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_groups": 3}, "norm_groups divides"),
        ({"resolution": 7}, "a multiple of 2, got resolution=7"),
        ({"latent_channels": 0}, "latent_channels=0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        network(**changes)


def test_the_generators_gradient_reaches_images_and_not_the_discriminator():
    torch.manual_seed(0)
    discriminator, images = PatchDiscriminator(1, 8, 2), torch.randn(2, 1, 16, 16, requires_grad=True)
    judged = discriminator.judgement(images)
    torch.testing.assert_close(judged, discriminator(images))
    judged.mean().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_hinge_is_zero_beyond_the_margins_and_one_at_indifference():
    assert hinge(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -7.0])) == 0
    assert hinge(torch.zeros(3), torch.zeros(3)) == 1


def batch():
    return {"image": torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)}


@pytest.fixture
def counted(monkeypatch):
    """Modules that stand at a step without a Trainer."""

    def at(number):
        monkeypatch.setattr(AutoencoderModule, "global_step", number)
        monkeypatch.setattr(AutoencoderModule, "global_rank", 0)

    return at


def test_the_loss_is_the_sum_of_its_parts(counted):
    counted(5)
    model = module(kl_weight=0.5, adversarial_weight=0.25)
    found = model.training_step(batch(), 0)
    parts = {name: value.item() for name, value in found["parts"].items()}
    total = parts["reconstruction"] + 0.5 * parts["kl"] + 0.25 * parts["adversarial"] + parts["discriminator"]
    assert found["loss"].item() == pytest.approx(total, rel=1e-5)
    assert found["losses"].mean().item() == pytest.approx(parts["reconstruction"] + 0.5 * parts["kl"], rel=1e-5)


def test_the_discriminators_loss_moves_the_discriminator_alone(counted):
    counted(5)
    plain, contest = module(), module(adversarial_weight=1e-12)
    plain.training_step(batch(), 0)["loss"].backward()
    contest.training_step(batch(), 0)["loss"].backward()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(dict(contest.named_parameters())[name].grad, weight.grad, rtol=1e-4, atol=1e-7)
    assert any(float(weight.grad.abs().sum()) > 0 for weight in contest.discriminator.parameters())


def test_before_adversarial_from_the_discriminator_learns_and_the_autoencoder_ignores_it(counted):
    counted(9)
    alone, model = module(), module(adversarial_weight=0.5, adversarial_from=10)
    for each in (alone, model):
        found = each.training_step(batch(), 0)
        found["loss"].backward()
    assert float(found["parts"]["adversarial"]) == 0
    assert any(bool(weight.grad.any()) for weight in model.discriminator.parameters())
    for one, other in zip(alone.autoencoder.parameters(), model.autoencoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    counted(10)
    assert float(model.training_step(batch(), 0)["parts"]["adversarial"]) != 0


def test_a_step_depends_on_its_number_and_the_seed_alone(counted):
    counted(3)
    model = module()
    torch.manual_seed(1)
    first = model.training_step(batch(), 0)["loss"]
    torch.manual_seed(2)
    assert torch.equal(model.training_step(batch(), 0)["loss"], first)
    counted(4)
    assert not torch.equal(model.training_step(batch(), 0)["loss"], first)


def test_psnr_of_known_errors():
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    other = torch.stack([black[0], torch.full_like(black[0], 255)])
    assert psnr(black, other).tolist() == [100, 0]


def test_the_discriminator_takes_images_that_are_large_enough():
    with pytest.raises(UserError, match=r"images of 12 pixels or more, got 8"):
        module(adversarial_weight=1.0, discriminator_halvings=2).attach_data(toy.digits())
