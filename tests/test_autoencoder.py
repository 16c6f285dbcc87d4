"""The KL autoencoder: its networks, its losses, its training and what training leaves behind."""

import copy
import importlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch.distributions import Normal, kl_divergence
from torchvision.models import squeezenet1_1

import runs
import toy
from alphabar.errors import UserError
from alphabar.models.autoencoder import KLAutoencoder, Posterior
from alphabar.models.codecs.pixels import to_uint8
from alphabar.models.discriminator import PatchDiscriminator, hinge
from alphabar.training.app import App
from alphabar.training.autoencoding import AutoencoderModule
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.ema import EMA
from alphabar.training.callbacks.export import Export
from alphabar.training.callbacks.reconstructions import Reconstructions, psnr, reconstructed
from alphabar.training.cli import execute
from alphabar.training.metrics import Features
from alphabar.training.metrics.statistics.frechet import Frechet
from alphabar.training.perceptual import Perceptual
from simple_features import collected, pixels_as_features

SMOKE = ("experiment=smoke/autoencoder", "data.root=photos", "logger=csv")


def network(**changes):
    torch.manual_seed(0)
    sizes = {"channels": 1, "resolution": 8, "latent_channels": 2, "widths": [8, 8], "layers_per_level": 1, "norm_groups": 4}
    return KLAutoencoder(**sizes | changes)


def module(seed=0, **options):
    torch.manual_seed(seed)
    return AutoencoderModule(
        network(),
        partial(torch.optim.Adam, lr=1e-3),
        seed,
        channels=1,
        **{"discriminator_halvings": 1, "discriminator_width": 8} | options,
    )


def photos(folder, num=24):
    for index in range(num):
        place = folder / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18), (10 * index, 90, 250 - 10 * index)).save(place / f"{index}.png")


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """A command in this process, in a folder with photos: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")

    def run(name, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        code = execute(importlib.import_module(name).main.__wrapped__, App(runs.ROOT / "conf", name))
        return code, *capsys.readouterr()

    return run


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


def test_before_it_starts_the_discriminator_has_gradients_of_zero(counted):
    model = module(adversarial_weight=0.5, adversarial_from=10)
    counted(9)
    found = model.training_step(batch(), 0)
    found["loss"].backward()
    assert float(found["parts"]["discriminator"]) == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.discriminator.parameters())
    counted(10)
    assert float(model.training_step(batch(), 0)["parts"]["discriminator"]) > 0


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


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("squeeze") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


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
        model.learn(toy.digits())


def test_the_discriminator_takes_images_that_are_large_enough():
    with pytest.raises(UserError, match=r"images of 12 pixels or more, got 8"):
        module(adversarial_weight=1.0, discriminator_halvings=2).learn(toy.digits())


def train(folder, max_steps, ckpt_path=None, **options):
    torch.manual_seed(0)
    model = module(**options)
    callbacks = [EMA(0.5), Reconstructions(None, 2, num=8), Export(), Checkpoints(2)]
    trainer = toy.trainer(folder, callbacks, max_steps)
    trainer.fit(model, datamodule=toy.digits(8), ckpt_path=ckpt_path, weights_only=True)
    return trainer, model


def test_a_resumed_run_ends_where_an_uncut_one_does(tmp_path):
    options = {"adversarial_weight": 0.1, "adversarial_from": 1}
    train(tmp_path / "whole", 4, **options)
    train(tmp_path / "cut", 2, **options)
    train(tmp_path / "cut", 4, tmp_path / "cut" / "checkpoints" / "last.ckpt", **options)
    whole, cut = (runs.checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert whole["state_dict"].keys() == cut["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name
        if name in whole["ema"]["weights"]:
            assert torch.equal(whole["ema"]["weights"][name], cut["ema"]["weights"][name])


def test_what_is_exported_are_the_averages_in_diffusers_format(tmp_path):
    _, model = train(tmp_path, 3)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "autoencoder")
    averages = runs.checkpoint(tmp_path)["ema"]["weights"]
    live = copy.deepcopy(model.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, averages[f"autoencoder.network.{name}"])
    assert any(not torch.equal(averages[name], live[name]) for name in averages)
    assert sorted(path.name for path in tmp_path.iterdir() if "autoencoder" in path.name) == ["autoencoder"]


def test_training_makes_reconstructions_better(tmp_path):
    _, model = train(tmp_path, 2)
    before = dict(model.figures)
    _, model = train(tmp_path / "longer", 40)
    assert model.figures["reconstruction/l1"] < 0.8 * before["reconstruction/l1"]
    assert model.figures["reconstruction/psnr"] > before["reconstruction/psnr"]
    assert (tmp_path / "longer" / "samples" / "step_0000040.png").is_file()


@dataclass(frozen=True)
class PixelFeatures(Features):
    cache_dir: Path

    def extractors(self, splits):
        return [pixels_as_features(64, self.cache_dir)]


def test_the_frechet_distance_at_the_end_is_to_the_images_themselves(tmp_path):
    data, model = toy.digits(8), module()
    callbacks = [Reconstructions(PixelFeatures(tmp_path / "cache"), 1, num=40, batch_size=16)]
    toy.trainer(tmp_path, callbacks, 2).fit(model, datamodule=data)
    images = data.held_out_set.images(range(40))
    with torch.no_grad():
        made = to_uint8(reconstructed(model.eval(), images)[2])
    figures = {name: value for name, value in model.figures.items() if name.startswith("reconstruction/fid")}
    expected = Frechet(allow_few=True).compute(collected(made, pixels_as_features(64)), collected(images, pixels_as_features(64)))
    assert figures == {"reconstruction/fid/n40-pixels-heldout": pytest.approx(expected["fid"], rel=1e-3)}
    assert float(psnr(images, made).mean()) == pytest.approx(model.figures["reconstruction/psnr"], rel=1e-4)


def test_the_smoke_experiment_trains_measures_and_says_what_to_do_next(command, tmp_path):
    code, out, err = command("train", *SMOKE)
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert "codec=autoencoder codec.name=outputs/train/" in out
    row = runs.table(folder / "metrics.csv")[-1]
    assert float(row["reconstruction/psnr"]) > 0
    assert float(row["latents/std"]) > 0
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= {path.name for path in (folder / "autoencoder").iterdir()}
    code, _, err = command("sample", f"checkpoint={folder / 'checkpoints' / 'last.ckpt'}")
    assert code == 2
    assert "need one of a diffusion model, got one of AutoencoderModule, which draws no images" in err
    assert len(err.strip().splitlines()) == 1


def test_losses_that_are_off_are_turned_on_by_their_weights(command, squeezenet, tmp_path):
    words = (
        "data.resolution=18",
        "module.perceptual_weight=1",
        f"module.perceptual.weights={squeezenet}",
        "module.adversarial_weight=0.1",
    )
    code, _, err = command("train", *SMOKE, *words, "module.discriminator_width=8", "trainer.max_steps=2")
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    row = runs.table(folder / "metrics.csv")[-1]
    assert {f"train/{name}" for name in ("reconstruction", "kl", "perceptual", "adversarial", "discriminator")} <= set(row)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["module.perceptual_weight=1", "data.resolution=18", "module.perceptual.weights=none.pth"],
            "perceptual: there is no file none.pth",
        ),
        (["data.resolution=15"], "module.autoencoder: need a resolution that 2 widths can halve"),
        (["module.kl_weight=-1"], "module: need kl_weight"),
    ],
)
def test_what_is_wrong_is_one_line(command, words, message):
    code, _, err = command("train", *SMOKE, *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(Path().rglob("config.yaml"))
