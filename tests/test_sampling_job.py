import pytest
import torch
from lightning.pytorch import Callback

import toy
from alphabar.data import Shape
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.evaluation.cost import Cost, counted_evaluations
from alphabar.sampling.film import record_film
from alphabar.sampling.sampling_job import SamplingJob
from alphabar.training.callbacks.samples import Samples
from alphabar.training.ema import EMA, trainable_parameters

CPU = torch.device("cpu")


def draw(num, batch_size=4, sampler=DDIM(num_steps=5), seed=0, world_size=1, module=None):
    module = (module or randomised()).eval()
    generation = SamplingJob(sampler, module.codec, Shape(1, 8, 8), seed, batch_size)
    images = torch.zeros(num, 1, 8, 8, dtype=torch.uint8)
    seen = []
    for rank in range(world_size):
        for part in generation.images(module.denoiser, num, CPU, rank, world_size):
            images[part.indices] = part.images
            seen += part.indices
    assert sorted(seen) == list(range(num))
    return images


def randomised():
    """A module whose output is not zero, unlike that of a fresh one."""
    module = toy.module()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return module


@pytest.mark.parametrize("sampler", [DDIM(num_steps=5), DDPM(num_steps=5)], ids=["ddim", "ddpm"])
def test_an_image_depends_on_the_seed_and_its_index_alone(sampler):
    images = draw(13, sampler=sampler)
    assert torch.equal(draw(5, sampler=sampler), images[:5])
    assert torch.equal(draw(13, world_size=3, sampler=sampler), images)
    assert not torch.equal(draw(13, seed=1, sampler=sampler), images)
    # A batch of another size may move the last bit of a float, and that a byte by one.
    other = draw(13, batch_size=6, sampler=sampler)
    assert (other.int() - images.int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 13


def test_images_for_which_there_is_no_memory_are_drawn_in_parts(caplog):
    module, sizes = randomised(), []
    images, forward = draw(13, batch_size=13, module=module), module.denoiser.network.forward

    def full(x, *arguments):
        sizes.append(len(x))
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, *arguments)

    module.denoiser.network.forward = full
    assert (draw(13, batch_size=13, module=module).int() - images.int()).abs().max() <= 1
    assert sizes == [13, 6, *([3] * 5 * 4), *([1] * 5)]  # five steps of each part
    assert "out of memory with 13 images at a time on cpu: now 6 (batch_size=6)" in caplog.text
    sizes.clear()
    draw(26, batch_size=13, module=module)
    assert sizes.count(13) == 1  # what is known of the first batch holds for the next
    module.denoiser.network.forward = lambda *arguments: full(torch.zeros(5))
    with pytest.raises(torch.OutOfMemoryError):
        draw(1, batch_size=1, module=module)


def test_num_zero_is_refused():
    with pytest.raises(ValueError, match="need num >= 1, got num=0"):
        draw(0)


def test_images_with_nan_are_pointed_out():
    module = toy.module()
    generation = SamplingJob(DDIM(num_steps=2), module.codec, Shape(1, 8, 8), 0, 2)

    class Broken(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return torch.cat([torch.full_like(x[:1], float("nan")), torch.zeros_like(x[1:])])

    module.denoiser.network = Broken()
    (part,) = generation.images(module.denoiser, 2, CPU)
    assert part.finite.tolist() == [False, True]
    assert part.images.dtype == torch.uint8


def test_a_film_begins_with_noise_and_ends_with_the_sample():
    module, steps = randomised().eval(), []
    generation = SamplingJob(DDIM(num_steps=20), module.codec, Shape(1, 8, 8), 0, 3)
    frames = record_film(generation, module.denoiser, CPU, num_frames=6, on_step=lambda: steps.append(1))
    assert (len(frames), len(steps)) == (6, 20)
    assert torch.equal(frames[-1].x_t, draw(3, batch_size=3, sampler=DDIM(num_steps=20), module=module))
    assert torch.equal(frames[-1].x_hat, frames[-1].x_t)
    x_T = next(iter(generation.trajectory(module.denoiser, range(3), CPU)))
    assert torch.equal(frames[0].x_t, module.codec.decode(x_T))
    with torch.no_grad():
        expected = module.denoiser(x_T, generation.sampler.times(module.denoiser.schedule)[:1].expand(3)).x_hat
    assert torch.equal(frames[0].x_hat, module.codec.decode(expected))
    log_snr = [frame.log_snr for frame in frames]
    assert log_snr == sorted(log_snr)
    assert log_snr[-1] == float("inf")


def test_a_film_takes_no_evaluations_of_its_own_and_decodes_only_its_moments(monkeypatch):
    module, decoded, cost = toy.module().eval(), [], Cost()
    generation = SamplingJob(DDIM(num_steps=20), module.codec, Shape(1, 8, 8), 0, 1)
    monkeypatch.setattr(module.codec, "decode", lambda x: decoded.append(x) or x)
    with counted_evaluations(module.denoiser, cost):
        assert len(record_film(generation, module.denoiser, CPU, num_frames=6)) == 6
    assert (len(decoded), cost.evaluations) == (12, 20)


class Last(Callback):
    def on_train_end(self, trainer, pl_module):
        self.weights = {name: value.detach().clone() for name, value in trainable_parameters(pl_module).items()}


def test_looking_at_samples_does_not_change_training(tmp_path):
    """Weights are equal with and without the callback, dropout and all; the module is back in training mode."""
    finals = []
    for name, callbacks in {"with": [EMA(), Samples(DDPM(num_steps=3), 0, 4, 1)], "without": [EMA()]}.items():
        last = Last()
        toy.trainer(tmp_path / name, [*callbacks, last]).fit(toy.module(dropout=0.3), datamodule=toy.digits())
        finals.append(last.weights)
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert sorted(path.name for path in (tmp_path / "with" / "samples").iterdir()) == [
        f"step_000000{step}.png" for step in range(5)
    ]
