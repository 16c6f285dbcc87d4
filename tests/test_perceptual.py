"""LPIPS as a loss."""

import pytest
import torch
from torchvision.models import squeezenet1_1

import toy
from alphabar.errors import UserError
from alphabar.metrics.perceptual import Perceptual
from tiny_autoencoders import module


def test_perceptual_distance_is_zero_for_equal_images_and_has_a_gradient(squeezenet):
    distance, a = Perceptual(str(squeezenet)), torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(distance(a, a), torch.zeros(2))
    b = (-a).requires_grad_()
    distance(a, b).sum().backward()
    assert b.grad is not None
    assert float(b.grad.abs().sum()) > 0


def test_perceptual_distance_has_the_files_weights(squeezenet):
    distance = Perceptual(str(squeezenet))
    distance.load()
    theirs = squeezenet1_1(weights=None)
    theirs.load_state_dict(torch.load(squeezenet, weights_only=True))
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(distance._network.net(images)[-1], theirs.features(images))


def test_perceptual_weights_that_are_missing_or_anothers_are_one_line(tmp_path, squeezenet):
    with pytest.raises(UserError, match=r"there is no file .*nowhere.pth; get https://.*squeezenet"):
        Perceptual(str(tmp_path / "nowhere.pth")).load()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the weights"):
        Perceptual(str(tmp_path / "other.pth")).load()


def test_perceptual_loss_takes_images_that_are_large_enough(squeezenet):
    model = module(perceptual=Perceptual(str(squeezenet)), perceptual_weight=1.0)
    with pytest.raises(UserError, match="LPIPS needs images of 17 pixels or more, got 8"):
        model.attach_data(toy.digits())
