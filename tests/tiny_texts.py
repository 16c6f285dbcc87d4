"""Text encoders of transformers with few weights, all random, and tokenizers that know a few words."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tiny_models import save

WORDS = ("a", "cat", "dog", "red", "heart", "and")
WIDTH = {"clip": 16, "clip_text": 16, "t5": 12, "bert": 8}


def make(kind: str, folder: Path) -> Path:
    """A model and a tokenizer as save_pretrained writes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[kind]()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    save(model, folder)
    TOKENIZERS[kind](folder)
    return folder


def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertModel(BertConfig(vocab_size=20, max_position_embeddings=10, **sizes))


def text_part() -> dict[str, int]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
    return sizes | {"vocab_size": 30, "max_position_embeddings": 12, "bos_token_id": 20, "eos_token_id": 21, "pad_token_id": 21}


def clip() -> nn.Module:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
    vision |= {"patch_size": 4, "projection_dim": 8}
    return CLIPModel(CLIPConfig(text_config=text_part(), vision_config=vision, projection_dim=8))


def clip_text() -> nn.Module:
    return CLIPTextModel(CLIPTextConfig(**text_part()))


def t5() -> nn.Module:
    """A T5 with its decoder, as published."""
    sizes = {"d_model": 12, "d_kv": 6, "d_ff": 8, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=20, decoder_start_token_id=0, **sizes))


def bert_words(folder: Path) -> None:
    (folder / "words.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)


def clip_words(folder: Path) -> None:
    letters = sorted(set("".join(WORDS)))
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)][:20]
    vocabulary = {piece: index for index, piece in enumerate(pieces)} | {"<|startoftext|>": 20, "<|endoftext|>": 21}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def t5_words(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )


MODELS = {"bert": bert, "clip": clip, "clip_text": clip_text, "t5": t5}
TOKENIZERS = {"bert": bert_words, "clip": clip_words, "clip_text": clip_words, "t5": t5_words}
