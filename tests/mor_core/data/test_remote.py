"""Prepared data on object storage: fetched once, verified as it arrives, and each fault named."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mor_core.data.prepare import find, open_tokens, prepare
from mor_core.data.remote import ORIGIN_FILE, fetch_folder, local_folder, publish_folder
from mor_core.data.snapshot import MANIFEST, DataSnapshot
from mor_core.data.spec import DataError, DataSpec

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The endpoint of an S3 server of this module's own."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty bucket."""
    settings = {
        "AWS_ENDPOINT_URL": storage,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = "".join(each for each in tmp_path.name.lower() if each.isalnum())[-50:]
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/data"


def test_published_data_is_fetched_and_read_like_the_original(
    snapshot: DataSnapshot, bucket: str, tmp_path: Path
) -> None:
    url = publish_folder(snapshot.folder, bucket)
    spec = DataSpec(corpus=url, vocab_size=snapshot.vocab_size)
    assert find(spec, tmp_path) is None
    fetched = prepare(spec, tmp_path)
    assert fetched.folder == local_folder(url, tmp_path)
    assert fetched.fingerprint == snapshot.fingerprint
    assert find(spec, tmp_path) == prepare(spec, tmp_path) == fetched
    here, there = open_tokens(fetched), open_tokens(snapshot)
    here.verify()
    for step in range(10):
        np.testing.assert_array_equal(here.train_batch(3, step, 4, 32), there.train_batch(3, step, 4, 32))
    with pytest.raises(DataError, match="was prepared with a vocabulary of 300, expected 512"):
        find(DataSpec(corpus=url, vocab_size=512), tmp_path)


@pytest.mark.parametrize("harm", ["missing", "cut", "changed"])
def test_a_damaged_object_is_named_and_publishing_again_mends_it(
    snapshot: DataSnapshot, bucket: str, tmp_path: Path, harm: str
) -> None:
    url = publish_folder(snapshot.folder, bucket)
    system, shard = s3fs.S3FileSystem(), f"{url}/train-00000.bin"
    content = system.cat_file(shard)
    if harm == "missing":
        system.rm_file(shard)
    else:
        system.pipe_file(shard, content[:-2] if harm == "cut" else b"\xff\xff" + content[2:])
    folder = tmp_path / "tokens" / "copy"
    with pytest.raises(DataError, match=rf"{shard} is (missing|not the file that was prepared)"):
        fetch_folder(url, folder)
    assert not (folder / MANIFEST).exists()
    assert not list(folder.glob(".train*"))
    publish_folder(snapshot.folder, bucket)
    fetch_folder(url, folder)
    assert (folder / "train-00000.bin").read_bytes() == content


def test_a_fetch_that_was_stopped_goes_on_with_what_is_lacking(
    snapshot: DataSnapshot, bucket: str, tmp_path: Path
) -> None:
    url = publish_folder(snapshot.folder, bucket)
    folder = tmp_path / "copy"
    fetch_folder(url, folder)
    kept = (folder / "train-00000.bin").stat().st_ino
    (folder / MANIFEST).unlink()
    (folder / "valid-00000.bin").write_bytes(b"half")
    told: list[str] = []
    fetch_folder(url, folder, told.append)
    assert told == [f"Fetching 1 of 3 files from {url}"]
    assert (folder / "train-00000.bin").stat().st_ino == kept
    assert {path.name for path in folder.iterdir()} >= {MANIFEST, ORIGIN_FILE, "valid-00000.bin"}


def test_lost_shards_of_fetched_data_come_from_where_they_came(
    snapshot: DataSnapshot, bucket: str, tmp_path: Path
) -> None:
    spec = DataSpec(corpus=publish_folder(snapshot.folder, bucket), vocab_size=snapshot.vocab_size)
    fetched = prepare(spec, tmp_path)
    (fetched.folder / "train-00000.bin").unlink()
    assert prepare(spec, tmp_path) == fetched
    open_tokens(fetched).verify()


def test_a_folder_that_was_never_published_and_a_refusing_server_are_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{bucket}/nothing/manifest\.json is missing"):
        prepare(DataSpec(corpus=f"{bucket}/nothing", vocab_size=300), tmp_path)
    with pytest.raises(DataError, match=r"s3://no-such-bucket-here/x/manifest\.json is missing"):
        prepare(DataSpec(corpus="s3://no-such-bucket-here/x", vocab_size=300), tmp_path)


def test_a_file_url_is_a_storage_too(snapshot: DataSnapshot, tmp_path: Path) -> None:
    shutil.copytree(snapshot.folder, tmp_path / "there" / "words")
    fetched = prepare(DataSpec(corpus=f"file://{tmp_path}/there/words", vocab_size=300), tmp_path / "cache")
    assert fetched.fingerprint == snapshot.fingerprint
