import polars as pl
import pytest

from analysis.runs.points import TableError
from analysis.runs.table_file import read_table

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\xff\xfe"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nosuch.csv", None, "there is no file"),
        ("empty.csv", b"", "is empty"),
        ("empty.parquet", b"", "is empty"),
        ("figure.csv", PNG, "cannot be read as csv"),
        ("latin.csv", b"N,note\n1,caf\xe9\n", "not UTF-8: byte 0xe9 in line 2"),
        ("figure.parquet", PNG, "cannot be read as parquet"),
        ("figure.png", PNG, r"expected a \.csv or \.parquet file, found \.png"),
        ("runs", b"N,D,loss\n1,2,3\n", "found no suffix"),
        ("header.csv", b"N,D,loss\n", "a header and no rows"),
        ("ragged.csv", b"N,D\n1,2,3\n", "found more fields"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=words) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fraction_after_a_thousand_whole_numbers_is_read(tmp_path):
    (tmp_path / "RUNS.CSV").write_text("N\n" + "7\n" * 1000 + "1.5e9\n")
    assert read_table(tmp_path / "RUNS.CSV")["N"].to_list() == [7.0] * 1000 + [1.5e9]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_csv_and_parquet_hold_the_same_runs(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    table = pl.DataFrame({"N": [1 / 3, 2e9], "loss": [2.5, 1.1]})
    table.write_csv(path) if suffix == ".csv" else table.write_parquet(path)
    assert read_table(path).equals(table)
