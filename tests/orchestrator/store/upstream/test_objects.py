"""The door to object storage: what it promises, against a real S3 server."""

import os
import threading
from pathlib import Path

import pytest

from orchestrator.store.upstream import objects as object_store
from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable, ObjectStore, checked_address
from tests.faults.faulty_server import FaultyServer


def test_of_many_writers_at_once_exactly_one_creates_an_object(bucket: str) -> None:
    objects = ObjectStore(url=f"{bucket}/a")
    won: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        if objects.create("result.json", f"writer {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.read("result.json") == f"writer {won[0]}".encode()


def test_a_file_is_uploaded_in_parts_and_never_over_another(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: FaultyServer
) -> None:
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)  # The least that S3 takes.
    objects = ObjectStore(url=bucket)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(os.urandom(11 * 2**20))
    second.write_bytes(os.urandom(11 * 2**20))
    assert objects.upload(first, "weights")
    assert not objects.upload(second, "weights")
    objects.download("weights", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == first.read_bytes()
    assert any("partNumber=3" in path for _, path in faulty.requests)


def test_objects_are_listed_read_and_removed_by_name(bucket: str) -> None:
    objects = ObjectStore(url=f"{bucket}/deep/er")
    names = [f"sweeps/a b/{number}.json" for number in range(5)]
    for name in names:
        objects.replace(name, name.encode())
    assert sorted(objects.etags("sweeps")) == names
    assert objects.etags("sweep") == {}
    assert objects.read_all([*names, "sweeps/none"]) == {name: name.encode() for name in names}
    objects.remove(names[:3])
    assert sorted(objects.etags("sweeps")) == names[3:]
    assert objects.read(names[0]) is None


def test_a_server_that_is_out_of_order_for_a_while_is_waited_for(bucket: str, faulty: FaultyServer) -> None:
    faulty.fail_for(1.5)
    assert ObjectStore(url=bucket, patience=60).create("a", b"1")
    faulty.failing = True
    with pytest.raises(BucketUnreachable, match="does not answer as it should"):
        ObjectStore(url=bucket, patience=0.5).read("a")
    faulty.failing = False
    assert ObjectStore(url=bucket).read("a") == b"1"


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "s3://", "s3://Bucket", "s3://b/x", "s3://bucket/../x", "s3://buck//x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BucketRefused, match="expected a folder, or s3://BUCKET/PREFIX"):
        checked_address(url)


def test_absent_bucket_and_missing_credentials_are_refused_at_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(BucketRefused, match="there is no bucket 'not-there'"):
        ObjectStore(url="s3://not-there/x").replace("a", b"")
    with pytest.raises(BucketRefused, match="there is no bucket 'not-there'"):
        ObjectStore(url="s3://not-there/x").etags("segments")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(BucketRefused, match="unable to locate credentials: set AWS_PROFILE"):
        ObjectStore(url=bucket).read("a")
