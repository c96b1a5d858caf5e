"""The corpus that is the same everywhere, from a folder of wheels that pip takes for its index."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mor_core.data.prepare import find, open_tokens, prepare
from mor_core.data.snapshot import contents_of
from mor_core.data.spec import PINNED_PYTHON, PYTHON_SOURCES, DataError, DataSpec
from mor_core.data.text import pinned_python, python_sources
from mor_core.data.text.frozen_corpus import find_corpus
from mor_core.data.text.pinned_python import WheelsNotObtained, fetch_wheels, pinned_wheels, scan_pinned_python
from tests.helpers.corpora.data_samples import module, write
from tests.helpers.corpora.wheel_samples import index_of_wheels, list_of, wheel

SPEC = DataSpec(corpus=PINNED_PYTHON, vocab_size=300)

EVERYWHERE = "d28388b0306fc9f87df84e7c6d0f592faa76b93343797aedbe5b3c8f5b0f0eb8"
"""Fingerprint of the text of the real list."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip looks at: thirty wheels, all in the list."""
    folder = tmp_path / "index"
    monkeypatch.setattr(pinned_python, "LIST", list_of(index_of_wheels(folder), tmp_path / "pinned_wheels.txt"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed libraries: thirty small packages."""
    monkeypatch.setattr(python_sources, "site_folders", lambda: (site,))
    return site


@pytest.fixture
def lines() -> list[str]:
    """What a user is told."""
    return []


def test_the_text_is_the_same_whatever_is_installed_and_wherever_the_cache_is(
    index: Path, installed: Path, tmp_path: Path, lines: list[str]
) -> None:
    first = prepare(SPEC, tmp_path / "a", report=lines.append)
    assert "Fetching 30 wheels with pip, to read their Python files; none is installed" in lines
    shutil.rmtree(installed)
    moved = index.rename(tmp_path / "moved")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIP_FIND_LINKS", str(moved))
        second = prepare(SPEC, tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert first.name == PINNED_PYTHON
    assert contents_of(first).train_documents + contents_of(first).valid_documents == 120
    assert not list(tmp_path.rglob("*.partial"))
    assert find(SPEC, tmp_path / "a") == prepare(SPEC, tmp_path / "a") == first


@pytest.mark.slow
def test_another_list_is_another_corpus(index: Path, tmp_path: Path, cache: Path) -> None:
    before = prepare(SPEC, cache)
    list_of(sorted(index.glob("*.whl"))[:25], tmp_path / "pinned_wheels.txt")
    assert find(SPEC, cache) is None
    shutil.rmtree(index)
    after = prepare(SPEC, cache)
    assert after.name == PINNED_PYTHON, "from the wheels that are kept"
    assert after.fingerprint != before.fingerprint


def test_files_are_kept_by_the_rules_of_installed_ones_under_the_name_of_their_wheel(tmp_path: Path) -> None:
    files = {
        "inner/a.py": module(seed=1),
        "inner/b.py": module(seed=2),
        "inner/tests/c.py": module(seed=3),
        "inner/_vendor/six.py": module(seed=4),
        "inner/copy.py": module(seed=1),
        "inner/short.py": "x = 1\n",
        "inner/data.txt": module(seed=5),
    }
    selection = scan_pinned_python({"outer": wheel(tmp_path, "outer", files)})
    assert {document.package for document in selection.documents} == {"outer"}
    assert len(selection.documents) == 2
    assert selection.left_out == Counter({"test": 1, "vendored": 1, "duplicate": 1, "near-empty": 1})


def test_of_one_file_in_two_wheels_the_first_counts_and_large_ones_are_left_out(tmp_path: Path) -> None:
    both = [wheel(tmp_path, name, {"shared/a.py": module(seed=seed)}) for name, seed in (("one", 1), ("two", 2))]
    large = wheel(tmp_path, "large", {"large/a.py": "x = 1  # filler\n" * 70_000})
    selection = scan_pinned_python({"one": both[0], "two": both[1], "large": large})
    assert [(document.package, document.text) for document in selection.documents] == [("one", module(seed=1))]
    assert selection.left_out == Counter({"over 1 MB": 1})


@pytest.mark.parametrize(
    "name",
    ["../up.py", "/absolute.py", "a/../../up.py", "a//b.py", "./a.py", "a\\..\\b.py", "x-1.0.data/scripts/a.py"],
)
def test_names_that_lead_elsewhere_or_are_not_of_the_library_are_not_read(tmp_path: Path, name: str) -> None:
    path = wheel(tmp_path, "hostile", {"fine/a.py": module(seed=1), name: module(seed=2)})
    assert [document.name for document in scan_pinned_python({"hostile": path}).documents] == ["fine/a.py"]


def test_a_symbolic_link_in_a_wheel_is_not_read(tmp_path: Path) -> None:
    path = wheel(tmp_path, "hostile", {"fine/a.py": module(seed=1)}, links={"fine/link.py": "/etc/passwd" * 40})
    assert [document.name for document in scan_pinned_python({"hostile": path}).documents] == ["fine/a.py"]


def test_only_a_damaged_wheel_is_fetched_again(index: Path, cache: Path, lines: list[str]) -> None:
    wheels = fetch_wheels(cache)
    harmed = wheels["wheel7"]
    whole = harmed.read_bytes()
    harmed.write_bytes(whole[:-1] + b"?")
    (cache / ".partial").mkdir()
    (cache / ".partial" / "half.whl").write_bytes(whole[:100])
    for path in index.glob("*.whl"):
        if path.name != "wheel7-1.0-py3-none-any.whl":
            path.unlink()
    assert fetch_wheels(cache, lines.append) == wheels
    assert lines[0].startswith("Fetching 1 wheels")
    assert harmed.read_bytes() == whole
    assert sorted(path.name for path in cache.iterdir()) == sorted(path.name for path in wheels.values())


@pytest.mark.slow
def test_two_processes_fetch_one_after_the_other(index: Path, cache: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mor_core.data.text import pinned_python; "
        "from mor_core.data.prepare import prepare; from mor_core.data.spec import DataSpec; "
        f"pinned_python.LIST = Path({str(tmp_path / 'pinned_wheels.txt')!r}); "
        f"print(prepare(DataSpec(corpus='pinned-python', vocab_size=300), Path({str(cache)!r})).fingerprint)"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].strip() for process in both]
    snapshot = find(SPEC, cache)
    assert snapshot is not None
    assert said == [snapshot.fingerprint] * 2
    open_tokens(snapshot).verify()


def without_a_wheel(index: Path, tmp_path: Path) -> None:
    (index / "wheel3-1.0-py3-none-any.whl").unlink()


def with_another_wheel(index: Path, tmp_path: Path) -> None:
    wheel(index, "wheel3", {"wheel3/m0.py": "print('not what was listed')\n"})


def without_pip(index: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (without_a_wheel, "No matching distribution found for wheel3==1.0"),
        (with_another_wheel, "the index holds another file than the one that is listed: its sha256 differs"),
        (without_pip, ".*No module named pip"),
    ],
)
def test_where_wheels_cannot_be_had_the_installed_libraries_are_used_and_the_reason_said(
    index: Path,
    installed: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    harm: Callable[[Path, Path], None],
    reason: str,
) -> None:
    harm(index, tmp_path)
    if harm is without_pip:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    snapshot = prepare(SPEC, cache, report=lines.append)
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 1
    assert re.match(rf"note: The wheels of pinned-python cannot be had \({reason}\); the installed libraries", notes[0])
    assert "\n" not in notes[0]
    assert snapshot.name == PYTHON_SOURCES
    assert snapshot == find(SPEC, cache) == find(DataSpec(corpus=PYTHON_SOURCES, vocab_size=300), cache)
    lines.clear()
    assert prepare(SPEC, cache, report=lines.append) == snapshot
    assert lines == notes, "said again each time"


@pytest.mark.slow
def test_what_stood_in_stays_until_it_is_refreshed_and_then_the_list_stays(
    index: Path, installed: Path, cache: Path, tmp_path: Path, lines: list[str]
) -> None:
    away = index.rename(tmp_path / "away")
    stand_in = prepare(SPEC, cache)
    write(installed / "package0" / "added.py", module(seed=77))
    assert prepare(SPEC, cache, refresh=True) == stand_in, "trying again changes nothing"
    away.rename(index)
    assert prepare(SPEC, cache) == stand_in, "a sweep that began so goes on"
    pinned = prepare(SPEC, cache, refresh=True, report=lines.append)
    assert pinned.name == PINNED_PYTHON
    assert not [line for line in lines if line.startswith("note: ")]
    assert pinned.fingerprint != stand_in.fingerprint
    assert find(SPEC, cache) == prepare(SPEC, cache) == pinned
    shutil.rmtree(index)
    assert prepare(SPEC, cache, refresh=True) == pinned, "the wheels are kept"
    shutil.rmtree(cache / "wheels")
    with pytest.raises(DataError, match=r"cannot be had .*; the text that was frozen stays in use"):
        prepare(SPEC, cache, refresh=True)
    assert find(SPEC, cache) == pinned


def test_a_cache_that_cannot_be_written_is_an_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Cannot write .*Not a directory; set MOR_SWEEP_CACHE"):
        fetch_wheels(tmp_path / "file" / "wheels")


def test_a_line_that_is_no_pin_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pinned_wheels.txt"
    path.write_text("flask>=3\n")
    monkeypatch.setattr(pinned_python, "LIST", path)
    with pytest.raises(ValueError, match="a line that is no pinned wheel"):
        pinned_wheels()


def test_near_duplicates_cannot_be_asked_for() -> None:
    with pytest.raises(DataError, match="near duplicates are always left out of pinned-python"):
        DataSpec(corpus=PINNED_PYTHON, vocab_size=300, deduplicate="near")


def test_the_committed_list_names_each_package_once() -> None:
    packages = [pin.package for pin in pinned_wheels()]
    assert 35 <= len(packages) <= 80
    assert packages == sorted(set(packages))


@pytest.mark.slow
def test_the_committed_list_gives_the_text_that_it_gave(cache: Path) -> None:
    """Needs an index of packages. Rules that keep other files make another text: raise the edition in the list."""
    try:
        wheels = fetch_wheels(cache / "wheels")
    except WheelsNotObtained as error:
        pytest.skip(str(error))
    prepare(DataSpec(corpus=PINNED_PYTHON, vocab_size=300), cache)
    corpus = find_corpus(DataSpec(corpus=PINNED_PYTHON, vocab_size=300), cache)
    assert corpus is not None
    assert len(corpus.packages) == len(wheels)
    assert 45e6 < sum(corpus.bytes.values()) < 55e6
    assert max(corpus.packages.values()) < 0.12 * sum(corpus.bytes.values())
    assert corpus.fingerprint == EVERYWHERE
