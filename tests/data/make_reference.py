"""Write minilm_reference.npz: what the original all-MiniLM-L6-v2 makes of 64 varied texts.

Run it where torch and transformers are installed, on the checkpoint's folder:

    python tests/data/make_reference.py path/to/checkpoint
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 256

LONG_TEXT = (
    "The harbour wakes before the town does. Fishing boats return with the tide, gulls follow "
    "them in, and the first lorries wait on the quay with their engines running. By six the "
    "auction has begun: crates of cod, plaice and crab pass under the clock while buyers raise "
    "a finger, a pencil, an eyebrow. "
)

TEXTS = [
    "",
    " ",
    "\t\n  \r\n",
    "a",
    "hello",
    "Hello",
    "HELLO",
    "hElLo WoRlD",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog",
    "What time does the shop open on Sundays?",
    "How can I cancel my subscription?",
    "I forgot the PIN of my card.",
    "My refund still has not arrived after two weeks.",
    "cordless drill 18V with two batteries",
    "laser printer, duplex, network, A4",
    "27 inch monitor 1440p 165 Hz",
    "running shoes",
    "size",
    "1234567890",
    "3.14159265358979",
    "+49 30 1234567",
    "1,000,000.00 €",
    "!",
    "?!?!...;;;---",
    "()[]{}<>",
    "\\ / | ~ ` ^",
    "https://www.example.com/search?q=red+shoes&page=2#top",
    "someone@example.org",
    "C:\\Users\\name\\Documents\\report.docx",
    "/var/log/syslog.1.gz",
    "192.168.0.1:8080",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "SELECT name, count(*) FROM users GROUP BY name HAVING count(*) > 1;",
    "<html><body><p>Hello</p></body></html>",
    '{"key": [1, 2, {"nested": null}]}',
    "for (int i = 0; i < n; ++i) sum += a[i];",
    "😀",
    "I ❤️ this product 😍👍🏽",
    "👨‍👩‍👧‍👦 family trip 🚗💨",
    "Wie spät ist es in München?",
    "Die Waschmaschine schleudert nicht mehr und macht laute Geräusche.",
    "Straßenbahnhaltestellenhäuschen",
    "Où est la bibliothèque, s'il vous plaît ?",
    "¿Dónde está la estación de tren?",
    "Привет, как дела?",
    "こんにちは世界",
    "北京欢迎你",
    "안녕하세요",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "ΑΒΓ αβγ",
    "naïve café résumé",
    "naive cafe resume",
    "e\u0301 is not \u00e9",
    "zero\u200bwidth\ufeffspaces",
    "control \x00 characters \x07 here",
    "[CLS] and [SEP] and [MASK] in the text",
    "##ing ##ed",
    "Donaudampfschifffahrtsgesellschaftskapitän" * 3,
    "x" * 300,
    LONG_TEXT,
    LONG_TEXT * 6,
    "word " * 254,
]


def embed(folder: Path) -> NDArray[np.float32]:
    """Return float32 [64, 384]: mean-pooled, norm 1, each text alone."""
    # By name, because the project itself does not depend on them.
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
    vectors = []
    with torch.inference_mode():
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
            vectors.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(vectors)


def main() -> None:
    """Write the file beside this script."""
    vectors = embed(Path(sys.argv[1]))
    # Texts as UTF-8 bytes: a NumPy string would drop trailing NUL characters.
    texts = np.frombuffer("\x1e".join(TEXTS).encode(), np.uint8)
    target = Path(__file__).with_name("minilm_reference.npz")
    np.savez_compressed(target, texts=texts, embeddings=vectors)


if __name__ == "__main__":
    main()
