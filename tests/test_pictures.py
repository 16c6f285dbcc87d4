import pytest
import torch
from PIL import Image

from alphabar.models.codecs.pixels import Pixels, to_uint8
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


@pytest.mark.parametrize("channels", [1, 3])
def test_a_film_has_all_its_frames(tmp_path, channels):
    frames = [torch.full((channels, 8, 8), 20 * i, dtype=torch.uint8) for i in range(5)]
    save_gif(frames, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 5
