"""Features of the Inception network with which published FIDs are measured."""

import hashlib
import io
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, BasicConv2d, FeatureExtractorInceptionV3

from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.models.hub import HOW_TO_FETCH
from alphabar.runs.processes.distributed import from_first

log = logging.getLogger(__name__)
NUM_FEATURES = 2048
FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[-1]
HASH_PREFIX = "6726825d"  # the first digits of the file's SHA-256
SIDE = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE
MAX_BATCH = 64
CPU_BATCH = 16  # with which a processor is fastest: more images do not fit into its caches
TIMEOUT = 20.0  # seconds without receiving data


class InceptionNetwork(nn.Module):
    """Maps uint8 [B, 1 or 3, H, W] to float32 [B, 2048]; grey is repeated, and images are resized to 299 as TensorFlow 1 did.

    The layers are torch-fidelity's, in channels_last and with each normalisation folded into the convolution before it. This takes
    half the time and changes the features by rounding alone, by 4e-7 of their norm.

    fc: the layer of class logits.
    """

    def __init__(self, weights: bytes) -> None:
        super().__init__()
        loaded = FeatureExtractorInceptionV3("inception-v3-compat", [str(NUM_FEATURES)], io.BytesIO(weights))
        *layers, self.fc = folded(loaded).children()
        self.layers = nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        num = CPU_BATCH if images.device.type == "cpu" else len(images)
        return torch.cat([self._of_batch(part) for part in images.split(num)])

    def _of_batch(self, images: Tensor) -> Tensor:
        x = (resize_like_tensorflow1(images.float(), SIDE) - 128) / 128
        return self.layers(x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))

    def head(self) -> nn.Linear:
        """Returns the layer from 2048 features to 1008 class logits, without bias, as published Inception Scores use it."""
        last: nn.Linear = self.fc  # type: ignore[assignment]
        head = nn.Linear(last.in_features, last.out_features, bias=False, device="meta")
        head.weight = last.weight
        return head


def folded(network: nn.Module) -> nn.Module:
    """Returns the network with the constants of each normalisation in the convolution before it, multiplied in float64."""
    for name, layer in network.named_children():
        if isinstance(layer, BasicConv2d):
            convolution = fuse_conv_bn_eval(layer.conv.double(), layer.bn.double()).float()
            setattr(network, name, nn.Sequential(convolution, nn.ReLU(inplace=True)))
        else:
            folded(layer)
    return network


def resize_like_tensorflow1(images: Tensor, size: int) -> Tensor:
    """Returns float32 images [B, C, H, W] resized to [B, C, size, size], bilinearly and without antialiasing.

    Row i is taken from row i * H / size, without the half pixels that would bring centres to centres. The result is to the bit that
    of torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`; across first and then down, it takes a quarter of the time.
    """
    for dim in (3, 2):
        num = images.shape[dim]
        places = torch.arange(size, dtype=torch.float32, device=images.device) * torch.tensor(num / size, dtype=torch.float32)
        low = places.long()
        share = (places - low).view(-1, *[1] * (3 - dim))
        before, after = images.index_select(dim, low), images.index_select(dim, (low + 1).clamp_max(num - 1))
        images = before + (after - before) * share
    return images


@dataclass(frozen=True)
class InceptionFeatures(Features):
    """The pooled layer of torch-fidelity's InceptionV3, 2048 features.

    weights: a file; None: the published one, in torch hub's folder.
    cache_dir: the folder in which results for real images are cached.
    download: whether the published one is fetched if it is not there.
    """

    weights: str | None
    cache_dir: str
    download: bool = False

    def extractors(self, splits: Splits) -> list[Extractor]:
        state, sha256, path = from_first(self._resolve)
        try:
            with in_float32(torch.device("cpu")), own_randomness(0):
                network = InceptionNetwork(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{path} does not hold the weights of torch-fidelity's InceptionV3") from error
        name = "inception" if sha256.startswith(HASH_PREFIX) else f"inception_{sha256[:8]}"
        description = f"InceptionV3, {NUM_FEATURES} features, resized to 299 without antialiasing, float32, weights {sha256[:16]}"
        return [Extractor(network, NUM_FEATURES, name, description, (1, 3), MAX_BATCH, user_path(self.cache_dir), network.head())]

    def _resolve(self) -> tuple[bytes, str, Path]:
        """Returns the weights, which are nothing but tensors, the SHA-256 of the file, and its path."""
        path = published_file() if self.weights is None else user_path(self.weights)
        if self.weights is None and self.download and not path.exists():
            download(path)
        if not path.is_file():
            fetch = "" if self.weights is not None or self.download else f"{HOW_TO_FETCH}; or "
            raise UserError(f"there is no file {path} (features.weights); {fetch}{how_to_get_weights()}")
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if self.weights is None and not sha256.startswith(HASH_PREFIX):
            raise UserError(f"{path} is damaged (SHA-256 {sha256[:8]}..., not {HASH_PREFIX}...): delete it and run again")
        log.info("inception features: weights from %s, SHA-256 %s", path, sha256[:16])
        return tensors_only(content, path), sha256, path


def published_file() -> Path:
    """Returns the path at which torch hub stores the published weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def how_to_get_weights() -> str:
    """Returns what a user can do about a missing file."""
    return f"get {URL_INCEPTION_V3} and set features.weights=PATH, or take features=selfsup, which works offline"


def download(path: Path) -> None:
    """Downloads the published weights; the file appears under its name when it is complete and its hash is right."""
    log.info("inception features: downloading %s to %s", URL_INCEPTION_V3, path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket_timeout(TIMEOUT):
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=HASH_PREFIX)
    except (OSError, RuntimeError) as error:  # RuntimeError: another hash
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is missing and cannot be downloaded ({reason}); {how_to_get_weights()}") from error


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Makes connections without an answer fail after `seconds` inside, instead of after minutes."""
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(default)


def tensors_only(content: bytes, path: Path) -> bytes:
    """Returns the weights without anything that could run code when it is loaded. Raises UserError if they cannot be read."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file may contain any bytes
        raise UserError(f"cannot read weights from {path}: it is damaged or another kind of file") from error
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
