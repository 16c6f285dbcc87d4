"""train.py that something happens to: CRASH="<what> <optimizer step> <rank or all>" python crash.py <arguments of train.py>.

what: the number of a signal that it sends to itself; "raise", an error of ours; "refuse", bad input; "note", what each rank sees, in
note_<rank>.json; "sleep", the next step never ends, of which the file asleep tells.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
how, step, rank = os.environ["CRASH"].split()

import train  # noqa: E402

from alphabar.errors import UserError  # noqa: E402
from alphabar.training.callbacks.progress import Progress  # noqa: E402

original = Progress.on_train_batch_end


def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
    original(self, trainer, pl_module, outputs, batch, batch_idx)
    if how == "sleep" or trainer.global_step != int(step) or rank not in ("all", str(trainer.global_rank)):
        return
    if how == "raise":
        raise RuntimeError("as planned")
    if how == "refuse":
        raise UserError("data: as planned")
    if how == "note":
        weights = [float(weight.detach().double().sum()) for weight in pl_module.parameters()]
        note = {"levels": outputs["levels"].tolist(), "labels": batch["label"].tolist(), "weights": weights}
        note["figures"] = pl_module.figures
        Path(f"note_{trainer.global_rank}.json").write_text(json.dumps(note))
        return
    os.kill(os.getpid(), int(how))


def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
    if how == "sleep" and trainer.global_step == int(step) and rank in ("all", str(trainer.global_rank)):
        Path("asleep").touch()
        time.sleep(100)


Progress.on_train_batch_end = on_train_batch_end
Progress.on_train_batch_start = on_train_batch_start

if __name__ == "__main__":
    train.main()
