"""Write `data_folder_0_1_0.zip`: a data folder as version 0.1.0 left it, with word indexes.

    python -m tests.data.make_data_folder

Run it with the code of that version alone: what later versions write is not what this is kept for.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from vecserve_server.domain.collections import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    TextAnalysis,
    Tokeniser,
)
from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.generations import ROWS_FILE
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.row_log import RowLog

ARCHIVE = Path(__file__).with_name("data_folder_0_1_0.zip")
MODEL = ModelRef(name="m", version="1", digest="0f" * 32)
DIM = 4
FIELDS = (
    FieldSpec(name="title", type=FieldType.TEXT),
    FieldSpec(name="brand", type=FieldType.KEYWORD),
    FieldSpec(name="day", type=FieldType.DATETIME),
)
ANALYSES = {
    "words": TextAnalysis(porter=True),
    "grams": TextAnalysis(tokeniser=Tokeniser.TRIGRAM),
}
TITLES = {
    "french": "école Müller Việt",
    "water": "पानी",
    "leaf": "पान",
    "tower": "東京タワー観光",
    "case": "iPhone15用ケース",
    "code": "C++17 AB-12 1.1.6",
    "shoes": "Running shoes",
}
DAY = "2024-03-10T02:30:00"


def main() -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with DataFolder.open(root) as folder:
            for collection, analysis in ANALYSES.items():
                _fill(folder, collection, analysis)
        with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                if path.is_file() and path.name != "LOCK":
                    archive.write(path, path.relative_to(root))


def _fill(folder: DataFolder, name: str, analysis: TextAnalysis) -> None:
    spec = CollectionSpec(
        name=name,
        model=MODEL,
        dim=DIM,
        created_unix_ms=7,
        fields=FIELDS,
        text_analysis=analysis,
    )
    log = RowLog.open(
        folder.create_collection(spec) / "1" / ROWS_FILE,
        dim=DIM,
        model_digest=MODEL.digest,
        model_name=MODEL.name,
        model_version=MODEL.version,
        fields=FIELDS,
        text_analysis=analysis,
    )
    log.commit([Upsert(_row(number, *item)) for number, item in enumerate(TITLES.items())])
    log.commit([Upsert(_row(9, "gone", "removed shoes"))])
    log.commit([Delete("gone")])
    log.close()


def _row(number: int, row_id: str, title: str) -> NewRow:
    vector = np.zeros(DIM, np.float32)
    vector[number % DIM] = 1
    payload = {"brand": f"b{number % 3}", "day": DAY, "title": title}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return NewRow(id=row_id, vector=vector, payload_json=text, source=Source(text=title))


if __name__ == "__main__":
    main()
