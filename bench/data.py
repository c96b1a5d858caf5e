"""Preparing and reading data: processor seconds against `datasets.map`, memory against corpus size, time of the loader.

    python -m bench.data [encode] [memory] [loader] [beside] [--text FILE] [--megabytes N] [--rounds N]

`--text` is a JSON Lines file; by default the descriptions and manuals of the installed distributions, which are prose.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np

from mor_core.data.batches import TokenReader
from mor_core.data.large.corpus import freeze_source, write_large
from mor_core.data.large.parts import PartJob, prepare_part
from mor_core.data.large.sources import Piece
from mor_core.data.prepare import open_tokens
from mor_core.data.snapshot import load_snapshot
from mor_core.data.spec import DataSpec
from mor_core.data.text.python_sources import site_folders
from mor_core.data.tokens.tokenizer import END_OF_TEXT, read_tokenizer

VOCABULARY = 49152
SEQUENCES, CONTEXT = 1024, 2048
"""A batch of the paper."""

H100_TOKENS = 91_701
"""Tokens a second of a vanilla 360M step on an H100 (results.md): the step that the loader is compared with."""

READING = """
import sys
from pathlib import Path
from mor_core.data.prepare import prepare
from mor_core.data.spec import DataSpec
corpus, tokenizer, cache, part_bytes = sys.argv[1:]
spec = DataSpec(corpus=corpus, vocab_size=49152, tokenizer=tokenizer, deduplicate="none")
prepare(spec, Path(cache), part_bytes=int(part_bytes))
status = Path("/proc/self/status").read_text()  # getrusage would count the process that started this one
print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""


def prose() -> Iterator[str]:
    """The descriptions and manuals that lie beside installed libraries."""
    for folder in site_folders():
        for pattern in ("*.dist-info/METADATA", "**/*.rst", "**/*.md"):
            for path in sorted(folder.glob(pattern)):
                text = path.read_text(encoding="utf-8", errors="ignore")
                if len(text) > 500:
                    yield text


def lines_of(texts: list[str], megabytes: float, path: Path) -> Path:
    """JSON Lines of about so many megabytes; texts come again in another order where there are too few."""
    chance, written = random.Random(0), 0
    with path.open("w") as file:
        while written < megabytes * 1e6:
            chance.shuffle(texts)
            for text in texts:
                written += file.write(json.dumps({"text": text}) + "\n")
                if written >= megabytes * 1e6:
                    break
    return path


def smollm_like(texts: list[str], folder: Path) -> Path:
    """A tokenizer that finds words as SmolLM's does, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encode(lines: Path, tokenizer: Path, scratch: Path, rounds: int) -> None:
    """Tokens per processor second, all work included: reading, encoding, checking, hashing, writing."""
    import datasets

    datasets.disable_progress_bars()
    given_tokenizer = read_tokenizer(tokenizer)
    contenders: dict[str, Callable[[Path], int]] = {
        "mor-sweep": lambda folder: _ours(lines, given_tokenizer, folder),
        "datasets.map": lambda folder: _theirs(lines, given_tokenizer.file, folder),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            folder = scratch / f"{name}-{number}"
            folder.mkdir()
            started = time.process_time()
            tokens = run(folder)
            speeds[name].append(tokens / (time.process_time() - started))
            shutil.rmtree(folder)
            print(f"  round {number + 1}: {name} {speeds[name][-1]:,.0f} tokens per processor second", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(*speeds.values(), strict=True)]
    print(f"encode: {_spread(ratios)} times the tokens per processor second of datasets.map")


def _ours(lines: Path, given_tokenizer: Any, folder: Path) -> int:
    shutil.copy(given_tokenizer.file, folder / "tokenizer.json")
    piece = Piece(file=str(lines), kind="json", start=0, stop=None, bytes=0, stamp=None)
    job = PartJob(
        number=0,
        pieces=(piece,),
        folder=folder,
        tokenizer="",
        tokenizer_fingerprint="",
        end_of_text_id=given_tokenizer.end_of_text_id,
        vocab_size=VOCABULARY,
        dtype="<u2",
        validation_share=0.005,
        signatures=False,
    )
    record = prepare_part(job).record
    assert record is not None
    return sum(shard["tokens"] for shard in record["shards"].values())


def _theirs(lines: Path, tokenizer_file: Path, folder: Path) -> int:
    """What one would write with `datasets`: read, encode by batches, store."""
    import datasets
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None

    def ids(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[*encoding.ids, end] for encoding in encoded]}

    rows = datasets.load_dataset("json", data_files=str(lines), split="train", cache_dir=str(folder))
    encoded = rows.map(ids, batched=True, remove_columns=["text"], load_from_cache_file=False)
    return sum(map(len, encoded.data.column("ids")))


def memory(texts: list[str], tokenizer: Path, scratch: Path, megabytes: float) -> None:
    """Peak memory of a process that prepares a corpus in parts of 4 MB, as the corpus grows."""
    peaks = {}
    for factor in (1, 4, 16):
        lines = lines_of(texts, megabytes * factor / 16, scratch / f"memory-{factor}.jsonl")
        command = [sys.executable, "-c", READING, lines, tokenizer, scratch / f"cache-{factor}", 4_000_000]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        peaks[factor] = int(done.stdout) / 1e6
        print(f"  {lines.stat().st_size / 1e6:,.0f} MB of text: peak {peaks[factor]:,.0f} MB", flush=True)
        shutil.rmtree(scratch / f"cache-{factor}")
        lines.unlink()
    print(f"memory: 16 times the text takes {peaks[16] / peaks[1]:.2f} times the memory")


def loader(lines: Path, tokenizer: Path, scratch: Path, rounds: int) -> None:
    """The paper's batches from many shards: at random, as training reads them, and one after another."""
    spec = DataSpec(corpus=str(lines), vocab_size=VOCABULARY, tokenizer=str(tokenizer), deduplicate="none")
    source = freeze_source(spec, scratch / "cache", part_bytes=1_000_000)
    write_large(source, VOCABULARY, scratch / "tokens", read_tokenizer(tokenizer))
    reader = open_tokens(load_snapshot(scratch / "tokens"))
    at_random, in_order = [], []
    for number in range(rounds * 5):
        started = time.perf_counter()
        reader.train_batch(0, number, SEQUENCES, CONTEXT)
        at_random.append(time.perf_counter() - started)
        started = time.perf_counter()
        _in_order(reader, number)
        in_order.append(time.perf_counter() - started)
    step = SEQUENCES * CONTEXT / H100_TOKENS
    print(
        f"loader: {len(reader.train)} shards; a batch of {SEQUENCES} x {CONTEXT} tokens takes "
        f"{1000 * statistics.median(at_random):.1f} ms, {statistics.median(at_random) / step:.3%} of a step of the "
        f"360M model on an H100 ({step:.1f} s); read in order {1000 * statistics.median(in_order):.1f} ms, "
        f"at random over in order {_spread([a / b for a, b in zip(at_random, in_order, strict=True)])}"
    )


