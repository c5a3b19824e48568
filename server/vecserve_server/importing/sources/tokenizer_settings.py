"""Read a tokenizer as transformers loads it: `tokenizer.json` under `tokenizer_config.json`.

Owns which settings beside `tokenizer.json` change what it does. Must not know encoders or graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import AddedToken, Tokenizer

from vecserve_server.domain.rows import Json
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.family import ModelConfigJson
from vecserve_server.importing.sources.json_file import (
    JsonObject,
    existing,
    read_object_if_there,
    without_mark,
)
from vecserve_server.importing.sources.sentence_settings import is_positive

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_SPECIAL_FILE, _ADDED_FILE = "special_tokens_map.json", "added_tokens.json"

_NO_LIMIT = 1_000_000
"""`model_max_length` is a huge number where a tokenizer knows no limit."""
_SLOW_TOKENIZERS = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.model",
    "vocab.txt",
    "vocab.json",
)
_CLASS_BY_MODEL_TYPE: Mapping[str, str] = MappingProxyType(
    {
        "bert": "BertTokenizer",
        "distilbert": "BertTokenizer",
        "mpnet": "MPNetTokenizer",
        "roberta": "RobertaTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
        "camembert": "CamembertTokenizer",
    }
)
"""The tokenizer of a model type whose files name none."""

_LIKE_BERT = ("BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer", "ElectraTokenizer")
_SENTENCEPIECE = ("XLMRobertaTokenizer", "CamembertTokenizer")
_SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SIDES = ("right", "left")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """A checkpoint's tokenizer."""

    tokenizer_json: bytes
    """Does by itself what the checkpoint's files do together."""
    max_tokens: int | None
    """Its own limit, which may exceed what the encoder takes; None where it has none."""
    truncation_side: str
    """`right` or `left`: the end at which long texts are cut."""
    files: tuple[Path, ...]
    """What was read."""


def read_tokenizer(folder: Path, config: ModelConfigJson) -> TokenizerSettings:
    """Read the encoder's tokenizer; raises `ModelError` naming a setting that is not obeyed."""
    path = _tokenizer_file(folder)
    tokenizer_json = without_mark(path.read_bytes())
    settings = read_object_if_there(folder / CONFIG_FILE)
    tokenizer = _parsed(tokenizer_json)
    if settings.get("split_special_tokens"):
        raise ModelError(f"{CONFIG_FILE}: split_special_tokens is not supported")
    changed = [
        _obey_class(tokenizer, settings, _class_name(settings, config)),
        _add_tokens(tokenizer, folder, settings),
    ]
    names = (CONFIG_FILE, _SPECIAL_FILE, _ADDED_FILE)
    return TokenizerSettings(
        tokenizer_json=tokenizer.to_str().encode() if any(changed) else tokenizer_json,
        max_tokens=_max_tokens(settings),
        truncation_side=_truncation_side(tokenizer, settings),
        files=(path, *(folder / name for name in names if (folder / name).is_file())),
    )


