"""alphabar's own recipe: `python train.py` with the preset of the data."""

import math

from torch import Tensor

from recipes import Recipe, Task, Trained, batch_size


class Ours(Recipe):
    """`train.py` with a limit of time in place of the number of steps; the averaged weights of the last checkpoint."""

    def train(self, task: Task) -> Trained:
        import alphabar

        limit = f"+trainer.max_time.seconds={max(math.ceil(task.seconds), 1)}"
        words = ["logger=csv", "trainer.max_steps=-1", limit, f"seed={task.seed}", f"hydra.run.dir={task.folder}/run"]
        run = alphabar.train([*task.words, *words, "+callbacks.step_times._target_=recipes.step_times.StepTimes"])
        from omegaconf import OmegaConf  # no sooner: until here the process does what that of train.py does

        from alphabar.config.build import build
        from alphabar.runs.provenance.receipt import read_starts
        from recipes.step_times import StepTimes

        model = run.model()
        sampler = build(OmegaConf.create(run.config["sampler"]), "sampler")

        def draw(num: int) -> Tensor:
            return model.sample(num, sampler=sampler, seed=task.seed + 1, batch_size=batch_size(num))

        lines = read_starts(run.folder)[-1]["composition"]
        return Trained(
            network=model.denoiser.network,
            steps=model.step,
            images_per_step=run.config["data"]["batch_size"],
            first_step=StepTimes.first_step,
            seconds=StepTimes.end - StepTimes.begin,
            sampler=sampler.label(model.denoiser.schedule),
            settings="; ".join(f"{name} {line}" for name, line in lines.items()),
            draw=draw,
        )
