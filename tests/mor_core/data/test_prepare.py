import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.data.cache_files import naming_what_cannot_be_written, published_folder
from mor_core.data.prepare import find, find_by_fingerprint, open_tokens, prepare
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError, DataSpec, cache_folder
from tests.helpers.corpora.data_samples import sentences, write


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    return DataSpec(corpus=str(write(tmp_path / "words.txt", sentences(seed=5, lines=600))), vocab_size=280)


def test_nothing_is_found_before_and_the_same_snapshot_after(spec: DataSpec, cache: Path) -> None:
    assert find(spec, cache) is None
    assert not cache.exists(), "a look-up writes nothing"
    told: list[str] = []
    snapshot = prepare(spec, cache, report=told.append)
    assert find(spec, cache) == prepare(spec, cache) == load_snapshot(snapshot.folder) == snapshot
    assert any("bytes a token" in sentence for sentence in told)
    assert snapshot.name == "words.txt"
    assert snapshot.train_bytes + snapshot.valid_bytes == Path(spec.corpus).stat().st_size


def test_a_prepared_snapshot_is_returned_in_milliseconds(spec: DataSpec, cache: Path) -> None:
    prepare(spec, cache)
    seconds: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        prepare(spec, cache)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05


def test_the_fingerprint_follows_text_and_vocabulary_but_not_the_place(spec: DataSpec, tmp_path: Path) -> None:
    first = prepare(spec, tmp_path / "a")
    larger = prepare(DataSpec(corpus=spec.corpus, vocab_size=290), tmp_path / "a")
    copy = write(tmp_path / "other" / "copy.txt", Path(spec.corpus).read_text())
    same = prepare(DataSpec(corpus=str(copy), vocab_size=280), tmp_path / "b")
    write(Path(spec.corpus), sentences(seed=6, lines=600))
    changed = prepare(spec, tmp_path / "a")
    assert same.fingerprint == first.fingerprint
    assert len({snapshot.fingerprint for snapshot in (first, larger, changed)}) == 3
    assert find_by_fingerprint(first.fingerprint, tmp_path / "a") == first, "the older snapshot stays"
    assert find_by_fingerprint("0" * 64, tmp_path / "a") is None


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_lost_shards_are_made_again_with_the_same_tokens(spec: DataSpec, cache: Path, harm: str) -> None:
    before = prepare(spec, cache)
    batch = open_tokens(before).train_batch(0, 7, 4, 32)
    shard = before.folder / "train-00000.bin"
    whole = shard.read_bytes()
    shard.unlink() if harm == "missing" else shard.write_bytes(whole[:-4])
    assert prepare(spec, cache) == before
    assert shard.read_bytes() == whole
    assert (open_tokens(before).train_batch(0, 7, 4, 32) == batch).all()


def test_refreshing_unchanged_text_keeps_the_fingerprint_and_open_readers(spec: DataSpec, cache: Path) -> None:
    before = prepare(spec, cache)
    reader = open_tokens(before)
    assert prepare(spec, cache, refresh=True) == before
    reader.verify()
    assert not list(cache.rglob("*.partial"))


