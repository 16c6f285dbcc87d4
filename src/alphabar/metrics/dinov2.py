"""Features of DINOv2, which judges images more like people do than Inception."""

from dataclasses import dataclass

from torch import Tensor, nn

from alphabar.metrics import Extractor, Features, Splits, pretrained
from alphabar.metrics.pretrained import Colours, Images, Kind

SIZE = 224
KIND = Kind(
    name="dinov2",
    usual="facebook/dinov2-large",
    class_name="Dinov2Model",
    model_types=("dinov2",),
    colours=Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)


class DINOv2Network(nn.Module):
    """uint8 [B, 1 or 3, H, W] -> float32 [B, D]: the class token behind the last normalisation."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__()
        self.model = model
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.images(images)).pooler_output


@dataclass(frozen=True)
class DINOv2Features(Features):
    """ViT-L/14 of DINOv2 (Oquab et al. 2023), for Frechet distances as in Stein et al. 2023; by Hugging Face's transformers.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: facebook/dinov2-large from the Hugging Face
    cache, downloaded if it is not there.
    cache_dir: where what is computed with the features of real images is kept.
    """

    weights: str | None
    cache_dir: str

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [self.extractor(splits)]

    def extractor(self, splits: Splits) -> Extractor:
        """The one that there is."""
        model, found = pretrained.pretrained(KIND, self.weights)
        images = Images(SIZE, pretrained.colours(KIND, found.folder))
        network = DINOv2Network(model, images)
        return pretrained.extractor(KIND, network, model, found, model.config.hidden_size, images, self.cache_dir)
