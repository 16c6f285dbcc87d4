"""What an optimizer step sees: as many batches as were asked for, the same ones to overfit on, and images that are images."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch.utils.data import DataLoader

import runs
import toy
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.models.codecs.pixels import Pixels, check_images
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from test_data_resume import Numbered


class Mean(LightningModule):
    """Follows the mean of what it sees: the gradient of a step is the mean over its images."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.seen, self.gradients = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["label"].tolist())
        return self.weight * batch["label"].double().mean()

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.weight.grad.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, batch_size, **arguments):
    module = Mean()
    trainer = toy.trainer(tmp_path, **{"gradient_clip_val": None} | arguments)
    trainer.fit(module, datamodule=ImageDataModule(Numbered(), batch_size=batch_size, seed=3))
    return module


@pytest.mark.parametrize(("batch_size", "accumulate"), [(30, 4), (3, 4), (9, 5), (9, 1)])
def test_every_step_is_the_mean_of_all_its_batches(tmp_path, batch_size, accumulate):
    """45 images: 1, 15 or 5 batches an epoch, whose ends fall inside of steps."""
    module = fit(tmp_path, batch_size, max_steps=6, accumulate_grad_batches=accumulate)
    assert len(module.seen) == 6 * accumulate
    for step, gradient in enumerate(module.gradients):
        batches = torch.tensor(module.seen[step * accumulate : (step + 1) * accumulate])
        assert gradient == pytest.approx(batches.double().mean().item(), rel=1e-12)


def test_accumulation_sees_the_batches_of_an_uncut_stream(tmp_path):
    one, four = fit(tmp_path, 9, max_steps=12), fit(tmp_path, 9, max_steps=3, accumulate_grad_batches=4)
    assert one.seen == four.seen


class Interrupt(Callback):
    """Behaves as Ctrl-C during one batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_step_whose_gradients_are_half_there(tmp_path):
    trainer = toy.trainer(tmp_path, [Interrupt(3), Checkpoints(100)], max_steps=5, accumulate_grad_batches=3)
    with STOP_SIGNALS.listening(), pytest.raises(SystemExit):
        trainer.fit(toy.module(), datamodule=toy.digits())
    saved = runs.checkpoint(tmp_path)
    assert saved["global_step"] == 2
    assert "'num_batches': 6" in str(saved["loops"])


@pytest.mark.filterwarnings("ignore:You requested to overfit")  # ours is not shuffled then
@pytest.mark.parametrize("num", [1, 3])
def test_overfitting_repeats_the_same_batches(tmp_path, num):
    seen = fit(tmp_path, 9, max_steps=4 * num, overfit_batches=num).seen
    assert seen == seen[:num] * 4
    assert len({tuple(batch) for batch in seen}) == num


def test_a_limited_epoch_goes_on_with_other_images(tmp_path):
    assert fit(tmp_path, 9, max_steps=6, limit_train_batches=2).seen == fit(tmp_path, 9, max_steps=6).seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limit_train_batches": 3}, "trainer.limit_train_batches=3: every epoch is cut to 3 batches, need a multiple of"),
        ({"limit_train_batches": 0.5}, "trainer.limit_train_batches=0.5: every epoch is cut to 3 batches, need a multiple of"),
        ({"overfit_batches": 1}, "trainer.overfit_batches=1: every epoch is cut to 1 batches, need a multiple of"),
    ],
)
def test_an_epoch_that_is_cut_inside_of_a_step_is_refused(tmp_path, arguments, said):
    with pytest.raises(UserError, match=said):
        fit(tmp_path, 9, max_steps=4, accumulate_grad_batches=2, **arguments)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+trainer.overfit_batches=0.5", "trainer.overfit_batches=0.5: need a whole number of batches"),
        ("+trainer.reload_dataloaders_every_n_epochs=1", "trainer.reload_dataloaders_every_n_epochs=1: batches come from one"),
    ],
)
def test_arguments_that_our_loader_does_not_honour_are_refused(command, tmp_path, word, said):
    code, _, err = command("train", *runs.words(word, folder="run"))
    assert (code, said in err) == (2, True)
    assert not (tmp_path / "run").exists()


def images_of(convert):
    images = [{"image": convert(image)} for image in toy.digits().train_set.images(range(32))]
    return DataLoader(images, batch_size=16)


def losses_on(tmp_path, loader):
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    toy.trainer(tmp_path, [Losses()], max_steps=2, log_every_n_steps=1).fit(toy.module(), loader)
    return losses


def test_floats_train_as_their_bytes_do(tmp_path):
    of_bytes = losses_on(tmp_path, images_of(lambda image: image))
    assert losses_on(tmp_path, images_of(lambda image: image.float() / 127.5 - 1)) == of_bytes


@pytest.mark.parametrize(
    ("convert", "found"),
    [
        (lambda image: image.float() / 255, r"floats in \[0, 1\]"),
        (lambda image: image.float(), r"floats in \[0, 255\]"),
        (lambda image: image.float() - 128, r"floats in \[-128, 127\]"),
        (lambda image: image.float() * torch.nan, r"floats in \[nan, nan\]"),
        (lambda image: image.long(), "torch.int64"),
    ],
)
def test_images_in_another_range_are_refused(tmp_path, convert, found):
    with pytest.raises(UserError, match=rf"data: need images as uint8 in 0..255 or as floats in \[-1, 1\], got {found}"):
        losses_on(tmp_path, images_of(convert))


def test_integers_are_no_images():
    with pytest.raises(ValueError, match=r"got torch.int64"):
        Pixels().encode(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    check_images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
