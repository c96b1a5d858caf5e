"""Large corpora: every document once, in one order, however the work is cut, spread, stopped and taken up again."""

import bz2
import gzip
import json
import lzma
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mor_core.data import batches
from mor_core.data.large.corpus import freeze_source
from mor_core.data.large.sources import documents_of
from mor_core.data.prepare import find, open_tokens, prepare
from mor_core.data.snapshot import DataSnapshot, contents_of, read_manifest
from mor_core.data.spec import DataError, DataSpec
from mor_core.data.text.file_formats import LONGEST_PIECE, json_documents, parquet_documents, text_documents
from mor_core.data.tokens.tokenizer import load_tokenizer
from tests.helpers.corpora.data_samples import write
from tests.helpers.corpora.large_samples import CONFIG, REPOSITORY, mirror_of, preparing, story

T = 32
STORIES = [story(seed) for seed in range(300)]
PART_BYTES = 4_000


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FineWeb-Edu in three files."""
    folder = mirror_of([STORIES[:100], STORIES[100:180], STORIES[180:]], tmp_path / "mirror")
    monkeypatch.setenv("MOR_SWEEP_HF_MIRROR", str(folder))
    return folder


def spec_of(corpus: str = "fineweb-edu", **settings) -> DataSpec:
    return DataSpec(corpus=corpus, vocab_size=400, **settings)


def documents_in(snapshot: DataSnapshot, side: str) -> list[str]:
    """What the shards of one side say, document by document."""
    manifest = read_manifest(snapshot.folder)
    tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json")
    found: list[str] = []
    for shard in manifest["splits"][side]["shards"]:
        tokens = np.fromfile(snapshot.folder / shard["file"], manifest["dtype"])
        ends = np.flatnonzero(tokens == manifest["end_of_text_id"])
        assert ends[-1] == len(tokens) - 1
        found += [tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, ends + 1)[:-1]]
    return found


def test_fineweb_edu_is_prepared_from_a_mirror_with_every_document_once(mirror: Path, cache: Path) -> None:
    snapshot = prepare(spec_of(), cache, part_bytes=PART_BYTES)
    train, valid = documents_in(snapshot, "train"), documents_in(snapshot, "valid")
    assert Counter(train + valid) == Counter(STORIES)
    assert 3 <= len(valid) <= 40
    assert snapshot.train_bytes == sum(len(text.encode()) for text in train)
    manifest = read_manifest(snapshot.folder)
    assert manifest["parts"][0] > 5
    assert manifest["provenance"] == {
        "source": f"hf:{REPOSITORY}:{CONFIG}",
        "revision": "as mirrored",
        "licence": "odc-by",
        "filter": "FineWeb-Edu, deduplicated, as SmolLM was trained on: educational score 3 and above",
    }
    assert find(spec_of(), cache) == prepare(spec_of(), cache) == snapshot
    reader = open_tokens(snapshot)
    reader.verify()
    windows = [tuple(reader.train_batch(0, step, 1, T)[0]) for step in range(reader.num_train_sequences(T))]
    assert len(set(windows)) == len(windows)


def test_a_revision_of_a_mirror_is_said_not_to_be_checked(mirror: Path, cache: Path) -> None:
    snapshot = prepare(spec_of(f"hf:{REPOSITORY}:{CONFIG}@v1.0"), cache, part_bytes=PART_BYTES)
    assert contents_of(snapshot).provenance["revision"] == "as mirrored, named v1.0 and not checked"


def test_neither_the_order_of_the_work_nor_who_does_it_changes_a_byte(mirror: Path, tmp_path: Path) -> None:
    def backwards(function, items):
        return map(function, sorted(items, key=lambda job: -job.number))

    first = prepare(spec_of(deduplicate="near"), tmp_path / "a", part_bytes=PART_BYTES)
    second = prepare(spec_of(deduplicate="near"), tmp_path / "b", part_bytes=PART_BYTES, spread=backwards)
    assert read_manifest(first.folder) == read_manifest(second.folder)


def test_a_limit_takes_the_first_parts_that_reach_it(mirror: Path, cache: Path) -> None:
    tried: list[int] = []

    def noting(function, items):
        for item in items:
            tried.append(item.number)
            yield function(item)

    whole = prepare(spec_of(), cache, part_bytes=PART_BYTES)
    part = prepare(spec_of(max_megabytes=0.03), cache, part_bytes=PART_BYTES, spread=noting)
    assert 30_000 <= part.train_bytes + part.valid_bytes < 40_000 < whole.train_bytes
    assert find(spec_of(max_megabytes=0.03), cache) == part
    assert tried == list(range(read_manifest(part.folder)["parts"][0])), "no more is read than is needed"


def records(cache: Path) -> int:
    """How many parts are recorded as done, once for all and once without what repeats."""
    return len([*cache.glob("tokens/*/part-*.json"), *cache.glob("tokens/*/kept-*.json")])


def killed_until_done(corpus: str, cache: Path, workers: int, kills: int) -> str:
    """Prepare, killed this often at random moments after some more parts were done. Returns the fingerprint."""
    chance = random.Random(workers)
    for _ in range(kills):
        enough, process = records(cache) + chance.randrange(9), preparing(corpus, cache, workers)
        while process.poll() is None and records(cache) < enough:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        assert process.poll() is None, "it ended before it could be killed: use more text"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = preparing(corpus, cache, workers)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return printed.strip()


@pytest.mark.parametrize(("workers", "kills"), [(1, 1), pytest.param(2, 8, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path: Path, workers: int, kills: int) -> None:
    repeated = [story(1000 + seed % 190, 120) for seed in range(300)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in repeated)
    file = write(tmp_path / "stories.jsonl", rows)
    spec = spec_of(str(file), deduplicate="near")
    undisturbed = prepare(spec, tmp_path / "undisturbed", part_bytes=3_000)
    fingerprint = killed_until_done(str(file), tmp_path / "disturbed", workers, kills)
    assert fingerprint == undisturbed.fingerprint
    disturbed = find(spec, tmp_path / "disturbed")
    assert disturbed is not None
    assert read_manifest(disturbed.folder) == read_manifest(undisturbed.folder)
    open_tokens(disturbed).verify()
    assert Counter(documents_in(disturbed, "train") + documents_in(disturbed, "valid")) == Counter(set(repeated))


def test_what_is_done_is_not_done_again(mirror: Path, cache: Path) -> None:
    class Stopped(Exception):
        pass

    def stopping(function, items):
        for number, item in enumerate(items):
            if number == 4:
                raise Stopped
            yield function(item)

    with pytest.raises(Stopped):
        prepare(spec_of(), cache, part_bytes=PART_BYTES, spread=stopping)
    assert find(spec_of(), cache) is None
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.bin")}
    assert len(before) == 8
    prepare(spec_of(), cache, part_bytes=PART_BYTES)
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert after.items() <= before.items()


@pytest.mark.parametrize(
    "harm", ["changed", "tokenizer", *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("missing", "cut"))]
)
def test_a_damaged_large_corpus_is_mended_with_the_same_bytes(mirror: Path, cache: Path, harm: str) -> None:
    spec = spec_of(deduplicate="near")
    before = prepare(spec, cache, part_bytes=PART_BYTES)
    manifest = read_manifest(before.folder)
    shard = before.folder / manifest["splits"]["train"]["shards"][2]["file"]
    if harm == "missing":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-2])
    elif harm == "changed":
        shard.write_bytes(b"\xff\x00" + shard.read_bytes()[2:])
    else:
        (before.folder / "tokenizer.json").write_text("{}")
    if harm in ("missing", "cut"):
        with pytest.raises(DataError, match=shard.name):
            open_tokens(before)
    elif harm == "changed":
        with pytest.raises(DataError, match=rf"{shard.name} is not the one that was prepared"):
            open_tokens(before).verify()
    assert prepare(spec, cache, refresh=True, part_bytes=PART_BYTES) == before
    assert read_manifest(before.folder) == manifest
    open_tokens(before).verify()


def test_a_document_that_stands_in_two_parts_stays_once(tmp_path: Path, cache: Path, monkeypatch) -> None:
    near = STORIES[7].replace("Story 7", "Story seven")
    texts = [*STORIES[:100], STORIES[3], STORIES[50], STORIES[3], near, *STORIES[100:150]]
    monkeypatch.setenv("MOR_SWEEP_HF_MIRROR", str(mirror_of([texts[:60], texts[60:]], tmp_path / "mirror")))
    found = {}
    for deduplicate in ("none", "exact", "near"):
        snapshot = prepare(spec_of(deduplicate=deduplicate), cache, part_bytes=PART_BYTES)
        found[deduplicate] = Counter(documents_in(snapshot, "train") + documents_in(snapshot, "valid"))
        open_tokens(snapshot).verify()
        held = contents_of(snapshot)
        assert held.train_documents + held.valid_documents == sum(found[deduplicate].values())
        if deduplicate == "near":
            assert held.left_out == {"duplicate": 3, "near duplicate": 1}
            assert held.near_duplicate_rate == pytest.approx(1 / 151)
    assert found["none"] == Counter(texts)
    assert found["exact"] == Counter(set(texts))
    assert len(found["near"]) == 150
    assert (near in found["near"]) != (STORIES[7] in found["near"])


LINES = st.lists(st.text('ab"\\é漢\n\r\u2028', max_size=30), max_size=12)


def ranges(size: int, cuts: list[int]) -> list[tuple[int, int | None]]:
    edges = [0, *sorted({cut % max(size, 1) for cut in cuts} - {0})]
    return list(zip(edges, [*edges[1:], None], strict=True))


@given(texts=LINES, cuts=st.lists(st.integers(0, 10**6), max_size=8), blank=st.booleans(), ended=st.booleans())
def test_json_lines_cut_anywhere_give_each_document_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int], blank: bool, ended: bool
) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    raw = ("\n\n" if blank else "\n").join(lines) + ("\n" if ended else "")
    file = tmp_path_factory.mktemp("lines") / "a.jsonl"
    file.write_text(raw, encoding="utf-8", newline="")
    skipped: Counter[str] = Counter()
    size = file.stat().st_size
    found = [text for start, stop in ranges(size, cuts) for text in json_documents(str(file), start, stop, skipped)]
    assert found == texts
    assert not skipped


@given(text=st.text("aé漢\n ", max_size=300), cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_a_text_cut_anywhere_is_whole_again_when_joined(
    tmp_path_factory: pytest.TempPathFactory, text: str, cuts: list[int]
) -> None:
    file = write(tmp_path_factory.mktemp("text") / "a.txt", text)
    size = file.stat().st_size
    found = [part for start, stop in ranges(size, cuts) for part in text_documents(str(file), start, stop, Counter())]
    assert "".join(found) == text


def test_a_line_of_many_megabytes_is_cut_or_passed_over_in_flat_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mor_core.data.text.file_formats.LONGEST_LINE", 1_000_000)
    line = json.dumps({"text": "é" * 2_000_000}, ensure_ascii=False)
    file = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n')
    skipped: Counter[str] = Counter()
    assert list(json_documents(str(file), 0, None, skipped)) == ["a", "b"]
    assert sum(skipped.values()) == 1
    assert list(json_documents(str(file), 2_000_000, None, Counter())) == ["b"]
    pieces = list(text_documents(str(file), 0, None, skipped))
    assert "".join(pieces) == file.read_text()
    assert max(len(piece.encode()) for piece in pieces) <= LONGEST_PIECE


READING = """
import json, sys
from collections import Counter
from pathlib import Path
from mor_core.data.text.file_formats import json_documents, kind_of, text_documents
file, part_bytes = sys.argv[1], 256_000_000
size, skipped, found = Path(file).stat().st_size, Counter(), Counter()
read = text_documents if kind_of(file) == "text" else json_documents
for start in range(0, size, part_bytes):
    stop = start + part_bytes if start + part_bytes < size else None
    for text in read(file, start, stop, skipped):
        found["documents"] += 1
        found["bytes"] += len(text.encode())
        found["longest"] = max(found["longest"], len(text.encode()))
