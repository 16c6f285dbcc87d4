import math
from itertools import pairwise

import pytest
import torch
from PIL import Image, ImageSequence

from alphabar.models.codecs.pixels import Pixels, to_uint8
from alphabar.sampling.film import FilmFrame, even_moments, write_film
from alphabar.sampling.image_grid import grid, save_gif, save_png


def test_every_byte_survives_the_way_in_and_out():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = Pixels().encode(images)
    assert x.min() == -1
    assert x.max() == 1
    assert torch.equal(Pixels().decode(x), images)


def test_to_uint8_rounds_clips_and_survives_what_is_no_number():
    x = torch.tensor([-2.0, -1.0, -1 + 1.2 / 127.5, -1 + 1.8 / 127.5, 0.0, 1.0, 7.0, float("inf"), float("nan")])
    assert to_uint8(x).tolist() == [0, 0, 1, 2, 128, 255, 255, 255, 0]


def test_a_grid_enlarges_without_blur_and_leaves_gaps(tmp_path):
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images[0, 0] = torch.tensor([[10, 20], [30, 40]])
    picture = grid(images, smallest=4, gap=1)
    assert picture.shape == (1, 11, 11)  # two rows and two columns of 4, three gaps of 1
    assert picture[0, 1:5, 1:5].tolist() == [[10, 10, 20, 20], [10, 10, 20, 20], [30, 30, 40, 40], [30, 30, 40, 40]]
    assert (picture[0, 0] == 255).all()
    assert (picture[0, 6:10, 6:10] == 255).all()  # no fourth image
    save_png(picture, tmp_path / "new" / "grid.png")
    assert torch.equal(
        torch.frombuffer(bytearray(Image.open(tmp_path / "new" / "grid.png").tobytes()), dtype=torch.uint8).view(11, 11),
        picture[0],
    )


@pytest.mark.parametrize("num_frames", [1, 2, 34])
def test_a_film_moves_for_three_seconds_and_rests_at_its_end(tmp_path, num_frames):
    frames = [torch.full((3, 8, 8), 5 * i, dtype=torch.uint8) for i in range(num_frames)]
    save_gif(frames, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert len(durations) == num_frames
    assert durations[-1] == 2000
    assert num_frames == 1 or 3000 <= sum(durations[:-1]) <= 3500


@pytest.mark.parametrize(("num", "side", "channels"), [(1, 8, 1), (8, 8, 3), (5, 64, 3)])
def test_films_are_large_whatever_the_size_of_the_images(tmp_path, num, side, channels):
    noise = torch.randint(256, (num, channels, side, side), dtype=torch.uint8)
    frames = [FilmFrame(noise, noise, log_snr) for log_snr in (-math.inf, -5.0, 0.0, 5.0, math.inf)]
    strip = write_film(frames, tmp_path, 3, {})
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 5
        assert 512 <= film.width <= 900
    with Image.open(tmp_path / "film.png") as picture:
        assert picture.size == (strip.shape[2], strip.shape[1])
    assert strip.shape[2] > 3 * 48


def test_moments_are_even_in_log_snr_and_keep_both_ends():
    even = [-math.inf, *(0.1 * i for i in range(-100, 100)), math.inf]
    chosen = even_moments(even, 12)
    assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 201, 12)
    steps = [even[b] - even[a] for a, b in pairwise(chosen[1:-1])]
    assert max(steps) - min(steps) < 0.3
    assert even_moments([-9.0, -8.9, -8.8, 7.0, math.inf], 4) == [0, 2, 3, 4]  # none twice
    assert even_moments([-9.0, -8.9, math.inf], 4) == [0, 1, 2]
