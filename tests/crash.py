"""train.py that something happens to: CRASH="<what> <optimizer step> <rank or all>" python crash.py <arguments of train.py>.

what: the number of a signal that it sends to itself; "raise", an error of ours; "note", what each rank sees, in note_<rank>.json.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
how, step, rank = os.environ["CRASH"].split()

import train  # noqa: E402

from alphabar.training.callbacks.progress import Progress  # noqa: E402

original = Progress.on_train_batch_end


def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
    original(self, trainer, pl_module, outputs, batch, batch_idx)
    if trainer.global_step != int(step) or rank not in ("all", str(trainer.global_rank)):
        return
    if how == "raise":
        raise RuntimeError("as planned")
    if how == "note":
        weights = [float(weight.detach().double().sum()) for weight in pl_module.parameters()]
        note = {"levels": outputs["levels"].tolist(), "labels": batch["label"].tolist(), "weights": weights}
        Path(f"note_{trainer.global_rank}.json").write_text(json.dumps(note))
        return
    os.kill(os.getpid(), int(how))


Progress.on_train_batch_end = on_train_batch_end

if __name__ == "__main__":
    train.main()
