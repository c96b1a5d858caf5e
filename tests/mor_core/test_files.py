"""Whatever lies where a small JSON file should, reading it ends: with its object, or with a sentence that names it."""

import os
from pathlib import Path

import pytest

from mor_core.files import UnreadableFileError, read_json_object


def test_an_object_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"one": [1, 2]}')
    assert read_json_object(tmp_path / "a.json") == {"one": [1, 2]}


def test_a_file_that_is_absent_is_told_apart_from_one_that_is_damaged(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"one": ', "Expecting value"),
        (b"\xff\xfe\x00", "decode"),
        (b"[1, 2]", "it holds no JSON object"),
        (b"[" * 200_000, "its JSON is nested too deeply"),
        (b'{"one":' * 200_000, "its JSON is nested too deeply"),
        (b'{"one": ' + b"9" * 5000 + b"}", "digits"),
    ],
    ids=["empty", "truncated", "binary", "list", "deep list", "deep object", "huge number"],
)
def test_a_damaged_file_is_one_sentence_that_names_it(content: bytes, reason: str, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=reason) as error:
        read_json_object(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path}/a.json cannot be read (")
    assert "\n" not in str(error.value)


@pytest.mark.timeout(20)
def test_a_fifo_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UnreadableFileError, match="not a regular file"):
        read_json_object(tmp_path / "a.json")


def test_a_folder_and_a_link_into_itself_are_refused(tmp_path: Path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with pytest.raises(UnreadableFileError, match="not a regular file"):
        read_json_object(tmp_path)
    with pytest.raises(UnreadableFileError, match="symbolic links"):
        read_json_object(tmp_path / "loop.json")


def test_a_file_larger_than_expected_is_not_read_into_memory(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"one": 1}')
    with pytest.raises(UnreadableFileError, match="10 bytes, at most 9 are expected"):
        read_json_object(tmp_path / "a.json", largest_bytes=9)
