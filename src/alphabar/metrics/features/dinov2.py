"""Features of DINOv2, whose distances agree better with human judgement than those of Inception."""

from alphabar.metrics.features.pretrained import PretrainedFeatures, PretrainedKind
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


class DINOv2Features(PretrainedFeatures):
    """ViT-L/14 of DINOv2 (Oquab et al. 2023), for Frechet distances as in Stein et al. 2023."""

    @property
    def kind(self) -> PretrainedKind:
        return KIND
