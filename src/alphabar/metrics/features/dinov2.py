"""Features of DINOv2, whose distances agree better with human judgement than those of Inception."""

from dataclasses import dataclass

from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.features.pretrained import PretrainedKind, pretrained_extractor
from alphabar.models.frozen import Colours

SIZE = 224
KIND = PretrainedKind(
    name="dinov2",
    default_model="facebook/dinov2-large",
    class_name="Dinov2Model",
    model_types=("dinov2",),
    colours=Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    image_size=lambda config: SIZE,
    num_features=lambda config: config.hidden_size,
    embed=lambda output: output.pooler_output,  # the class token after the last normalisation
)


@dataclass(frozen=True)
class DINOv2Features(Features):
    """ViT-L/14 of DINOv2 (Oquab et al. 2023), for Frechet distances as in Stein et al. 2023; by Hugging Face's transformers.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: facebook/dinov2-large.
    cache_dir: the folder in which results for real images are cached.
    download: whether a model of the hub is fetched if it is not in the Hugging Face cache.
    """

    weights: str | None
    cache_dir: str
    download: bool = False

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [pretrained_extractor(KIND, self.weights, self.cache_dir, self.download)]
