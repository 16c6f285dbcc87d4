"""Lightning's calls around a training step are left out where they do nothing: they cost as much as a small network."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

# The hooks that Lightning calls in every step, of callbacks and of modules.
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without the generator that it makes for each of a hundred actions in a step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        return NOTHING


def without_profiling(profiler: Profiler) -> Profiler:
    """Returns a cheaper profiler in place of Lightning's own that measures nothing, and any other as it is."""
    return NoProfiler() if type(profiler) is PassThroughProfiler else profiler


def leave_out_empty_hooks(callbacks: Sequence[Callback], module: LightningModule) -> None:
    """Sets to None the hooks of a step that callbacks and module have as Lightning made them, empty: it skips what is not callable.

    A dozen callbacks have seventy of them, and Lightning takes more than a microsecond to call each.
    """
    for owner, kind in (*((callback, Callback) for callback in callbacks), (module, LightningModule)):
        for name in STEP_HOOKS:
            if name not in vars(owner) and getattr(type(owner), name) is getattr(kind, name):
                setattr(owner, name, None)
