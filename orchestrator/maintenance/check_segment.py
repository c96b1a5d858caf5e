"""Check one published segment: its files are whole, their sums are right, and its content has the id that its folder is
named after."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mor_core.files import tree_bytes
from mor_core.training.manifest import MANIFEST, OPTIMIZER, WEIGHTS, CheckpointError, Manifest, verify_checkpoint
from orchestrator.maintenance.findings import Finding, note, problem
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.identity import (
    EvaluationSpec,
    Segment,
    TaskEvaluation,
    TextEvaluation,
    decay_segment,
    evaluate_segment,
    stable_segment,
    trunk_id,
)
from orchestrator.records.terminal import command_line
from orchestrator.store.losses import read_sequence_losses
from orchestrator.store.pruned import PRUNED, read_pruned
from orchestrator.store.published import (
    CHECKPOINT,
    METRICS,
    RESULT,
    SEQUENCE_LOSSES,
    SPEC,
    PublishedSegment,
    SegmentResult,
    StoreError,
    read_spec,
    wrong_files,
)
from orchestrator.store.store import Store

KNOWN = {SPEC, METRICS, SEQUENCE_LOSSES, CHECKPOINT, RESULT, PRUNED}

MEAN_TOLERANCE = 1e-4
"""Nats by which the mean of the sequences' losses may differ from the loss: far above the rounding of float32."""


@dataclass(frozen=True, kw_only=True)
class CheckedSegment:
    """What is known of a published segment after its check."""

    findings: tuple[Finding, ...]
    """Empty where everything is right."""
    kind: str = ""
    """stable, decay or evaluate; empty where its spec cannot be read."""
    trunk_id: str = ""
    """Its trunk."""
    stop_step: int = 0
    """Where it ends."""
    status: str = ""
    """finished or diverged; empty where its result cannot be read."""
    num_bytes: int = 0
    """Of its checkpoint, all of them hashed."""
    is_unsummed: bool = False
    """Whether its result, which can be read, was published before results had sums."""

    @property
    def verified(self) -> bool:
        """Whether no problem was found."""
        return all(finding.is_note for finding in self.findings)


def check_segment(store: Store, folder: Path) -> CheckedSegment:
    """Check one entry of segments/."""
    again = f"move {folder} away and run the sweep's command again; only this segment is computed anew"
    if not folder.is_dir() or not re.fullmatch(r"[0-9a-f]{64}", folder.name):
        return CheckedSegment(findings=(note(folder, "is no segment", "move it elsewhere"),))
    files = PublishedSegment(folder=folder)
    try:
        segment = read_spec(files.spec)
        result = store.result(folder.name)
    except (StoreError, OtherVersion) as error:
        return CheckedSegment(findings=(problem(folder, str(error), again),))
    wrongs = (*_spec_wrongs(files, segment), *_wrongs(store, files, segment, result))
    findings = [problem(path, fault, again) for path, fault in wrongs]
    if isinstance(segment.evaluation, TaskEvaluation):
        hint = store.root / "tasks" / segment.needs[0] / folder.name
        if not hint.is_file():
            write = f"write {segment.evaluation.task} into it"
            findings.append(problem(hint, "is missing: its score is left out of tables", write))
    collect = command_line("gc", results=store.root)
    unknown = sorted(path for path in folder.iterdir() if path.name not in KNOWN)
    findings += [note(path, "is no part of a segment", f"{collect}, or move it elsewhere") for path in unknown]
    return CheckedSegment(
        findings=tuple(findings),
        kind=segment.kind,
        trunk_id=trunk_id(segment.trunk),
        stop_step=segment.stop_step,
        status=result.status if result else "",
        is_unsummed=result is not None and not result.sha256,
        num_bytes=tree_bytes(files.checkpoint) if files.checkpoint.is_dir() else 0,
    )


def named_by_content(segment: Segment) -> str:
    """The id that a segment's content has."""
    if segment.kind == "stable":
        return stable_segment(segment.trunk, segment.stop_step).id
    weights = _weights(segment)
    if segment.kind == "decay":
        return weights.id
    return evaluate_segment(weights, segment.evaluation).id if segment.evaluation else ""


def needs_by_content(segment: Segment) -> tuple[str, ...]:
    """What a segment must need by its content. A stretch of a trunk may start from any other, so it is as it says."""
    if segment.kind == "stable":
        return segment.needs
    if segment.kind == "decay":
        return (stable_segment(segment.trunk, segment.decay_start or 0).id,)
    return (_weights(segment).id,)


def _weights(segment: Segment) -> Segment:
    """What a decay ends with, or an evaluation measures."""
    if segment.decay_start is None:
        return stable_segment(segment.trunk, segment.stop_step)
    return decay_segment(segment.trunk, segment.decay_start, segment.stop_step, ())


Wrong = tuple[Path, str]
"""(file, what is wrong with it)."""


