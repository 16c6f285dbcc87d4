"""What is left out of a training step changes nothing."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler

from alphabar.diffusion.noise import seed_global_streams
from alphabar.training.step_cost import STEP_HOOKS, NoProfiler, leave_out_empty_hooks, without_profiling


class Counting(Callback):
    """Counts batches, in hooks of which one is inherited by a further class."""

    def __init__(self):
        self.num_batches = 0

    def on_train_batch_end(self, *_):
        self.num_batches += 1


class Inheriting(Counting):
    def on_before_zero_grad(self, *_):
        self.num_batches += 100


class Toy(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.num_gradients = 0

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def on_after_backward(self):
        self.num_gradients += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_hooks_that_do_something_are_called_and_empty_ones_are_not(tmp_path):
    module, callbacks = Toy(), [Counting(), Inheriting(), Callback()]
    leave_out_empty_hooks(callbacks, module)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=3, accelerator="cpu", callbacks=callbacks, default_root_dir=tmp_path, **options)
    trainer.profiler = NoProfiler()
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(3, 1)))
    assert [callbacks[0].num_batches, callbacks[1].num_batches, module.num_gradients] == [3, 303, 3]
    left = [{name for name in STEP_HOOKS if callable(getattr(owner, name))} for owner in (*callbacks, module)]
    assert left == [{"on_train_batch_end"}, {"on_train_batch_end", "on_before_zero_grad"}, set(), {"on_after_backward"}]


def test_a_profiler_of_the_user_stays():
    profiler = SimpleProfiler()
    assert without_profiling(profiler) is profiler
    assert isinstance(without_profiling(Trainer(logger=False, accelerator="cpu").profiler), NoProfiler)


def test_global_streams_are_seeded_as_torch_does_it():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**62 + 3)
        expected = torch.rand(5)
        seed_global_streams(2**62 + 3, torch.device("cpu"))
        assert torch.equal(torch.rand(5), expected)
