import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mor_core.data.spec import PYTHON_SOURCES, DataError, DataSpec
from mor_core.data.text.documents import Document, pieces
from mor_core.data.text.frozen_corpus import environment_note, find_corpus, prepare_corpus, read_texts
from mor_core.data.text.source_hashes import remember_source_hashes, source_fingerprint
from mor_core.data.text.user_files import read_user_text
from tests.helpers.corpora.data_samples import module, sentences, write

SOURCES = DataSpec(corpus=PYTHON_SOURCES, vocab_size=300)


def test_the_default_corpus_is_frozen_while_the_libraries_change(site: Path, cache: Path) -> None:
    first = prepare_corpus(SOURCES, cache, site_folders=[site])
    assert environment_note(first, [site]) is None
    write(site / "newcomer" / "code.py", module(seed=4242))
    (site / "package1-2.5.dist-info").rename(site / "package1-2.6.dist-info")
    again = prepare_corpus(SOURCES, cache, site_folders=[site])
    assert again == first
    note = environment_note(again, [site])
    assert note is not None
    assert "package1 2.5, package1 2.6" in note
    renewed = prepare_corpus(SOURCES, cache, refresh=True, site_folders=[site])
    assert renewed.fingerprint != first.fingerprint
    assert "newcomer" in renewed.packages
    assert find_corpus(SOURCES, cache) == renewed
    assert len(read_texts(first, "train")) == first.documents["train"], "the old snapshot stays readable"


