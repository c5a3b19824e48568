"""Live against transformers: the ids of texts under every setting beside `tokenizer.json`."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from vecserve_server.importing.families.family import ModelConfigJson
from vecserve_server.importing.quantise.sample_run import CALIBRATION_TEXTS, PARITY_TEXTS
from vecserve_server.importing.sources.tokenizer_settings import read_tokenizer

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None,
        reason="transformers is not installed: make test-export",
    ),
    pytest.mark.filterwarnings("ignore"),
]

TEXTS = (
    *PARITY_TEXTS,
    "hello <new> World",
    "a [NEW]b",
    "[CLS] x [SEP]",
    "<mask> hi <s> x </s>",
    "Größe ÉTÉ naïve ΑΣ Σ",
    "中文字 abc",
    " lead",
)
CORPUS = (*TEXTS, *CALIBRATION_TEXTS, *map(str.lower, TEXTS))
LIKE_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LIKE_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LIKE_MPNET = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
KINDS = ("bos", "eos", "cls", "sep", "pad", "unk", "mask")
NEW = {"content": "<new>", "lstrip": True, "normalized": False, "special": True}
BESIDE = (None, {"additional_special_tokens": ["[NEW]"]})
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"additional_special_tokens": ["<new>"]},
    {"extra_special_tokens": ["<new>"]},
    {"added_tokens_decoder": {"9999": NEW}},
    {"truncation_side": "left", "padding_side": "left", "model_max_length": 512},
)


def word_pieces(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    train(tokenizer, trainers.WordPieceTrainer, special)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    return between(tokenizer, *(special[2:4] if special == LIKE_BERT else ("<s>", "</s>")))


def bytes_pairs(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer, special, initial_alphabet=alphabet)
    return between(tokenizer, "<s>", "</s>")


def unigrams(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    train(tokenizer, trainers.UnigramTrainer, special, unk_token="<unk>")
    return between(exactly_scored(tokenizer), "<s>", "</s>")


def exactly_scored(tokenizer: Tokenizer) -> Tokenizer:
    """Round the scores so that they add up without an error, in whatever order.

    Where two cuts of a text are equally good, rounding errors would choose between them.
    """
    described = json.loads(tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    described["model"]["vocab"] = [[term, round(score * 256) / 256] for term, score in vocabulary]
    return Tokenizer.from_str(json.dumps(described))


def train(tokenizer: Tokenizer, kind: Any, special: tuple[str, ...], **options: Any) -> None:
    trainer = kind(vocab_size=600, special_tokens=list(special), show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trainer)


def between(tokenizer: Tokenizer, first: str, last: str) -> Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    template = f"{first} $A {last}"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def named(special: tuple[str, ...]) -> dict[str, str]:
    first, last = ("[CLS]", "[SEP]") if special == LIKE_BERT else ("<s>", "</s>")
    unknown = next(token for token in special if "unk" in token.lower())
    pad, mask = special[0 if special == LIKE_BERT else 1], special[-1]
    tokens = dict(zip(KINDS, (first, last, first, last, pad, unknown, mask), strict=True))
    return {f"{kind}_token": token for kind, token in tokens.items()}


def settings(kind: str, special: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for class_name in (kind, f"{kind}Fast", "PreTrainedTokenizerFast", None):
        for variant in VARIANTS:
            yield {"tokenizer_class": class_name, **named(special), **variant}


@pytest.mark.parametrize(
    ("model_type", "kind", "make", "special"),
    [
        ("bert", "BertTokenizer", word_pieces, LIKE_BERT),
        ("distilbert", "DistilBertTokenizer", word_pieces, LIKE_BERT),
        ("mpnet", "MPNetTokenizer", word_pieces, LIKE_MPNET),
        ("roberta", "RobertaTokenizer", bytes_pairs, LIKE_ROBERTA),
        ("xlm-roberta", "XLMRobertaTokenizer", unigrams, LIKE_ROBERTA),
        ("camembert", "CamembertTokenizer", unigrams, LIKE_ROBERTA),
        ("modernbert", "BertTokenizer", bytes_pairs, LIKE_ROBERTA),
    ],
)
def test_texts_have_the_ids_that_transformers_gives_them(
    model_type: str, kind: str, make: Any, special: tuple[str, ...], tmp_path: Path
) -> None:
    auto = importlib.import_module("transformers").AutoTokenizer
    config = {"model_type": model_type}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    make(special).save(str(tmp_path / "tokenizer.json"))
    for stated in settings(kind, special):
        for beside in BESIDE:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated), encoding="utf-8")
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(beside or {}), "utf-8")
            exact = auto.from_pretrained(tmp_path)

            read = read_tokenizer(tmp_path, ModelConfigJson(dict(config)))

            found = Tokenizer.from_buffer(read.tokenizer_json)
            for text in TEXTS:
                assert found.encode(text).ids == exact(text)["input_ids"], (text, stated, beside)