def _wrongs(store: Store, files: PublishedSegment, segment: Segment, result: SegmentResult | None) -> Iterator[Wrong]:
    if named_by_content(segment) != files.folder.name:
        yield files.spec, "describes another segment than the folder's name says"
    if result is None:
        yield files.folder, f"holds no {RESULT} and stands in the way of publication"
        return
    path = files.result
    yield from wrong_files(result, files.folder)
    if result.kind != segment.kind:
        yield path, f"is of kind {result.kind!r}, its spec of {segment.kind!r}"
    if result.is_finished:
        if result.step != segment.stop_step:
            yield path, f"ends at step {result.step}, its spec at {segment.stop_step}"
        if segment.kind == "evaluate":
            yield from _evaluation_wrongs(files, segment, result)
        else:
            yield from _checkpoint_wrongs(store, files, segment)
    yield from _metrics_wrongs(files.metrics, segment, finished=result.is_finished)


def _evaluation_wrongs(files: PublishedSegment, segment: Segment, result: SegmentResult) -> Iterator[Wrong]:
    spec = segment.evaluation
    if isinstance(spec, TaskEvaluation):
        measured, noun = result.task, "score on its task"
    elif isinstance(spec, TextEvaluation):
        measured, noun = result.text, "loss on its text"
        if measured is not None and measured.text_sha256 != spec.text_sha256:
            yield files.result, "is of another text than its spec"
    else:
        measured, noun = result.evaluation, "loss"
    if measured is None:
        yield files.result, f"has no {noun}"
    if isinstance(segment.evaluation, EvaluationSpec) and result.evaluation is not None:
        yield from _sequence_wrongs(files.sequence_losses, segment.evaluation.num_sequences, result.evaluation.loss)


def _sequence_wrongs(path: Path, num_sequences: int, loss: float) -> Iterator[Wrong]:
    """As many losses as sequences were evaluated, and their mean the loss. None at all is right: it came later."""
    try:
        losses_S = read_sequence_losses(path)
    except StoreError as error:
        yield path, str(error)
        return
    if losses_S is None:
        return
    if len(losses_S) != num_sequences:
        yield path, f"has {len(losses_S)} losses of {num_sequences} sequences"
    elif abs(float(losses_S.mean(dtype="f8")) - loss) > MEAN_TOLERANCE:
        yield path, f"has losses whose mean is {losses_S.mean(dtype='f8'):.4f}, not the {loss:.4f} of its result"


def _checkpoint_wrongs(store: Store, files: PublishedSegment, segment: Segment) -> Iterator[Wrong]:
    checkpoint = files.checkpoint
    if not checkpoint.exists():
        try:
            if read_pruned(store, files.folder.name) is None:
                yield checkpoint, f"is missing, and no {PRUNED} accounts for it"
        except StoreError as error:
            yield files.folder / PRUNED, str(error)
        return
    try:
        manifest = verify_checkpoint(checkpoint)
    except CheckpointError as error:
        yield checkpoint, str(error)
        return
    yield from _manifest_wrongs(checkpoint, manifest, segment)


def _manifest_wrongs(checkpoint: Path, manifest: Manifest, segment: Segment) -> Iterator[Wrong]:
    if manifest.step != segment.stop_step:
        yield checkpoint / MANIFEST, f"is of step {manifest.step}, its segment ends at {segment.stop_step}"
    required = {WEIGHTS} if segment.kind == "decay" else {WEIGHTS, OPTIMIZER}
    for name in sorted(required - manifest.files.keys()):
        yield checkpoint / MANIFEST, f"does not name {name}"
    for path in sorted(checkpoint.iterdir()):
        if path.name not in {MANIFEST, *manifest.files}:
            yield path, "is not in the checkpoint's manifest"


def _metrics_wrongs(path: Path, segment: Segment, *, finished: bool) -> Iterator[Wrong]:
    """Whole lines of JSON whose steps ascend; to the segment's end where it is finished."""
    if segment.kind == "evaluate":
        return
    try:
        text = path.read_text()
        steps = [json.loads(line)["step"] for line in text.splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield path, f"is not whole lines of JSON with a step ({error})"
        return
    if text and not text.endswith("\n"):
        yield path, "ends in the middle of a line"
    if steps != sorted(set(steps)):
        yield path, "has steps that do not ascend"
    if finished and steps[-1:] != [segment.stop_step]:
        yield path, f"ends at step {steps[-1] if steps else 'none'}, its segment at {segment.stop_step}"


def _spec_wrongs(files: PublishedSegment, segment: Segment) -> Iterator[Wrong]:
    """What is no part of a segment's identity and must follow from it."""
    if segment.id != files.folder.name:
        yield files.spec, "has another id than the folder's name says"
    if segment.needs != needs_by_content(segment):
        yield files.spec, "needs another segment than the one that it goes on from"
