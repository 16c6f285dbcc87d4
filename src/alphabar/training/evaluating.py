"""From a checkpoint to the distance of its samples to real images."""

from dataclasses import dataclass

from lightning.fabric import Fabric

from alphabar.diffusion.noise import ImageNoise
from alphabar.training.checkpoint import Loaded
from alphabar.training.generate import Generation
from alphabar.training.inference import Inference
from alphabar.training.measuring import data_of, report, withdrawn_on_complaint
from alphabar.training.metrics import Features, Splits
from alphabar.training.metrics.frechet import FrechetDistance
from alphabar.training.metrics.measure import extractor_of, measure
from alphabar.training.metrics.names import floor_protocol, protocol
from alphabar.training.metrics.reference import learn_real, measure_floor


@dataclass(frozen=True, kw_only=True)
class Evaluation(Inference):
    """Frechet distance of samples to the training images, beside that of held-out images (the floor) and of noise.

    data_root: where the images lie now; None: where they lay in training.
    Raises ValueError as `Inference` does, and unless num >= 2.
    """

    features: Features
    data_root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < 2:
            raise ValueError(f"need num >= 2, got num={self.num}")

    def run(self) -> dict[str, object]:
        """Measures, prints a table and writes `figures.json`; returns the figures, and which of them a sweep compares."""
        fabric, loaded, generation = self.start()
        with withdrawn_on_complaint(self):
            data = data_of(loaded, self.data_root, fabric)
            splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint())
            extractor = extractor_of(self.features, splits)
        distance = FrechetDistance(extractor, fabric.device)
        learn_real(distance, splits, None, self.batch_size)
        floor = measure_floor(distance, splits.held_out, self.num, self.batch_size)
        figures: dict[str, float] = {}
        if floor is not None:
            figures[floor_protocol(floor.num_images, extractor.name)] = floor.distance
        name = protocol(self.num, extractor.name, self.weights_label, self.sampler.label(loaded.module.denoiser.schedule))
        figures[name], figures["samples/num_nonfinite"] = measure(distance, self.images(fabric, loaded, generation))
        figures[f"fid/noise-n{self.num}-{extractor.name}"] = self._noise(fabric, loaded, generation, distance)
        if fabric.is_global_zero:
            report(self, loaded.step, figures, {"features": extractor.record, "sampler": self.sampler})
        fid = {"name": name, "value": figures[name], "floor": floor.distance if floor is not None else None}
        return {**figures, "fid": fid, "objective": figures[name]}

    def _noise(self, fabric: Fabric, loaded: Loaded, generation: Generation, distance: FrechetDistance) -> float:
        """Of what sampling starts from."""
        distance.reset()
        for padded in generation.batches(self.num, fabric.global_rank, fabric.world_size):
            indices = [index for index in padded if index < self.num]
            noise = ImageNoise(self.seed, indices).draw(generation.size)
            distance.update_generated(loaded.module.codec.decode(noise))
        return distance.compute()
