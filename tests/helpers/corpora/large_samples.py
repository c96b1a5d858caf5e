"""A mirror of the hub with the layout of FineWeb-Edu, and what its documents are."""

import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.corpora.data_samples import WORDS, write

REPOSITORY = "HuggingFaceTB/smollm-corpus"
CONFIG = "fineweb-edu-dedup"

CARD = f"""---
license: odc-by
configs:
- config_name: cosmopedia-v2
  data_files:
  - split: train
    path: cosmopedia-v2/train-*
- config_name: {CONFIG}
  data_files:
  - split: train
    path: {CONFIG}/train-*
---
"""


def story(seed: int, words: int = 60) -> str:
    """Prose whose words are nobody else's in this order, with characters beyond ASCII."""
    chance = random.Random(seed)
    return f"Story {seed} “" + " ".join(chance.choices(WORDS, k=words)) + "” — the end.\n"


def mirror_of(texts_of_files: list[list[str]], folder: Path, rows: int = 10) -> Path:
    """Write a mirror whose FineWeb-Edu has these files; row groups of `rows` documents. Returns its folder."""
    repository = folder / REPOSITORY
    write(repository / "README.md", CARD)
    write(repository / "cosmopedia-v2" / "train-00000-of-00001.parquet", "not this one")
    (repository / CONFIG).mkdir()
    for number, texts in enumerate(texts_of_files):
        table = pa.table(
            {
                "text": texts,
                "id": [f"<urn:{number}-{row}>" for row in range(len(texts))],
                "metadata": [{"dump": "CC", "score": 3.5, "url": "https://example.org"}] * len(texts),
            }
        )
        name = f"train-{number:05d}-of-{len(texts_of_files):05d}.parquet"
        pq.write_table(table, repository / CONFIG / name, row_group_size=rows)
    return folder


DRIVER = """
import sys
from pathlib import Path
from mor_core.data.prepare import prepare
from mor_core.data.spec import DataSpec
corpus, cache, deduplicate, workers, part_bytes = sys.argv[1:]
if int(workers) > 1:
    from orchestrator.running.ray.executor import RayExecutor
    spread = RayExecutor(workers=int(workers)).map
else:
    from mor_core.data.large.corpus import one_after_another as spread
spec = DataSpec(corpus=corpus, vocab_size=400, deduplicate=deduplicate)
print(prepare(spec, Path(cache), spread=spread, part_bytes=int(part_bytes)).fingerprint)
"""


def preparing(corpus: str, cache: Path, workers: int, deduplicate: str = "near", part_bytes: int = 3_000):
    """A process that prepares a corpus and prints the fingerprint of what it made."""
    arguments = [corpus, str(cache), deduplicate, str(workers), str(part_bytes)]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, text=True)