def test_the_same_libraries_give_the_same_corpus_anywhere(site: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    first = prepare_corpus(SOURCES, tmp_path / "a", site_folders=[site])
    site.rename(moved)
    second = prepare_corpus(SOURCES, tmp_path / "b", site_folders=[moved])
    assert second.fingerprint == first.fingerprint
    assert second.validation_packages == first.validation_packages


def test_a_limit_is_another_corpus(site: Path, cache: Path) -> None:
    limited = DataSpec(corpus=PYTHON_SOURCES, vocab_size=300, max_megabytes=0.1)
    whole, part = (prepare_corpus(spec, cache, site_folders=[site]) for spec in (SOURCES, limited))
    assert sum(part.bytes.values()) <= 100_000 < sum(whole.bytes.values())
    assert find_corpus(SOURCES, cache) == whole
    assert find_corpus(limited, cache) == part


def test_changed_user_text_is_noticed_and_restored_text_is_known_again(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "notes.md", sentences(seed=1, lines=400))
    spec = DataSpec(corpus=str(file), vocab_size=300)
    first = prepare_corpus(spec, cache)
    original = file.read_text()
    write(file, original.replace("loop", "pool"))
    assert find_corpus(spec, cache) is None
    assert prepare_corpus(spec, cache).fingerprint != first.fingerprint
    write(file, original)
    assert find_corpus(spec, cache) == first


def test_only_files_with_a_new_size_or_time_stamp_are_read_again(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "notes.txt", sentences(seed=1, lines=400))
    os.utime(file, (1_000_000_000, 1_000_000_000))
    spec = DataSpec(corpus=str(file), vocab_size=300)
    prepared = prepare_corpus(spec, cache)
    remember_source_hashes(spec, cache)
    (known,) = (cache / "sources").glob("*.json")
    entry = json.loads(known.read_text())[str(file)]
    assert entry["stamp"] == [file.stat().st_size, 10**18]
    write(file, file.read_text().replace("loop", "pool"))
    assert find_corpus(spec, cache) is None
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert find_corpus(spec, cache) == prepared, "same size and time stamp: not read again"
    write(file, file.read_text() + "\n")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert find_corpus(spec, cache) is None


def test_a_file_changed_a_moment_ago_is_read_again(tmp_path: Path, cache: Path) -> None:
    """It may change once more under the same size and time stamp."""
    file = write(tmp_path / "notes.txt", sentences(seed=1, lines=400))
    now = time.time_ns() + 10**9  # However long it takes until the file is looked at.
    os.utime(file, ns=(now, now))
    cache.mkdir()
    remember_source_hashes(DataSpec(corpus=str(file), vocab_size=300), cache)
    before = source_fingerprint(str(file), cache)
    file.write_text(file.read_text().swapcase())
    os.utime(file, ns=(now, now))
    assert source_fingerprint(str(file), cache) != before


def test_a_damaged_frozen_document_is_noticed(site: Path, cache: Path) -> None:
    corpus = prepare_corpus(SOURCES, cache, site_folders=[site])
    path = corpus.folder / "train.jsonl"
    path.write_text(path.read_text().replace("return", "retürn", 1))
    count = corpus.documents["train"]
    with pytest.raises(DataError, match=rf"train\.jsonl holds {count - 1} of the {count} documents .* with refresh"):
        read_texts(corpus, "train")


def test_one_text_in_three_formats_gives_the_same_documents(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [sentences(seed, 20) for seed in range(30)]
    for number, text in enumerate(texts):
        write(tmp_path / "folder" / "deep" / f"{number}.txt", text)
    rows = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts)
    write(tmp_path / "rows.jsonl", rows + "\n")
    parquet.write_table(pa.table({"text": texts, "more": range(30)}), tmp_path / "rows.parquet")
    found = [read_user_text(str(tmp_path / name)) for name in ("folder", "rows.jsonl", "rows.parquet")]
    for selection in found:
        assert {document.text for document in selection.documents} == set(texts)


def test_empty_and_repeated_documents_are_counted_not_kept(tmp_path: Path) -> None:
    rows = ["a story", "a story", "  ", "another"]
    file = write(tmp_path / "rows.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows))
    selection = read_user_text(str(file))
    assert sorted(document.text for document in selection.documents) == ["a story", "another"]
    assert selection.left_out == {"duplicate": 1, "empty": 1}


def test_one_long_file_is_cut_so_that_a_twentieth_validates(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "book.txt", sentences(seed=3, lines=8000))
    corpus = prepare_corpus(DataSpec(corpus=str(file), vocab_size=300), cache)
    assert sum(corpus.bytes.values()) == file.stat().st_size
    assert 0.03 < corpus.bytes["valid"] / file.stat().st_size < 0.11


@given(text=st.text("aé\n漢 ", min_size=1, max_size=400), size=st.integers(8, 60))
def test_pieces_joined_are_the_document_and_none_is_too_long(text: str, size: int) -> None:
    parts = list(pieces(Document("name", "package", text), size))
    assert "".join(part.text for part in parts) == text
    assert all(0 < part.num_bytes <= size for part in parts)
    assert len({part.name for part in parts}) == len(parts)


def test_a_limit_on_user_text_keeps_whole_documents(tmp_path: Path) -> None:
    for seed in range(40):
        write(tmp_path / f"{seed}.txt", sentences(seed, 10))
    kept = read_user_text(str(tmp_path), 10_000)
    assert 9_000 < sum(document.num_bytes for document in kept.documents) <= 10_000
    assert kept.left_out["beyond max_megabytes"] == 40 - len(kept.documents)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n \n", "only empty documents"),
        ("a.txt", b"one short line\n", r"gives 1 document\(s\), expected at least one for training .* more text"),
        ("a.txt", b"good\xff\xfe", r"not UTF-8 text \(byte 4 is 0xff\); convert it"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', r"Line 2 of .*a\.jsonl has no string under the key 'text'"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}\n', "Line 2 of .* no string under the key 'text'"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y\n', r"Line 2 of .*a\.jsonl is not JSON"),
        ("a.jsonl", b"[1, 2]\n", "Line 1 of .* no string under the key 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1 of .* half of a surrogate pair"),
        ("a.parquet", b"PAR1 and then nothing", r"a\.parquet is not a whole Parquet file"),
        ("b/picture.png", b"\x89PNG", r"holds no file ending in .*\.txt"),
    ],
)
def test_unusable_text_is_refused_in_one_sentence(
    tmp_path: Path, cache: Path, name: str, raw: bytes, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw)
    given_path = path if path.parent == tmp_path else path.parent
    with pytest.raises(DataError, match=message) as caught:
        prepare_corpus(DataSpec(corpus=str(given_path), vocab_size=300), cache)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_truncated_parquet_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"body": ["x"] * 1000, "id": range(1000)}), file)
    with pytest.raises(DataError, match="has no column 'text', only body, id"):
        read_user_text(str(file))
    parquet.write_table(pa.table({"text": range(1000)}), file)
    with pytest.raises(DataError, match=r"column 'text' of .* holds int64, expected strings"):
        read_user_text(str(file))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"rows\.parquet is not a whole Parquet file"):
        read_user_text(str(file))


def test_a_missing_path_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*nowhere to take text from"):
        find_corpus(DataSpec(corpus=str(tmp_path / "nowhere"), vocab_size=300), cache)
