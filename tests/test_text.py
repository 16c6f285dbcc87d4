"""Text encoders and the conditioner that reads captions with them; tiny networks with random weights stand in for the trained."""

import shutil

import pytest
import torch
from torch import nn
from transformers import BertModel, CLIPTextModel, T5EncoderModel

import tiny_texts
from alphabar.errors import UserError
from alphabar.files.cache import DiskCache
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.models.conditioners.text import Text
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.models.frozen import silence
from alphabar.models.text import TextEncoder

CPU = torch.device("cpu")
TEXTS = ["a cat", "", "dog and cat", "a"]
CAPTIONS = ("a", "a cat", "a red dog", "dog and red cat")
THEIRS = {"bert": BertModel, "clip": CLIPTextModel, "clip_text": CLIPTextModel, "t5": T5EncoderModel}
KINDS = list(THEIRS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny_texts.make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture
def folder(folders):
    return folders["bert"]


@pytest.fixture
def conditioner(folder, tmp_path):
    """That has learned CAPTIONS."""
    made = text(folder, tmp_path)
    made.attach_captions(CAPTIONS)
    return made


def text(folder, cache, dropout=0.0, max_length=9, channels=8) -> Text:
    return Text(TextEncoder(str(folder), max_length), channels, dropout, str(cache / "cache"))


def conditioned(conditioner, places):
    return conditioner({"caption": torch.tensor(places)})


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in ("tokens", "mask"))


