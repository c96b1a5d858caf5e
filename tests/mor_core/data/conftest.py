"""Small corpora with a known content, and one prepared snapshot that several tests read."""

from pathlib import Path

import pytest

from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from mor_core.data.spec import DataSpec
from mor_core.data.text.frozen_corpus import CorpusSnapshot, find_corpus
from tests.helpers.corpora.data_samples import module, sentences, write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed libraries: thirty packages of four modules, with the version files of two."""
    folder = tmp_path / "site-packages"
    for package in range(30):
        for number in range(4):
            write(folder / f"package{package}" / f"module{number}.py", module(seed=100 * package + number))
    for distribution in ("package0-1.0", "package1-2.5"):
        write(folder / f"{distribution}.dist-info" / "METADATA", "Metadata-Version: 2.1\n")
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("text") / "words.txt", sentences(seed=0, lines=3000))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="session")
def snapshot(text_file: Path, shared_cache: Path) -> DataSnapshot:
    return prepare(DataSpec(corpus=str(text_file), vocab_size=300), shared_cache)


@pytest.fixture(scope="session")
def corpus(snapshot: DataSnapshot, text_file: Path, shared_cache: Path) -> CorpusSnapshot:
    found = find_corpus(DataSpec(corpus=str(text_file), vocab_size=snapshot.vocab_size), shared_cache)
    assert found is not None
    return found
