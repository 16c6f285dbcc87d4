"""Films of a sampler at work, from noise x_T to images x_0."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction
from alphabar.diffusion.samplers.log_snr import half_log_snr
from alphabar.files.picture_text import PictureText
from alphabar.sampling.drawn_text import BACKGROUND, LINE_HEIGHT, draw_arrow, write_on
from alphabar.sampling.image_grid import GAP, grid, grid_with_row_names, save_gif, save_png, titled_blocks
from alphabar.sampling.sampling_job import SamplingJob

FRAMES_PER_COLUMN = 3  # of the GIF, from one column of the picture to the next
GIF_WIDTH = 512  # pixels that a GIF is at least about wide
MAX_PAIRS = 4  # images in the picture; the GIF has all
PAIR_GAP = 6  # more pixels between two images in the picture than between the rows of one
NOISE, SAMPLE = "noise", "sample"
ROW_NAMES = ("noisy x_t", "clean x_hat")


class FilmFrame(NamedTuple):
    """A moment of a trajectory: x_t and the x_hat that the model predicts from it, decoded, uint8 [B, C, H, W] each.

    log_snr: ln(alpha_t^2 / sigma_t^2), inf at the end, where x_hat is x_0 itself, and -inf where nothing is left of the data.
    """

    x_t: Tensor
    x_hat: Tensor
    log_snr: float


class RecordingDenoiser(Denoiser):
    """A denoiser that keeps the first prediction of another one since `first` was set to None."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.first: Prediction | None = None

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        prediction: Prediction = self.denoiser(x_t, t, cond)
        if self.first is None:
            self.first = prediction
        return prediction


def record_film(
    job: SamplingJob,
    denoiser: Denoiser,
    device: torch.device,
    num_frames: int,
    on_step: Callable[[], object] = lambda: None,
    first: int = 0,
) -> list[FilmFrame]:
    """Returns at most `num_frames` moments of a batch's trajectory, at even steps of log SNR, both ends included.

    x_hat is what the sampler's own first evaluation at x_t gives, so that a film costs no more evaluations than its samples.
    on_step: is called after every step of the sampler. first: the index of the first image.
    """
    times = job.sampler.times(denoiser.schedule)
    log_snr = (2 * half_log_snr(denoiser.schedule.scales(times), torch.empty(1))).tolist()
    chosen, recorder = even_moments(log_snr, num_frames), RecordingDenoiser(denoiser)
    states: dict[int, Tensor] = {}
    predicted: dict[int, Tensor] = {}
    for index, x in enumerate(job.trajectory(recorder, range(first, first + job.batch_size), device)):
        if index - 1 in states and recorder.first is not None:
            predicted[index - 1] = recorder.first.x_hat.cpu()
        if index in chosen:
            states[index] = x.cpu()
        recorder.first = None
        if index > 0:
            on_step()

    def decoded(x: Tensor) -> Tensor:
        return job.codec.decode(x.to(device)).cpu()

    return [FilmFrame(decoded(x), decoded(predicted.get(index, x)), log_snr[index]) for index, x in states.items()]


def even_moments(log_snr: Sequence[float], num: int) -> list[int]:
    """Returns the rising indices of at most `num` moments at steps of log SNR as even as they are there; first and last are kept.

    log_snr: rising [N]; infinite ends count as the moments beside them.
    """
    if len(log_snr) <= num:
        return list(range(len(log_snr)))
    places = torch.tensor(log_snr, dtype=torch.float64)
    low, high = places[places.isfinite()].aminmax() if places.isfinite().any() else (places[0] * 0, places[0] * 0)
    targets = torch.linspace(float(low), float(high), num - 1, dtype=torch.float64)
    nearest = (places[None, :-1].clamp(low, high) - targets[:, None]).abs().argmin(dim=1).tolist()
    indices = [0, *nearest[1:], len(log_snr) - 1]
    for place in range(1, num):  # none twice
        indices[place] = max(indices[place], indices[place - 1] + 1)
    for place in reversed(range(num)):
        indices[place] = min(indices[place], len(log_snr) - num + place)
    return indices


def num_film_frames(num_columns: int) -> int:
    """Returns how many frames the GIF has whose picture has `num_columns` columns."""
    return FRAMES_PER_COLUMN * (num_columns - 1) + 1


def write_film(frames: Sequence[FilmFrame], folder: Path, num_columns: int, text: PictureText) -> Tensor:
    """Writes film.png with at most `num_columns` of the frames, and film.gif with all, which say `text` of themselves.

    Returns the picture [C, H, W].
    """
    picture = film_strip([frames[index] for index in even_moments([frame.log_snr for frame in frames], num_columns)])
    save_png(picture, folder / "film.png", text)
    moving = [gif_frame(frame, index / max(len(frames) - 1, 1)) for index, frame in enumerate(frames)]
    save_gif(moving, folder / "film.gif", text)
    return picture


def gif_frame(frame: FilmFrame, place: float) -> Tensor:
    """Returns x_t and x_hat as blocks beside each other [C, H, W], and below them how far it is from noise to sample, in [0, 1]."""
    num_columns = math.ceil(math.sqrt(len(frame.x_t) / 2))
    smallest = math.ceil(GIF_WIDTH / (2 * num_columns))
    blocks = dict(zip(ROW_NAMES, (frame.x_t, frame.x_hat), strict=True))
    picture = titled_blocks({title: grid(images, num_columns, smallest) for title, images in blocks.items()})
    channels, _, width = picture.shape
    space = picture.new_full((channels, LINE_HEIGHT // 2, width), BACKGROUND)
    return torch.cat([picture, space, draw_arrow(f" {NOISE}", f"{SAMPLE} ", channels, width, place), space], dim=1)


def film_strip(frames: Sequence[FilmFrame]) -> Tensor:
    """Returns a picture [C, H, W] of the first images: two rows for each, x_t over x_hat, and a column for every frame."""
    rows = torch.stack([torch.stack([frame.x_t, frame.x_hat], dim=1)[:MAX_PAIRS] for frame in frames], dim=2)  # [N, 2, F, C, H, W]
    pairs = [grid_with_row_names(pair.flatten(0, 1), ROW_NAMES, len(frames)) for pair in rows]
    channels, _, width = pairs[0].shape
    step = (grid(rows[0, 0]).shape[2] - GAP) // math.ceil(math.sqrt(len(frames)))  # from a column to the next
    left = width - GAP - len(frames) * step  # where the first one begins
    header = pairs[0].new_full((channels, 2 * LINE_HEIGHT + GAP, width), BACKGROUND)
    header[:, :LINE_HEIGHT, left : width - GAP] = draw_arrow(NOISE, SAMPLE, channels, width - GAP - left)
    write_on(header, "log-SNR", LINE_HEIGHT + GAP, GAP)
    for column, frame in enumerate(frames):
        label = "x_0" if column == len(frames) - 1 else f"{frame.log_snr:.1f}"
        write_on(header, label, LINE_HEIGHT + GAP, left + column * step, step - GAP)
    space = header[:, -1:].new_full((channels, PAIR_GAP, width), BACKGROUND)
    return torch.cat([header, *(part for pair in pairs for part in (pair, space))], dim=1)