def complaint(work, error=UserError) -> str:
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_transformers_whatever_the_padding(folders, kind):
    encoder = TextEncoder(str(folders[kind]), 12 if "clip" in kind else 9)
    with silence():
        model = THEIRS[kind].from_pretrained(folders[kind]).eval()
    before = torch.get_rng_state()
    found = encoder(["a cat", "", "a dog"] if "clip" in kind else TEXTS, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.tokens.dtype == torch.float32
    assert found.tokens.shape == (*found.mask.shape, tiny_texts.WIDTH[kind]) == (*found.mask.shape, encoder.width)
    for ids, tokens, mask in zip(encoder.ids(["a cat", "", "a dog"] if "clip" in kind else TEXTS), *found, strict=True):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert mask.tolist() == [True] * len(ids) + [False] * (len(mask) - len(ids))
        torch.testing.assert_close(tokens[mask], alone, rtol=1e-4, atol=1e-5)
        assert (tokens[~mask] == 0).all()
    assert found.tokens[found.mask].std(0).mean() > 1e-3
    assert not found.mask.all()


def test_what_surrounds_the_encoder_has_no_influence(folder):
    encoder = TextEncoder(str(folder), 9)
    expected = encoder(TEXTS, CPU).tokens
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = TextEncoder(str(folder), 9)(TEXTS, CPU).tokens
    assert torch.equal(found, expected)
    (found * nn.Parameter(torch.ones(1))).sum().backward()


def test_autocast_of_the_trainer_has_no_influence_on_captions_and_prompts(conditioner, folder, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        read = text(folder, tmp_path / "other")
        read.attach_captions(CAPTIONS)
        assert same(conditioned(read, [3, 0]), conditioned(conditioner, [3, 0]))
        assert same(read.from_prompts(TEXTS), conditioner.from_prompts(TEXTS))
        assert same(read.null(2), conditioner.null(2))


@pytest.mark.parametrize("max_length", [4, 64])
def test_a_text_that_is_too_long_is_refused_with_its_length(folder, tmp_path, max_length):
    limit = min(max_length, 10)
    longest = " ".join(["cat"] * (limit - 2))
    conditioner = text(folder, tmp_path, max_length=max_length)
    conditioner.from_prompts([longest])
    reason = "max_length" if max_length == 4 else "what this encoder reads at most"
    message = f"need a text of at most {limit} tokens ({reason}), got {limit + 1} in "
    assert complaint(lambda: conditioner.from_prompts([longest + " dog"])) == f"{message}'{longest} dog'"
    assert complaint(lambda: conditioner.attach_captions([longest, longest + " dog"])).startswith(message)
    many = complaint(lambda: conditioner.from_prompts(["cat " * 1000]))
    assert f"got 1002 in '{('cat ' * 15).strip()}" in many
    assert many.endswith("...'")
    assert len(many) < 200


def test_the_caption_of_an_image_gives_the_condition_of_the_same_prompt(conditioner):
    for train in (True, False):
        conditioner.train(train)
        cond = conditioned(conditioner, [3, 0, 0, 2])
        assert cond["tokens"].shape == (4, 9, 8)
        assert cond["tokens"].dtype == torch.float32
        assert cond["mask"].sum(1).tolist() == [6, 3, 3, 5]
        prompts = conditioner.from_prompts([CAPTIONS[place] for place in (3, 0, 0, 2)])
        assert torch.equal(cond["mask"], prompts["mask"])
        torch.testing.assert_close(cond["tokens"], prompts["tokens"], rtol=2e-3, atol=1e-3)
    exact = TextEncoder(str(conditioner.encoder.name), 9)([CAPTIONS[3]], CPU).tokens[0]
    torch.testing.assert_close(cond["tokens"][0, :6], exact, rtol=1e-3, atol=1e-3)
    assert (cond["tokens"][~cond["mask"]] == 0).all()


def test_null_is_the_empty_text(conditioner, folder, tmp_path):
    for made in (conditioner, text(folder, tmp_path)):  # a checkpoint's has read nothing before its first prompt
        null = made.null(3)
        assert null["tokens"].shape == (3, 9, 8)
        assert null["mask"].sum(1).tolist() == [2, 2, 2]
        assert same(null, made.from_prompts(["", "", ""]))
        assert same(null, conditioner.null(3))


def test_dropout_is_for_training_and_drops_its_share(folder, tmp_path):
    conditioner = text(folder, tmp_path, dropout=0.3)
    conditioner.attach_captions(CAPTIONS)
    places = [1] * 4000
    null, own = conditioner.null(1), conditioner.from_prompts([CAPTIONS[1]])
    torch.manual_seed(0)
    tokens = conditioned(conditioner, places)["tokens"]
    dropped = (tokens == null["tokens"]).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(tokens[~dropped], own["tokens"].expand(4000, -1, -1)[~dropped], rtol=2e-3, atol=1e-3)
    conditioner.eval()
    before = torch.get_rng_state()
    assert (conditioned(conditioner, places)["mask"] == own["mask"]).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_encoder_is_neither_trained_nor_saved(conditioner, folder, tmp_path):
    class Model(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

    conditioner.from_prompts(["red"])  # with the encoder in memory
    model = Model(conditioner)
    assert not list(model.parameters())
    assert model.state_dict() == {}
    Model(text(folder, tmp_path)).load_state_dict(model.state_dict())


def test_captions_are_embedded_once(conditioner, folder, tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError("the weights are read")

    assert "_loaded" not in vars(conditioner.encoder)  # nor kept
    monkeypatch.setattr("alphabar.models.text.load_transformers", fail)
    again = text(folder, tmp_path)
    again.attach_captions(CAPTIONS)
    assert same(conditioned(again, [0, 1, 2, 3]), conditioned(conditioner, [0, 1, 2, 3]))
    assert same(again.null(2), conditioner.null(2))
    for other, captions in ((text(folder, tmp_path, max_length=8), CAPTIONS), (text(folder, tmp_path), CAPTIONS[1:])):
        with pytest.raises(AssertionError, match="the weights are read"):
            other.attach_captions(captions)


def test_another_encoder_of_the_same_name_finds_nothing(conditioner, folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    (again := text(moved, tmp_path)).attach_captions(CAPTIONS)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with silence():
        model = BertModel.from_pretrained(moved)
        nn.init.zeros_(model.embeddings.word_embeddings.weight)
        model.save_pretrained(moved)
    (other := text(moved, tmp_path)).attach_captions(CAPTIONS)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert same(conditioned(again, [1]), conditioned(conditioner, [1]))
    assert not same(conditioned(other, [1]), conditioned(conditioner, [1]))


def test_a_damaged_cache_is_made_again_and_one_that_cannot_be_written_is_logged(conditioner, folder, tmp_path, caplog):
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-500])
    (again := text(folder, tmp_path)).attach_captions(CAPTIONS)
    assert same(conditioned(again, [1]), conditioned(conditioner, [1]))
    assert "so it is made again" in caplog.text
    assert DiskCache(path.parent).load(path) is not None
    (tmp_path / "file").write_text("")
    (blocked := text(folder, tmp_path / "file")).attach_captions(CAPTIONS)
    assert same(conditioned(blocked, [1]), conditioned(conditioner, [1]))
    assert "so the next run makes it again" in caplog.text


def test_the_table_moves_with_the_module_and_serves_training_after_sampling(conditioner):
    with torch.inference_mode():
        conditioned(conditioner, [1])
        conditioner.from_prompts(["red"])
        conditioner.null(1)
    weight = nn.Parameter(torch.ones(8))
    for cond in (conditioned(conditioner, [1]), conditioner.from_prompts(["red"]), conditioner.null(1)):
        (cond["tokens"] * weight).sum().backward()
    assert weight.grad.abs().sum() > 0
    conditioner.to("meta")
    for cond in (conditioner({"caption": torch.tensor([1])}), conditioner.from_prompts(["red"]), conditioner.null(1)):
        assert {value.device.type for value in cond.values()} == {"meta"}


def test_what_is_missing_is_one_line(folder, tmp_path):
    no_captions = "conditioner=text needs images with captions, and these data have none"
    conditioner = text(folder, tmp_path)
    assert complaint(lambda: conditioner.attach_captions(None)) == no_captions
    assert "call attach_captions(captions)" in complaint(lambda: conditioned(conditioner, [0]), ValueError)
    assert complaint(lambda: conditioner({"label": torch.tensor([0])}), ValueError) == no_captions
    wide = "gives tokens of 8 numbers, not 9: set conditioning.tokens=8"
    assert wide in complaint(lambda: text(folder, tmp_path, channels=9).attach_captions(CAPTIONS))
    assert wide in complaint(lambda: text(folder, tmp_path, channels=9).null(1))
    for settings in ({"dropout": 1.1}, {"channels": 0}, {"max_length": 0}):
        assert f"{next(iter(settings))}" in complaint(lambda settings=settings: text(folder, tmp_path, **settings), ValueError)
    for other in (ClassLabel(2, 4), Unconditional()):
        other.attach_captions(None)
        other.attach_captions(CAPTIONS)
