"""Small tokenizers, trained on the spot: Unigram as XLM-RoBERTa has it, WordPiece as BERT has."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer, WordPieceTrainer

from tests.importing.tiny_families import VOCABULARY
from vecserve_server.importing.quantise.sample_run import CALIBRATION_TEXTS, PARITY_TEXTS

TEXTS = (
    "hello",
    "Where is my order?",
    "Wo bleibt meine Bestellung, die letzte Woche kommen sollte?",
    "La commande n'est jamais arrivée.",
    "東京は日本の首都です。",
    "北京是中国的首都。",
    "Привет, как дела?",
    "👍 great service ⭐",
    "  many   spaces ",
)


def multilingual_tokenizer() -> Tokenizer:
    """Return a tokenizer of at most `VOCABULARY` pieces; ids 0 to 3 are <s> <pad> </s> <unk>."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CALIBRATION_TEXTS + PARITY_TEXTS + TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def word_piece_tokenizer(*, lowercase: bool) -> Tokenizer:
    """Return a tokenizer of pieces in either case, whatever it makes of a text's case itself."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False, min_frequency=1
    )
    texts = CALIBRATION_TEXTS + PARITY_TEXTS + TEXTS
    tokenizer.train_from_iterator([*texts, *map(str.lower, texts)], trainer)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer
