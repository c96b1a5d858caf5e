"""Whatever a result.json holds, each verb says it in one sentence that names the file; what was changed is found."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.maintenance.check_segment import check_segment
from orchestrator.records.fits.concentration import concentration_note
from orchestrator.records.fits.fitted import fit_of_sweep
from orchestrator.store.losses import read_sequence_losses, write_sequence_losses
from orchestrator.store.published import (
    CHECKPOINT_MANIFEST,
    METRICS,
    SEQUENCE_LOSSES,
    SPEC,
    ResultError,
    StoreError,
    result_content,
    small_file_sums,
    summed_content,
)
from orchestrator.store.store import Store
from tests.helpers.paths import FIRST_STUDY
from tests.helpers.toy_sweep import ToySweep, rewrite_result, run_here


def results_of(root: Path, kind: str) -> list[Path]:
    """The result.json of the published segments of a kind, always in the same order."""
    paths = sorted(root.glob("segments/*/result.json"))
    return [path for path in paths if json.loads(path.read_text())["kind"] == kind]


def result_of(root: Path, kind: str) -> Path:
    """That of the first of them."""
    return results_of(root, kind)[0]


def setting(value: object, *keys: str) -> Callable[[Path], object]:
    """Damage that puts a value at a place of the result."""

    def damage(path: Path) -> None:
        def change(document: dict) -> None:
            for key in keys[:-1]:
                document = document[key]
            document[keys[-1]] = value

        rewritten(path, change)

    return damage


def without(*keys: str) -> Callable[[Path], object]:
    """Damage that takes a place of the result away."""

    def damage(path: Path) -> None:
        def change(document: dict) -> None:
            for key in keys[:-1]:
                document = document[key]
            del document[keys[-1]]

        rewritten(path, change)

    return damage


def rewritten(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replaced_by(content: bytes) -> Callable[[Path], object]:
    """Damage that puts other bytes there."""
    return lambda path: path.write_bytes(content)


def a_huge_loss(path: Path) -> None:
    loss = json.loads(path.read_text())["evaluation"]["loss"]
    path.write_text(path.read_text().replace(f'"loss": {loss}', f'"loss": 1{"0" * 400}'))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SHAPES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "evaluation a list": ("evaluate", setting([1, 2], "evaluation"), "evaluation: "),
    "evaluation null": ("evaluate", setting(None, "evaluation"), "without a loss or a score"),
    "evaluation missing": ("evaluate", without("evaluation"), "without a loss or a score"),
    "loss a word": (
        "evaluate",
        setting("abc", "evaluation", "loss"),
        "evaluation.loss: input should be a valid number",
    ),
    "loss true": ("evaluate", setting(True, "evaluation", "loss"), "evaluation.loss: input should be a valid number"),
    "loss NaN": ("evaluate", setting(float("nan"), "evaluation", "loss"), "evaluation.loss: input should be a finite"),
    "loss 10^400": ("evaluate", a_huge_loss, "evaluation.loss: "),
    "loss missing": ("evaluate", without("evaluation", "loss"), "evaluation.loss is missing"),
    "no realised capacity": ("evaluate", without("evaluation", "realised_capacity"), "realised_capacity is missing"),
    "empty capacities": ("evaluate", setting([], "evaluation", "realised_capacity"), "realised_capacity: "),
    "other capacities": ("evaluate", setting([1.0] * 9, "evaluation", "planned_capacity"), "of different lengths"),
    "depth a word": ("evaluate", setting("x", "evaluation", "depth_mean"), "evaluation.depth_mean: "),
    "numerics a word": ("evaluate", setting("x", "numerics"), "numerics: "),
    "numerics empty": ("evaluate", setting([], "numerics"), "numerics: "),
    "numerics a number": ("evaluate", setting(7, "numerics"), "numerics: "),
    "attempts a word": ("evaluate", setting("x", "attempts"), "attempts: "),
    "attempts beyond 64 bits": ("evaluate", setting(10**30, "attempts"), "attempts: "),
    "no status": ("evaluate", without("status"), "status is missing"),
    "another status": ("evaluate", setting("unheard-of", "status"), "status: input should be 'finished' or 'diverged'"),
    "another schema": ("evaluate", setting("mor-sweep.result/9", "schema"), "is not the result of its segment"),
    "another segment": ("evaluate", setting("0" * 64, "segment_id"), "is not the result of its segment"),
    "train seconds null": ("stable", setting(None, "train_seconds"), "train_seconds: "),
    "deeply nested": ("evaluate", replaced_by(b"[" * 100_000), "recursion limit"),
    "a list": ("evaluate", replaced_by(b"[]"), "input should be an object"),
    "truncated": ("evaluate", truncated, "invalid JSON"),
    "empty": ("evaluate", replaced_by(b""), "invalid JSON"),
    "binary": ("evaluate", replaced_by(b"\xff\xfe\x00\x01"), "invalid JSON"),
    "a folder": ("evaluate", a_folder, "it is not a regular file"),
    "a FIFO": ("evaluate", a_fifo, "it is not a regular file"),
}

BATCH = 12
"""Evaluations of the toy sweep: one for each shape of a batch."""

VERBS = (["status"], ["status", "--json"], ["fit"], ["report"], ["fsck", "--no-mlflow"])


@pytest.mark.timeout(60)  # A FIFO must not be waited for.
@pytest.mark.parametrize("shape", SHAPES)
def test_a_result_of_a_wrong_shape_is_one_sentence_that_names_the_file_and_what_to_do(shape: str, tmp_path: Path):
    shutil.copytree(FIRST_STUDY / "results" / "segments", tmp_path / "segments")
    kind, damage, reason = SHAPES[shape]
    path = result_of(tmp_path, kind)
    store, segment_id = Store(root=tmp_path), path.parent.name
    assert store.result(segment_id)
    damage(path)
    with pytest.raises(StoreError) as error:
        store.result(segment_id)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert reason in str(error.value)
    assert f"move {path.parent} away and run the same command again" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
    (finding,) = check_segment(store, path.parent).findings
    assert (finding.is_note, str(error.value) in finding.what) == (False, True)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("first", range(0, len(SHAPES), BATCH))
def test_no_verb_ends_in_a_traceback_or_hangs_whatever_results_hold(reference: ToySweep, tmp_path: Path, first: int):
    """A dozen shapes at once: each damages one segment."""
    toy = copy_of(reference, tmp_path)
    undamaged = {kind: results_of(toy.results, kind) for kind in ("stable", "evaluate")}
    damaged = []
    for kind, damage, _ in list(SHAPES.values())[first : first + BATCH]:
        damaged.append(undamaged[kind].pop())
        damage(damaged[-1])
    for verb in VERBS:
        done = run_here([*verb, "--results", str(toy.results)], toy.environment)
        assert done.returncode in (0, 1, 5), done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        if verb[0] == "fsck":
            assert [str(path) for path in damaged if f"{path} cannot be read" not in done.stdout] == []
    again = toy.run()
    assert again.returncode == 3
    assert "cannot be read" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_result_ends_with_its_own_sum_and_names_those_of_the_small_files_beside_it(reference: ToySweep):
    trained = (SPEC, METRICS, CHECKPOINT_MANIFEST)
    for kind, names in (("stable", trained), ("decay", trained), ("evaluate", (SPEC, SEQUENCE_LOSSES))):
        path = result_of(reference.results, kind)
        content = path.read_bytes()
        document = json.loads(content)
        assert list(document)[-1] == "sha256"
        zeros = content.replace(document["sha256"].encode(), b"0" * 64)
        assert hashlib.sha256(zeros).hexdigest() == document["sha256"]
        sums = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in names}
        assert {name: part["sha256"] for name, part in document["files"].items()} == sums


def test_a_loss_that_was_edited_is_not_believed_and_named_by_the_run_and_by_fsck(reference: ToySweep, tmp_path: Path):
    toy = copy_of(reference, tmp_path)
    path = result_of(toy.results, "evaluate")
    rewritten(path, lambda document: document["evaluation"].update(loss=document["evaluation"]["loss"] - 0.5))
    done = toy.run()
    assert done.returncode == 3
    assert "11 of 12 cells finished" in done.stderr
    assert f"{path} cannot be read (it was changed after it was published" in done.stderr
    assert f"move {path.parent} away" in done.stderr
    assert fsck_findings(toy, 1)[0]["what"].startswith(f"{path} cannot be read (it was changed after")


def add_a_space(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def lower_a_loss(path: Path) -> None:
    path.write_text(path.read_text().replace('"loss": ', '"loss": 0', 1))


EDITS = [
    ("decay", "spec.json", add_a_space, "was changed after its segment was published"),
    ("evaluate", "spec.json", add_a_space, "was changed after its segment was published"),
    ("evaluate", "sequence_losses.npy", add_a_space, "was changed after its segment was published"),
    ("decay", "metrics.jsonl", lower_a_loss, "was changed after its segment was published"),
    ("stable", "metrics.jsonl", Path.unlink, "is missing, though its segment was published with it"),
    ("decay", "checkpoint/manifest.json", add_a_space, "was changed after its segment was published"),
    ("evaluate", "metrics.jsonl", lambda path: path.write_text("{}\n"), "was added after its segment was published"),
]


@pytest.mark.parametrize(("kind", "name", "edit", "what"), EDITS, ids=[f"{edit[0]} {edit[1]}" for edit in EDITS])
def test_a_small_file_that_was_changed_is_named_by_the_run_and_by_fsck(
    reference: ToySweep, tmp_path: Path, kind: str, name: str, edit: Callable[[Path], object], what: str
):
    toy = copy_of(reference, tmp_path)
    path = result_of(toy.results, kind).parent / name
    edit(path)
    done = toy.run()
    assert done.returncode == 3
    assert f"{path} {what}" in done.stderr
    assert "Traceback" not in done.stderr
    assert any(finding["path"] == str(path) and finding["what"].startswith(what) for finding in fsck_findings(toy, 1))


def test_the_loss_of_an_evaluation_is_the_mean_of_those_of_its_sequences_which_are_kept_beside_it(reference: ToySweep):
    for path in results_of(reference.results, "evaluate"):
        result = Store(root=reference.results).verified_result(path.parent.name)
        losses_S = read_sequence_losses(path.with_name(SEQUENCE_LOSSES))
        assert result
        assert result.evaluation
        assert losses_S is not None
        assert "sequence_losses" not in json.loads(path.read_text())["evaluation"]
        assert len(losses_S) * 32 == result.evaluation.tokens
        assert losses_S.mean(dtype="f8") == pytest.approx(result.evaluation.loss, rel=1e-6)


def test_losses_of_sequences_that_are_not_those_of_the_result_are_found(reference: ToySweep, tmp_path: Path):
    path = result_of(copy_of(reference, tmp_path).results, "evaluate")
    losses = path.with_name(SEQUENCE_LOSSES)
    kept = [float(loss) for loss in read_sequence_losses(losses)]  # pyright: ignore
    contents = {
        b"": "cannot be read",
        b"PK" + bytes(100): "cannot be read",
        losses.read_bytes()[:-4]: "holds something else than a row of losses",
        losses.read_bytes().replace(b"<f4", b"<i4"): "holds something else than a row of losses",
        npy(losses, [*kept[1:], float("nan")]): "holds something else than a row of losses",
        npy(losses, kept[1:]): f"has {len(kept) - 1} losses of {len(kept)} sequences",
        npy(losses, [loss + 0.01 for loss in kept]): "has losses whose mean is",
        npy(losses, kept): "",
    }
    for content, what in contents.items():
        losses.write_bytes(content)
        sums = {"files": small_file_sums(path.parent)}
        path.write_bytes(summed_content(json.loads(path.read_text()) | sums))
        findings = check_segment(Store(root=path.parents[2]), path.parent).findings
        assert [what in finding.what for finding in findings] == ([True] if what else []), findings


def npy(path: Path, losses: list[float]) -> bytes:
    """What a file with these losses holds."""
    write_sequence_losses(path, losses)
    return path.read_bytes()


def test_an_evaluation_of_before_the_losses_of_sequences_were_kept_is_whole(reference: ToySweep, tmp_path: Path):
    toy = copy_of(reference, tmp_path)
    for path in results_of(toy.results, "evaluate"):
        path.with_name(SEQUENCE_LOSSES).unlink()
        sums = {"files": small_file_sums(path.parent)}
        path.write_bytes(summed_content(json.loads(path.read_text()) | sums))
    store = Store(root=toy.results)
    for path in results_of(toy.results, "evaluate"):
        assert store.verified_result(path.parent.name)
        assert check_segment(store, path.parent).findings == ()
    assert concentration_note(store, fit_of_sweep(store, None, "loss")) == ""


def test_results_of_before_sums_are_read_and_counted_which_is_no_fault(reference: ToySweep, tmp_path: Path):
    toy = copy_of(reference, tmp_path)
    for path in toy.results.glob("segments/*/result.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({key: document[key] for key in document if key not in ("sha256", "files")}))
    done = run_here(["fsck", "--strict", "--no-mlflow", "--results", str(toy.results)], toy.environment)
    assert done.returncode == 0, done.stdout
    assert "36 segments were published before sums existed\n" in done.stdout
    assert "0 problems, 0 notes" in done.stdout
    as_json = run_here(["fsck", "--no-mlflow", "--json", "--results", str(toy.results)], toy.environment)
    assert json.loads(as_json.stdout)["data"]["unsummed"] == 36
    assert toy.run().returncode == 0


def test_a_study_of_the_first_version_has_no_sums_and_no_problems(tmp_path: Path):
    shutil.copytree(FIRST_STUDY / "results", tmp_path / "results")
    done = run_here(["fsck", "--no-mlflow", "--results", str(tmp_path / "results")], dict(os.environ))
    assert done.returncode == 0, done.stdout
    assert "39 segments were published before sums existed\n" in done.stdout
    assert "0 problems" in done.stdout


def test_what_another_version_adds_is_passed_over(reference: ToySweep, tmp_path: Path):
    toy = copy_of(reference, tmp_path)
    path = result_of(toy.results, "evaluate")
    before = Store(root=toy.results).result(path.parent.name)
    rewrite_result(path, lambda document: document.update(colour="green", lines=[{"deep": None}]))
    after = Store(root=toy.results).result(path.parent.name)
    assert before
    assert after
    assert replace(after, sha256=before.sha256) == before


def test_what_is_not_a_result_is_not_published(reference: ToySweep):
    document = json.loads(result_of(reference.results, "evaluate").read_text())
    for change in ({"evaluation": None}, {"status": "done"}, {"step": -1}):
        with pytest.raises(ResultError):
            result_content(document | change)


def copy_of(reference: ToySweep, tmp_path: Path) -> ToySweep:
    """The undisturbed toy sweep in a folder that may be changed."""
    shutil.copytree(reference.results, tmp_path / "results")
    return replace(reference, results=tmp_path / "results")


def fsck_findings(toy: ToySweep, code: int) -> list[dict]:
    """What fsck --strict finds; it must end with this code."""
    done = run_here(["fsck", "--strict", "--no-mlflow", "--json", "--results", str(toy.results)], toy.environment)
    assert done.returncode == code
    return json.loads(done.stdout)["data"]["findings"]
