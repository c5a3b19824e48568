"""A small multilingual Unigram tokenizer, as XLM-RoBERTa has one, trained on the spot."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer

from vecserve_server.export.sample_run import CALIBRATION_TEXTS, PARITY_TEXTS

from .tiny_families import VOCABULARY

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