def _tokenizer_file(folder: Path) -> Path:
    path = folder / TOKENIZER_FILE
    slow = [name for name in _SLOW_TOKENIZERS if (folder / name).is_file()]
    if slow and not path.is_file():
        raise ModelError(
            f"tokenizer.json is missing from {folder}: {slow[0]} alone is not read; write it with "
            "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return existing(path)


def _parsed(tokenizer_json: bytes) -> Any:
    try:
        return Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:
        raise ModelError(f"{TOKENIZER_FILE}: not a usable tokenizer ({error})") from error


def _class_name(settings: JsonObject, config: ModelConfigJson) -> str:
    """Return the class that transformers loads the tokenizer with; empty for the file as it is."""
    own = _CLASS_BY_MODEL_TYPE.get(config.model_type() or "", "")
    stated = settings.get("tokenizer_class") or config.values.get("tokenizer_class")
    if config.model_type() == "modernbert":
        return ""
    return stated.removesuffix("Fast") if isinstance(stated, str) else own


def _obey_class(tokenizer: Any, settings: JsonObject, name: str) -> bool:
    """Bring the tokenizer in line with what its class makes of the settings; tell of a change."""
    if name in _LIKE_BERT:
        return _obey_bert(tokenizer, settings)
    if name == "RobertaTokenizer":
        return _obey_roberta(tokenizer, settings)
    if name in _SENTENCEPIECE and settings.get("add_prefix_space") is False:
        return _prepend_nothing(tokenizer)
    return False


def _prepend_nothing(tokenizer: Any) -> bool:
    """Let words begin without the mark of a space before them."""
    splitter = tokenizer.pre_tokenizer
    parts = splitter if type(splitter).__name__ == "Sequence" else [splitter]
    found = [part for part in parts if type(part).__name__ == "Metaspace"]
    if not found:
        raise ModelError(f"{CONFIG_FILE}: add_prefix_space is false, {TOKENIZER_FILE} marks none")
    for part in found:
        part.prepend_scheme = "never"
    return True


def _obey_bert(tokenizer: Any, settings: JsonObject) -> bool:
    """Set how texts are normalised, as the class does whatever `tokenizer.json` says."""
    wanted = {
        "lowercase": _flag(settings, "do_lower_case", default=True),
        "strip_accents": _flag(settings, "strip_accents", default=None),
        "handle_chinese_chars": _flag(settings, "tokenize_chinese_chars", default=True),
    }
    normalizer = tokenizer.normalizer
    if type(normalizer).__name__ != "BertNormalizer":
        _check_lower_case(normalizer, settings)
        return False
    found = {key: getattr(normalizer, key) for key in wanted}
    for key, value in wanted.items():
        setattr(normalizer, key, value)
    return found != wanted


def _check_lower_case(normalizer: Any, settings: JsonObject) -> None:
    """Refuse a stated case that a normaliser of another kind than BERT's does not keep to."""
    stated = settings.get("do_lower_case")
    found = normalizer is not None and normalizer.normalize_str("A") == "a"
    if isinstance(stated, bool) and stated != found:
        raise ModelError(
            f"{CONFIG_FILE}: do_lower_case is {json.dumps(stated)}, {TOKENIZER_FILE} does otherwise"
        )


def _obey_roberta(tokenizer: Any, settings: JsonObject) -> bool:
    """Set whether a text begins like a word after a space."""
    wanted = _flag(settings, "add_prefix_space", default=False)
    splitter = tokenizer.pre_tokenizer
    if type(splitter).__name__ != "ByteLevel" or splitter.add_prefix_space == wanted:
        return False
    splitter.add_prefix_space = wanted
    return True


def _flag(settings: JsonObject, key: str, *, default: bool | None) -> bool | None:
    value = settings.get(key, default)
    if value is None and default is not None:
        value = default
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{CONFIG_FILE}: {key} is {value!r}, not true or false")
    return value


def _add_tokens(tokenizer: Any, folder: Path, settings: JsonObject) -> bool:
    """Add the tokens that only the files beside `tokenizer.json` hold; tell of a change."""
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    missing: dict[str, AddedToken] = {}
    for token, exact in _stated_tokens(folder, settings):
        found = missing.get(token.content, known.get(token.content))
        if found is None or (exact and repr(found) != repr(token)):
            missing[token.content] = token
    if missing:
        tokenizer.add_tokens(list(missing.values()))
    return bool(missing)


def _stated_tokens(folder: Path, settings: JsonObject) -> Iterator[tuple[AddedToken, bool]]:
    """Yield the tokens, and whether what is stated of one goes before what is known of it."""
    decoder = settings.get("added_tokens_decoder")
    legacy = decoder is None
    if isinstance(decoder, dict):
        for token in decoder.values():
            yield _token(token, CONFIG_FILE), True
    special = read_object_if_there(folder / _SPECIAL_FILE) if legacy else {}
    named = {**settings, **special}
    more = _more_tokens(settings) or _more_tokens(special)
    values = [named.get(f"{kind}_token") for kind in _SPECIAL_TOKENS]
    for value in (*values, *(more if isinstance(more, list) else ())):
        if value:
            yield _token(value, CONFIG_FILE, special=True), False
    if legacy:
        for text in read_object_if_there(folder / _ADDED_FILE):
            yield AddedToken(text, normalized=True, special=False), False


def _more_tokens(settings: JsonObject) -> Json:
    return settings.get("extra_special_tokens") or settings.get("additional_special_tokens")


def _token(value: Json, file: str, *, special: bool = False) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=not special)
    fields = dict(value) if isinstance(value, dict) else {}
    text, flags = fields.pop("content", None), {k: v for k, v in fields.items() if k != "__type"}
    known = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if not isinstance(text, str) or any(
        key not in known or not isinstance(flag, bool) for key, flag in flags.items()
    ):
        raise ModelError(f"{file}: {value!r} is not a token")
    return AddedToken(text, **{"special": special, **flags})


def _max_tokens(settings: JsonObject) -> int | None:
    limit = settings.get("model_max_length")
    if isinstance(limit, int) and is_positive(limit) and limit < _NO_LIMIT:
        return limit
    return None


def _truncation_side(tokenizer: Any, settings: JsonObject) -> str:
    of_file = (tokenizer.truncation or {}).get("direction", "right")
    side = settings.get("truncation_side") or of_file
    if side not in _SIDES:
        raise ModelError(f"{CONFIG_FILE}: truncation_side is {side!r}, not right or left")
    return str(side)


def lower_casing(tokenizer_json: bytes) -> bytes:
    """Return the tokenizer with lower-casing before its own steps, unless it is one of them."""
    tokenizer = json.loads(tokenizer_json)
    own = tokenizer.get("normalizer")
    match own:
        case None:
            steps = []
        case {"type": "Sequence", "normalizers": [*several]}:
            steps = several
        case _:
            steps = [own]
    if any(step.get("type") == "Lowercase" for step in steps):
        return tokenizer_json
    steps = [{"type": "Lowercase"}, *steps]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return json.dumps(tokenizer, ensure_ascii=False).encode()