def beside(lines: Path, scratch: Path, steps: int) -> None:
    """The loader's share of the wall time of small steps on one core of a CPU, as one process takes them in turn."""
    import torch

    from mor_core.config.sizes import SIZES, model_config
    from mor_core.config.training import TrainConfig
    from mor_core.model.transformer import build_model
    from mor_core.training.loop import train_steps
    from mor_core.training.optim import build_optimizer

    torch.set_num_threads(1)
    spec = DataSpec(corpus=str(lines), vocab_size=512, deduplicate="none")
    source = freeze_source(spec, scratch / "cache", part_bytes=max(1, lines.stat().st_size // 300))
    write_large(source, 512, scratch / "small-tokens")
    reader = open_tokens(load_snapshot(scratch / "small-tokens"))
    train = TrainConfig(batch_size=8, peak_learning_rate=0.01, warmup_steps=4)
    for size in ("13k", "170k"):
        config = model_config(SIZES[size], vocab_size=512, context_length=64)
        model = build_model(config, seed=0)
        loading: list[float] = []
        read = reader.read_ahead(0, 8, 64)

        def timed(
            step: int,
            loading: list[float] = loading,
            read: Callable[[int], Any] = read,
        ) -> Any:
            started = time.perf_counter()
            batch = read(step)
            loading.append(time.perf_counter() - started)
            return batch

        ends = [time.perf_counter()]
        optimizer = build_optimizer(model, train)
        for _ in train_steps(model, optimizer, train, timed, steps=range(steps), cooldown=None):
            ends.append(time.perf_counter())
        whole = (ends[-1] - ends[0]) / steps
        # Sums and not medians: steps are read together, so most wait for nothing and some for many.
        print(
            f"beside: {size}, 8 x 64 tokens from {len(reader.train)} shards: {sum(loading) / (ends[-1] - ends[0]):.2%} "
            f"of a step of {1000 * whole:.1f} ms (means of {steps})"
        )


def _in_order(reader: TokenReader, number: int) -> None:
    """The same number of tokens from the shards, one after another."""
    batch = np.empty((SEQUENCES, CONTEXT + 1), dtype=np.int64)
    shard, place = number % len(reader.train), 0
    for row in range(SEQUENCES):
        if place + CONTEXT + 1 > reader.train[shard].num_tokens:
            shard, place = (shard + 1) % len(reader.train), 0
        batch[row] = reader.train[shard].tokens[place : place + CONTEXT + 1]
        place += CONTEXT


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """See the module."""
    sections = ("encode", "memory", "loader", "beside")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=", ".join(sections))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(sections):
        parser.error(f"no section {', '.join(unknown)}: choose from {', '.join(sections)}")
    chosen = options.sections or sections
    json_lines = options.text.read_text().splitlines() if options.text else None
    texts = [json.loads(line)["text"] for line in json_lines] if json_lines else list(prose())
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tokenizer = smollm_like(texts, scratch / "tokenizer")
        distinct = sum(len(text.encode()) for text in texts) / 1e6
        lines = lines_of(texts, min(options.megabytes, distinct), scratch / "text.jsonl")
        print(f"{distinct:.0f} MB of distinct text, {len(texts):,} documents", flush=True)
        if "encode" in chosen:
            encode(lines, tokenizer, scratch, options.rounds)
        if "memory" in chosen:
            memory(texts, tokenizer, scratch, options.megabytes)
        if "loader" in chosen:
            loader(lines, tokenizer, scratch, options.rounds)
        if "beside" in chosen:
            beside(lines, scratch, steps=100 * options.rounds)


if __name__ == "__main__":
    main()
