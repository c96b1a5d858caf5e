"""The door to object storage: what it promises, against a real S3 server."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.store.upstream import objects as object_store
from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable, ObjectStore, checked_address
from tests.faults.faulty_server import FaultyServer
from tests.helpers.paths import ROOT


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


def test_of_two_uploads_in_parts_the_one_that_ends_first_stays(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: FaultyServer
) -> None:
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)
    objects, path = ObjectStore(url=bucket), tmp_path / "weights"
    path.write_bytes(os.urandom(11 * 2**20))

    def create_before_the_end(method: str, target: str) -> None:
        if method == "PUT" and "partNumber=2" in target:
            faulty.before = lambda _method, _path: None
            assert objects.create("weights", b"of another attempt")

    faulty.before = create_before_the_end
    assert not objects.upload(path, "weights")
    assert objects.read("weights") == b"of another attempt"


@pytest.mark.slow
def test_a_request_that_hangs_once_is_tried_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch, faulty: FaultyServer
) -> None:
    """A conditional write and a deletion too, which object stores' own clients do not all try again."""
    import fsspec

    monkeypatch.setattr(object_store, "READ_SECONDS", 1)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    objects = ObjectStore(url=bucket, patience=30)
    for request in (lambda: objects.create("a", b"1"), lambda: objects.remove(["a"])):
        hangs = iter([2.0])
        faulty.before = lambda _method, _path, hangs=hangs: time.sleep(next(hangs, 0.0))
        request()
    assert objects.read("a") is None
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.slow
def test_ctrl_c_is_heard_while_a_server_is_out_of_order(bucket: str, faulty: FaultyServer) -> None:
    faulty.failing = True
    code = f"from {ObjectStore.__module__} import ObjectStore; ObjectStore(url={bucket!r}, patience=200).read('a')"
    waiting = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not faulty.requests:
        time.sleep(0.05)
    started = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    told = waiting.communicate(timeout=100)[1]
    assert waiting.returncode == -signal.SIGINT, told
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "ftp://127.0.0.1"])
def test_an_endpoint_that_is_none_is_refused_at_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(BucketRefused, match="correct AWS_ENDPOINT_URL"):
        ObjectStore(url=bucket, patience=600).read("a")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


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
