"""Grids that show the conditions of their images."""

import torch

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.digits import Digits
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.models.conditioners.low_resolution import LowResolution
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.sampling.drawn_text import LINE_HEIGHT, to_printable_ascii, wrap_text
from alphabar.sampling.image_grid import BLOCK_GAP, CAPTION_GAP, grid, grid_with_captions, grid_with_row_names, side_by_side
from alphabar.sampling.preview import Preview, images_of_classes, preview, preview_size


def test_captions_stand_below_their_images():
    black = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    picture = grid_with_captions(black, ["red heart", "", "a very long caption that goes on and on for ever", "x"], gap=4)
    height = 128 + 2 * LINE_HEIGHT
    assert picture.shape == (3, 4 + 2 * (height + 4), 4 + 2 * 132)
    below = [picture[0, top + 128 : top + height, left : left + 128] for top in (4, 8 + height) for left in (4, 136)]
    ink = [int((255 - each.int()).sum()) for each in below]
    assert ink[1] == 0  # no caption
    assert ink[2] > ink[0] > ink[3] > 0


def test_text_is_as_large_below_small_images_as_below_large_ones():
    small, large = (grid_with_captions(torch.zeros(1, 1, side, side, dtype=torch.uint8), ["a red heart"]) for side in (8, 128))
    assert torch.equal(small, large)
    assert small.shape[1] == 128 + LINE_HEIGHT + 2 * CAPTION_GAP  # no room for a second line where no caption has one


def test_a_caption_is_broken_at_words_and_cut():
    assert wrap_text("red heart", 96, 2) == ["red heart"]
    text = "a very long caption that goes on and on for ever"
    found = wrap_text(text, 96, 2)
    assert len(found) == 2
    assert text.startswith(found[0] + " ")
    assert found[1].endswith("..")
    assert wrap_text("", 96, 2) == [""]


def test_letters_that_the_font_lacks_are_replaced():
    assert to_printable_ascii("Côte d\u2019Ivoire \u732b") == "Cote d'Ivoire ?"


def test_names_stand_left_of_their_rows():
    black = torch.zeros(6, 1, 48, 48, dtype=torch.uint8)
    picture, bare = grid_with_row_names(black, ["cats", ""], 3), grid(black, 3)
    assert torch.equal(picture[:, :, -bare.shape[2] :], bare)
    margin = picture[0, :, : -bare.shape[2]]
    assert (margin[:56] < 255).any()
    assert (margin[56:] == 255).all()


def test_pictures_of_two_sizes_stand_side_by_side():
    small = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    cells = side_by_side(small, torch.full((2, 3, 64, 64), 7, dtype=torch.uint8))
    assert (cells[:, :, :, :64] == 0).all()
    assert (cells[:, :, :, 66:130] == 7).all()
    assert torch.equal(side_by_side(small), small)


def test_what_a_grid_shows_depends_on_the_condition_of_the_model():
    data = Digits()
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    classes = preview(ClassLabel(10, 4).eval(), data, 24)
    assert classes.num == 20
    assert classes.text == "\n".join("0123456789")
    labels = {pixels.numpy().tobytes(): int(label) for pixels, label in zip(*data.held_out_set.load()[:2], strict=True)}
    assert [labels[pixels.numpy().tobytes()] for pixels in classes.real] == list(range(10))  # one of each class
    left = grid_with_row_names(images, "0123456789", 2).shape[2] + BLOCK_GAP
    assert torch.equal(classes.picture(images)[:, : 10 * 52 + 4, left : left + 56], grid(classes.real, 1))

    pictures = preview(LowResolution(1, 8, 4, width=8).eval(), data, 20)
    assert torch.equal(pictures.sources, data.held_out_set.images(range(20)))
    assert pictures.text is None
    assert pictures.picture(images).shape[2] > 2 * grid(images).shape[2]  # what it sees, what it made, what it was

    nothing = preview(Unconditional(), data, 20)
    picture, bare = nothing.picture(images), grid(images)
    assert torch.equal(picture[:, : bare.shape[1], : bare.shape[2]], bare)
    assert torch.equal(nothing.real, data.held_out_set.images(range(12)))  # half as many columns, in as many rows
    assert torch.equal(picture[:, : bare.shape[1], -(3 * 52 + 4) :], grid(nothing.real, 3))


def test_of_very_many_classes_the_first_have_a_row():
    conditioner = ClassLabel(5000, 4).eval()
    found = preview(conditioner, Digits(), 36)
    assert found.num == preview_size(conditioner, 36) == 100
    assert (len(found.classes), found.classes[-1], found.real) == (100, "99", None)
    assert len(found.conditions(range(100))["vector"]) == 100
    assert [preview_size(ClassLabel(10, 4), num) for num in (4, 24)] == [10, 20]
    assert preview_size(Unconditional(), 24) == 24


def test_a_class_with_few_real_images_has_white_places():
    data = Digits()
    few = ResidentImages(data.held_out_set.pixels[:3], torch.tensor([1, 0, 1]))
    real = images_of_classes(few, 3, 2)
    assert torch.equal(real[0], few.pixels[1])
    assert torch.equal(real[2:4], few.pixels[[0, 2]])
    assert (real[[1, 4, 5]] == 255).all()
    assert images_of_classes(ResidentImages(few.pixels, None), 3, 2) is None


def test_each_caption_stands_below_its_sample_and_its_real_image():
    images, real = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.full((2, 1, 8, 8), 9, dtype=torch.uint8)
    picture = Preview(lambda indices: None, 2, captions=["a cat", "a dog"], real=real).picture(images)
    assert (picture[0, 10 : 10 + 96, 10 : 10 + 96] == 0).all()
    assert (picture[0, 10 : 10 + 96, 14 + 96 : 14 + 192] == 9).all()
