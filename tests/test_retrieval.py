"""Which caption is meant: the candidates, the statistic, and what it says of perfect and of blind vectors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.real import real_image_features
from alphabar.metrics.retrieval import candidates, is_retrieved
from alphabar.metrics.statistics.accuracy import Accuracy
from alphabar.metrics.statistics.retrieval import Retrieval
from alphabar.training.callbacks.retrieval import first_of_each_caption, retrieval_figures

CPU = torch.device("cpu")
NUM = 30


class Corner(nn.Module):
    """The grey level of the first pixel picks a unit vector."""

    def forward(self, images):
        return F.one_hot(images[:, 0, 0, 0].long(), NUM).float()


def extractor(cache, texts):
    return Extractor(Corner(), NUM, "corner", "corner", (1, 3), 7, cache, texts=texts)


def greys(levels):
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)


def test_candidates_are_the_right_one_and_nine_others_whoever_else_is_asked():
    indices, right = torch.arange(50), torch.arange(50) % NUM
    rows = candidates(indices, right, NUM)
    assert rows.shape == (50, 10)
    assert torch.equal(rows[:, 0], right)
    assert all(len(set(row)) == 10 and max(row) < NUM and min(row) >= 0 for row in rows.tolist())
    assert torch.equal(candidates(indices[20:23], right[20:23], NUM), rows[20:23])
    assert len({tuple(sorted(row[1:])) for row in rows.tolist()}) > 45
    assert set(rows[:, 1:].flatten().tolist()) == set(range(NUM))
    assert candidates(indices[:2], right[:2], 3).tolist()[1][0] == 1
    assert sorted(candidates(indices[:1], right[:1], 3)[0].tolist()) == [0, 1, 2]


def test_a_draw_is_not_found():
    options = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert is_retrieved(torch.tensor([[1.0, 0.1], [1.0, 0.1]]), options).tolist() == [True, False]


@pytest.mark.parametrize(("wrong", "expected"), [(0, 1.0), (15, 0.5), (30, 0.0)])
def test_the_statistic_is_the_share_that_is_nearest(tmp_path, wrong, expected):
    """Images up to `wrong` show another caption than that of their condition."""
    collector = Collector(extractor(tmp_path, torch.eye(NUM)), CPU, NUM)
    captions = torch.arange(NUM)
    shown = [(level + 1) % NUM if level < wrong else level for level in range(NUM)]
    for indices in captions.split(7):
        collector.add(indices, greys([shown[index] for index in indices]), {"caption": captions[indices]})
    # Image i shows caption i + 1, which is among its ten for some i: they are wrong, the others are draws, and no hits either.
    assert Retrieval().compute(collector.compute(), collector.compute()) == {"retrieval": expected}


def test_blind_vectors_are_at_chance(tmp_path):
    generator = torch.Generator().manual_seed(0)
    captions = torch.randint(NUM, (4000,), generator=generator)
    texts = F.normalize(torch.randn(NUM, NUM, generator=generator), dim=1)
    collector = Collector(extractor(tmp_path, texts), CPU, len(captions))
    collector.add(
        torch.arange(len(captions)),
        greys(torch.randint(NUM, (len(captions),), generator=generator).tolist()),
        {"caption": captions},
    )
    value = Retrieval().compute(collector.compute(), collector.compute())["retrieval"]
    assert 0.07 < value < 0.13


def test_it_needs_captions_and_vectors_of_them(tmp_path):
    with_texts, without = extractor(tmp_path, torch.eye(NUM)), extractor(tmp_path, None)
    assert Retrieval().applies(with_texts)
    assert not Retrieval().applies(without)
    assert not Accuracy().applies(with_texts)
    collector = Collector(with_texts, CPU, 2)
    collector.add(torch.arange(2), greys([0, 1]), {"label": torch.arange(2)})
    assert Retrieval().compute(collector.compute(), collector.compute()) == {}


def test_real_images_have_their_own_captions_also_out_of_the_cache(tmp_path):
    images = ResidentImages(greys([3, 4, 5, 6]).contiguous(), None, torch.tensor([3, 4, 5, 7]))
    for _ in range(2):
        real = real_image_features(extractor(tmp_path, torch.eye(NUM)), CPU, images, "train", "data", 4, 2)
        assert Retrieval().compute(real.features, real.features) == {"retrieval": 0.75}


def test_figures_of_pairs_in_training():
    vectors = torch.eye(20)
    assert set(retrieval_figures(vectors, vectors).values()) == {1.0}
    texts = vectors.clone()
    texts[:5] = vectors[5:10]  # whose own captions are as near
    figures = retrieval_figures(vectors, texts)
    assert figures["retrieval/caption_of_all"] == 0.5
    assert figures["retrieval/image_of_all"] == 0.75
    assert 0.5 <= figures["retrieval/caption_of_10"] <= 0.75


def test_vectors_that_are_no_numbers_are_not_found():
    vectors = torch.eye(20)
    vectors[3] = float("nan")
    figures = retrieval_figures(vectors, torch.eye(20))
    assert figures["retrieval/caption_of_all"] == figures["retrieval/caption_of_10"] == 0.95
    assert figures["retrieval/image_of_all"] == 0


def test_one_image_of_each_caption():
    images = ResidentImages(greys([0, 1, 2, 3]), None, torch.tensor([5, 5, 2, 7]))
    assert first_of_each_caption(images, 9).tolist() == [0, 2, 3]
    assert first_of_each_caption(images, 2).tolist() == [0, 2]
    assert first_of_each_caption(ResidentImages(greys([0]), None), 2).tolist() == []