def test_two_processes_preparing_at_once_both_end_well(spec: DataSpec, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(prepare, [(spec, cache), (spec, cache)], chunksize=1)
    assert first == second == find(spec, cache)
    open_tokens(first).verify()


def test_a_small_text_leaves_ids_unused_and_says_so(spec: DataSpec, cache: Path) -> None:
    told: list[str] = []
    snapshot = prepare(DataSpec(corpus=spec.corpus, vocab_size=4000), cache, report=told.append)
    assert snapshot.vocab_size == 4000
    assert any("of the 4000 token ids" in sentence for sentence in told)
    reader = open_tokens(snapshot)
    assert len(reader.token_bytes) == 4000
    assert reader.train_batch(0, 0, 8, 16).max() < 4000


def test_damaged_descriptions_are_named(spec: DataSpec, cache: Path) -> None:
    snapshot = prepare(spec, cache)
    manifest = snapshot.folder / "manifest.json"
    text = manifest.read_text()
    write(manifest, text[:-40])
    with pytest.raises(DataError, match=r"manifest\.json is damaged .* data prepare"):
        find(spec, cache)
    write(manifest, text.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(DataError, match="has the layout 99, expected 1"):
        find(spec, cache)
    manifest.unlink()
    assert find(spec, cache) is None
    with pytest.raises(DataError, match="no data snapshot in"):
        load_snapshot(snapshot.folder)
    assert prepare(spec, cache) == snapshot


def test_the_cache_folder_follows_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("MOR_SWEEP_CACHE")
    assert cache_folder().name == "mor-sweep"


def test_a_cache_that_cannot_be_written_is_named(spec: DataSpec) -> None:
    below_a_file = Path(spec.corpus) / "cache"
    with pytest.raises(DataError, match=r"Cannot write .*words\.txt/cache: Not a directory; .*MOR_SWEEP_CACHE"):
        prepare(spec, below_a_file)


def test_a_cache_below_a_folder_that_nobody_can_make_is_named(spec: DataSpec) -> None:
    with pytest.raises(DataError, match=r"Cannot write .*/proc/nowhere/cache: No such .*; set MOR_SWEEP_CACHE to"):
        prepare(spec, Path("/proc/nowhere/cache"))


def test_a_device_is_no_text(cache: Path) -> None:
    with pytest.raises(DataError, match="/dev/null is neither a file nor a folder"):
        prepare(DataSpec(corpus="/dev/null", vocab_size=280), cache)


def test_equal_text_under_a_second_name_renames_nothing_and_each_name_is_its_own(
    spec: DataSpec, cache: Path, tmp_path: Path
) -> None:
    first = prepare(spec, cache)
    published = (first.folder / "manifest.json").read_bytes()
    copy = DataSpec(corpus=str(write(tmp_path / "copy.txt", Path(spec.corpus).read_text())), vocab_size=280)
    second = prepare(copy, cache)
    assert second == replace(first, name="copy.txt")
    assert (find(spec, cache), find(copy, cache)) == (first, second)
    (first.folder / "train-00000.bin").unlink()
    assert prepare(copy, cache, refresh=True) == second
    assert (first.folder / "manifest.json").read_bytes() == published


def test_refreshing_makes_a_shard_with_a_changed_byte_again(spec: DataSpec, cache: Path) -> None:
    before = prepare(spec, cache)
    shard = before.folder / "train-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert prepare(spec, cache, refresh=True) == before
    assert shard.read_bytes() == whole


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"No space left .*; free some space there, or set MOR_SWEEP_CACHE"),
        naming_what_cannot_be_written(tmp_path),
    ):
        Path("/dev/full").write_text("anything")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with published_folder(tmp_path / "target") as folder:
            write(folder / "half", "written")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not list(tmp_path.iterdir())
    for content in ("first", "second"):
        with published_folder(tmp_path / "target") as folder:
            write(folder / "file", content)
    assert (tmp_path / "target" / "file").read_text() == "first"
    with published_folder(tmp_path / "target", replace=True) as folder:
        write(folder / "file", "third")
    assert [path.read_text() for path in tmp_path.rglob("file")] == ["third"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".target.1.partial", tmp_path / ".target.2.partial"
    for folder in (old, young):
        write(folder / "file", "half")
    os.utime(old, (0, 0))
    with published_folder(tmp_path / "target") as folder:
        write(folder / "file", "whole")
    assert not old.exists()
    assert young.exists()


def test_looking_up_and_opening_load_nothing_heavy(snapshot: DataSnapshot) -> None:
    program = (
        "import sys; from pathlib import Path; from mor_core.data.prepare import load_snapshot, open_tokens; "
        f"open_tokens(load_snapshot(Path({str(snapshot.folder)!r}))).train_batch(0, 0, 2, 8); "
        "print([m for m in ('torch', 'tokenizers', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("age", [0, 100], ids=["just written", "settled"])
def test_text_that_was_deleted_is_used_as_it_was_frozen(tmp_path: Path, cache: Path, kind: str, age: int) -> None:
    corpus = tmp_path / "words" / "words.txt" if kind == "file" else tmp_path / "words"
    file = write(tmp_path / "words" / "words.txt", sentences(seed=5, lines=600))
    os.utime(file, (time.time() - age, time.time() - age))
    spec, told = DataSpec(corpus=str(corpus), vocab_size=280), list[str]()
    snapshot = prepare(spec, cache)
    shutil.rmtree(tmp_path / "words")
    assert find(spec, cache) == prepare(spec, cache, report=told.append) == snapshot
    assert told == [f"note: {corpus} is gone; the text that was frozen when it was last prepared is used"]
    for shard in snapshot.folder.glob("*.bin"):
        shard.unlink()
    assert prepare(spec, cache) == snapshot, "its tokens are made again from the frozen text"
    write(tmp_path / "words" / "words.txt", sentences(seed=6, lines=600))
    assert find(spec, cache) is None, "text that was changed is other text"
    with pytest.raises(DataError, match="There is no file or folder"):
        find(DataSpec(corpus=str(tmp_path / "never"), vocab_size=280), cache)


def test_text_that_was_deleted_before_it_was_frozen_is_missed(spec: DataSpec, cache: Path) -> None:
    prepare(spec, cache)
    Path(spec.corpus).unlink()
    shutil.rmtree(cache / "corpora")
    with pytest.raises(DataError, match="There is no file or folder"):
        prepare(spec, cache)
