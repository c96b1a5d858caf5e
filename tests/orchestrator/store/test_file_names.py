"""The files of attempts and of published segments: each name is spelled in one module, and means the file it meant."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.attempts import Attempt
from orchestrator.store.published import PublishedSegment

ROOT = Path(__file__).parents[3]
PACKAGES = ("mor_core", "analysis", "orchestrator")
ATTEMPTS, PUBLISHED = "orchestrator/store/attempts.py", "orchestrator/store/published.py"

OWNERS = {
    "log.txt": {ATTEMPTS},
    "numerics.json": {ATTEMPTS},
    "notes.txt": {ATTEMPTS},
    "stacks.txt": {ATTEMPTS},
    "progress.json": {ATTEMPTS},
    "watchdog.json": {ATTEMPTS},
    "failure.json": {ATTEMPTS},
    "failure.retried.json": {ATTEMPTS},
    "failure.shared": {ATTEMPTS},
    "remote-name.txt": {ATTEMPTS},
    "interrupted.json": {ATTEMPTS},
    "checkpoint-": {ATTEMPTS},
    "metrics.jsonl": {PUBLISHED},
    "spec.json": {PUBLISHED},
    "sequence_losses.npy": {PUBLISHED},
    "result.json": {PUBLISHED},
    "pruned.json": {"orchestrator/store/pruned.py"},
    "weights.safetensors": {"mor_core/training/manifest.py"},
    "optimizer.safetensors": {"mor_core/training/manifest.py"},
    # A data snapshot and a bundle have a manifest of this name too.
    "manifest.json": {
        "mor_core/training/manifest.py",
        "mor_core/data/snapshot.py",
        "orchestrator/maintenance/bundle.py",
    },
}
"""Name -> where it may stand in a text; elsewhere code takes it from there."""

FOLDERS = {
    "checkpoint": {PUBLISHED},
    "final": {ATTEMPTS},
    "publish": {ATTEMPTS, "orchestrator/cli/data.py"},  # There it is a verb.
}
"""The same of words that are common, as a whole text or as a part of a path."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the texts in a module that are no docstrings; an f-string comes in pieces."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def spelled(text: str) -> Iterator[str]:
    """The names in a text."""
    yield from (name for name in OWNERS if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w])", text + " "))
    yield from (name for name in FOLDERS if not re.search(r"\s", text) and name in text.split("/"))


def test_no_file_name_of_an_attempt_or_a_published_segment_is_spelled_outside_its_owner():
    strays, spellings = [], dict[str, set[str]]()
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        module = path.relative_to(ROOT).as_posix()
        for line, text in texts(path):
            for name in spelled(text):
                spellings.setdefault(name, set()).add(module)
                if module not in (OWNERS | FOLDERS)[name]:
                    strays.append(f"{module}:{line}: {name}")
    assert strays == []
    assert spellings == OWNERS | FOLDERS, "an owner that spells a name no more is taken from the list"


def test_the_files_of_an_attempt_and_of_a_published_segment_are_where_earlier_versions_put_them():
    attempt, published = Attempt(folder=Path("a")), PublishedSegment(folder=Path("p"))
    names = {
        "log": "log.txt",
        "metrics": "metrics.jsonl",
        "sequence_losses": "sequence_losses.npy",
        "numerics": "numerics.json",
        "notes": "notes.txt",
        "progress": "progress.json",
        "sign": "watchdog.json",
        "stacks": "stacks.txt",
        "failure": "failure.json",
        "cleared_failure": "failure.retried.json",
        "shared_failure": "failure.shared",
        "shared_name": "remote-name.txt",
        "interrupted": "interrupted.json",
        "final": "final",
        "publication": "publish",
    }
    assert {name: getattr(attempt, name) for name in names} == {name: Path("a", file) for name, file in names.items()}
    assert attempt.checkpoint(20) == Path("a/checkpoint-20")
    assert attempt.corrupt_checkpoint(20) == Path("a/checkpoint-20.corrupt")
    files = [published.spec, published.metrics, published.sequence_losses, published.checkpoint, published.result]
    there = ("spec.json", "metrics.jsonl", "sequence_losses.npy", "checkpoint", "result.json")
    assert files == [Path("p", name) for name in there]


def test_an_attempt_reads_what_it_says_of_itself(tmp_path: Path):
    attempt = Attempt(folder=tmp_path)
    assert (attempt.read_notes(), attempt.read_progress(), attempt.read_sign()) == ([], None, None)
    attempt.note("one")
    attempt.note("another")
    attempt.record_progress(3, 10)
    attempt.record_numerics([{"device": "cpu"}])
    progress = attempt.read_progress()
    assert progress
    assert (progress.step, progress.stop_step) == (3, 10)
    assert attempt.read_notes() == ["one", "another"]
    assert attempt.read_numerics() == [{"device": "cpu"}]


def test_a_failure_counts_until_it_is_cleared(tmp_path: Path):
    attempt = Attempt(folder=tmp_path)
    assert attempt.failure_reason() is None
    attempt.record_failure({"class": "data", "reason": "data: a shard is missing"})
    assert attempt.failure_reason() == "data: a shard is missing"
    attempt.clear_failure()
    assert (attempt.has_failed, attempt.cleared_failure.exists()) == (False, True)
    attempt.failure.write_text("[]")
    assert attempt.failure_reason() == f"an attempt failed, and {attempt.failure} does not say why"


def test_a_checkpoint_that_was_set_aside_is_none_any_more_and_stays(tmp_path: Path):
    attempt = Attempt(folder=tmp_path)
    for name in ("checkpoint-5", "checkpoint-10", "checkpoint-15.writing.7", "checkpoint-", "checkpoint-five"):
        (tmp_path / name).mkdir()
    assert attempt.checkpoints() == [(10, attempt.checkpoint(10)), (5, attempt.checkpoint(5))]
    attempt.set_aside(10)
    attempt.set_aside(10)
    assert attempt.checkpoints() == [(5, attempt.checkpoint(5))]
    assert attempt.corrupt_checkpoint(10).is_dir()
    assert [path.name for path in attempt.leftovers(is_published=False)] == [
        "checkpoint-10.corrupt",
        "checkpoint-15.writing.7",
    ]
    assert attempt.checkpoint(5) in attempt.leftovers(is_published=True)
    assert [path.name for path in attempt.debris()] == ["checkpoint-15.writing.7"]


@pytest.mark.parametrize("text", ["a/failure.json", "/result.json ", "segments/*/checkpoint", "no metrics.jsonl here"])
def test_a_name_in_a_path_or_a_sentence_is_seen(text: str):
    assert list(spelled(text))


@pytest.mark.parametrize("text", ["the final step", "verified.json", "rank_failure.json", "catalog.txt"])
def test_words_that_only_look_like_a_name_are_not(text: str):
    assert not list(spelled(text))