peak = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps({"found": found, "skipped": skipped, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.jsonl", "words.txt"])
def test_a_line_of_a_gigabyte_is_passed_over_or_cut_in_bounded_memory(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with file.open("wb") as opened:
        opened.write(b'{"text": "a"}\n{"text": "')
        for _ in range(100):
            opened.write("aé漢 x".encode() * 1_250_000)
        opened.write(b'"}\n{"text": "b"}\n')
    size = file.stat().st_size
    assert size > 1e9
    try:
        done = subprocess.run([sys.executable, "-c", READING, file], capture_output=True, text=True, check=True)
    finally:
        file.unlink()
    seen = json.loads(done.stdout)
    assert seen["peak"] < 400e6, "an interpreter, libraries and a line of 64 MiB"
    if name == "rows.jsonl":
        assert seen["found"]["documents"] == 2
        assert seen["skipped"] == {"a line over 64 MiB": 1}
    else:
        assert seen["found"]["bytes"] == size
        assert seen["found"]["longest"] <= LONGEST_PIECE
        assert not seen["skipped"]


def test_what_is_no_document_is_counted_by_reason(tmp_path: Path, cache: Path) -> None:
    good = [json.dumps({"text": text}) for text in STORIES]
    bad = ["{", '{"txt": 1}', '{"text": 5}', '{"text": "\\ud800"}', '{"text": "  "}']
    file = tmp_path / "rows.jsonl"
    file.write_bytes("\n".join([*good[:100], *bad, *good[100:]]).encode() + b'\n{"text": "\xff"}\n')
    snapshot = prepare(spec_of(str(file), deduplicate="none"), cache, part_bytes=PART_BYTES)
    assert contents_of(snapshot).left_out == {
        "no string under the key 'text'": 2,
        "not JSON": 1,
        "half of a surrogate pair": 1,
        "empty": 1,
        "not UTF-8": 1,
    }
    assert Counter(documents_in(snapshot, "train") + documents_in(snapshot, "valid")) == Counter(STORIES)


def test_broken_utf8_in_a_parquet_file_is_counted(tmp_path: Path) -> None:
    column = pa.array([b"good", b"\xff\xfe", None, b"better"], pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    skipped: Counter[str] = Counter()
    assert list(parquet_documents(str(tmp_path / "a.parquet"), 0, None, skipped)) == ["good", "better"]
    assert skipped == {"not UTF-8 or null": 2}


COMPRESSIONS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_json_lines_are_read_and_cut_off_ones_are_named(tmp_path: Path, ending: str) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in STORIES).encode()
    file = tmp_path / f"rows.jsonl.{ending}"
    whole = COMPRESSIONS[ending](lines)
    file.write_bytes(whole)
    assert list(json_documents(str(file), 0, None, Counter())) == STORIES
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"rows\.jsonl\.{ending} cannot be read to its end"):
        list(json_documents(str(file), 0, None, Counter()))


def test_small_files_share_parts_and_large_ones_are_cut(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "texts"
    for number, text in enumerate(STORIES[:50]):
        write(folder / f"{number:02d}.txt", text)
    write(folder / "long.txt", "".join(STORIES[50:]))
    source = freeze_source(spec_of(str(folder), deduplicate="none"), cache, part_bytes=PART_BYTES)
    found = [text for part in source.parts for text in documents_of(part, Counter())]
    assert sum(map(len, found)) == sum(map(len, STORIES))
    assert {len({piece.file for piece in part}) for part in source.parts} > {1}
    assert len(source.parts) < 40


def test_several_paths_and_patterns_are_one_corpus(tmp_path: Path, cache: Path) -> None:
    for number, text in enumerate(STORIES[:30]):
        write(tmp_path / "texts" / f"{number:02d}.txt", text)
    write(tmp_path / "other" / "more.txt", STORIES[30])
    corpus = f"{tmp_path}/texts/0*.txt, {tmp_path}/other"
    snapshot = prepare(spec_of(corpus), cache)
    assert snapshot.train_bytes + snapshot.valid_bytes == sum(
        len(text.encode()) for text in [*STORIES[:10], STORIES[30]]
    )
    with pytest.raises(DataError, match=r"no file or folder .*nowhere\*"):
        find(spec_of(f"{tmp_path}/nowhere*"), cache)


def test_a_file_that_changes_while_it_is_prepared_is_named(mirror: Path, cache: Path) -> None:
    freeze_source(spec_of(), cache, part_bytes=PART_BYTES)
    (file,) = (mirror / REPOSITORY / CONFIG).glob("train-00001*")
    file.touch()
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet changed since its corpus was frozen"):
        prepare(spec_of(), cache)


def test_a_truncated_file_of_the_mirror_is_named(mirror: Path, cache: Path) -> None:
    (file,) = (mirror / REPOSITORY / CONFIG).glob("train-00001*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet is not a whole Parquet file"):
        prepare(spec_of(), cache)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("hf:nobody/nothing", r"holds no folder nobody/nothing"),
        (f"hf:{REPOSITORY}:unknown", r"cannot be looked up \(BuilderConfig 'unknown' not found"),
        ("hf:", "names no data set"),
        ("hf:../../etc", "names no data set"),
    ],
)
def test_a_data_set_that_is_not_there_is_named(mirror: Path, cache: Path, corpus: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(spec_of(corpus), cache)


def test_other_formats_of_the_hub_are_streamed_by_datasets(tmp_path: Path, cache: Path, monkeypatch) -> None:
    rows = "text,id\n" + "".join(f'"{story(seed, 20).strip()}",{seed}\n' for seed in range(200))
    write(tmp_path / "mirror" / "some" / "stories" / "train.csv", rows)
    monkeypatch.setenv("MOR_SWEEP_HF_MIRROR", str(tmp_path / "mirror"))
    snapshot = prepare(spec_of("hf:some/stories"), cache)
    assert Counter(documents_in(snapshot, "train") + documents_in(snapshot, "valid")) == Counter(
        story(seed, 20).strip() for seed in range(200)
    )
    assert contents_of(snapshot).provenance["licence"] == "not stated"


def test_too_little_text_is_refused_with_the_counts(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "rows.jsonl", '{"text": "a story"}\n{\n')
    with pytest.raises(DataError, match=r"rows\.jsonl gives 1 document\(s\) and none of them for .* 1 not JSON"):
        prepare(spec_of(str(file), deduplicate="none"), cache)


def test_a_full_disk_is_named_and_once_there_is_space_the_same_command_ends(mirror: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(DataError, match=r"Cannot write .*No space left on device; free some space there, or set"):
            prepare(spec_of(), small, part_bytes=PART_BYTES)
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        snapshot = prepare(spec_of(), small, part_bytes=PART_BYTES)
        assert snapshot.fingerprint == prepare(spec_of(), tmp_path / "large", part_bytes=PART_BYTES).fingerprint
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_more_shards_than_open_files_are_allowed_are_read_like_one(tmp_path: Path, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr("mor_core.data.batches._mapped", lru_cache(4)(batches._mapped.__wrapped__))
    rows = "".join(json.dumps({"text": text}) + "\n" for text in STORIES)
    snapshot = prepare(spec_of(str(write(tmp_path / "a.jsonl", rows)), deduplicate="none"), cache, part_bytes=2_000)
    tokens = open_tokens(snapshot)
    assert len(tokens.train) > 40
    joined = np.concatenate([np.fromfile(shard.path, shard.dtype) for shard in tokens.train])
    n = tokens.num_train_sequences(T)
    found = sorted(tuple(tokens.train_batch(0, step, 1, T)[0]) for step in range(n))
    assert found == sorted(tuple(joined[i * T : (i + 1) * T + 1]) for i in range(n))


def test_samples_depend_on_seed_and_step_alone_whatever_the_cut_into_parts(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in STORIES)
    file = write(tmp_path / "a.jsonl", rows)
    snapshot = prepare(spec_of(str(file), deduplicate="none"), tmp_path / "a", part_bytes=PART_BYTES)
    tokens = open_tokens(snapshot)
    alone = [tokens.train_batch(7, 3 * 8 + i, 1, T)[0] for i in range(8)]
    np.testing.assert_array_equal(tokens.train_batch(7, 3, 8, T), alone)


def test_a_tokenizer_is_found_by_the_name_of_its_model(mirror: Path, cache: Path) -> None:
    trained = prepare(spec_of(), cache, part_bytes=PART_BYTES)
    (mirror / "somebody" / "model").mkdir(parents=True)
    file = mirror / "somebody" / "model" / "tokenizer.json"
    file.write_bytes((trained.folder / "tokenizer.json").read_bytes())
    named = prepare(spec_of(tokenizer="somebody/model"), cache, part_bytes=PART_BYTES)
    assert named.tokenizer_fingerprint == trained.tokenizer_fingerprint
    with pytest.raises(DataError, match="holds no somebody/other/tokenizer"):
        prepare(spec_of(tokenizer="somebody/other"), cache)
