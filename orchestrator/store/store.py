"""The results store: segment folders that appear whole, once, and never change. Files only; no clock is compared.

    segments/<segment_id>/            spec.json  metrics.jsonl  checkpoint/  result.json     published, immutable
                                      (of an evaluation: sequence_losses.npy)
    attempts/<segment_id>/<attempt>/  metrics.jsonl  checkpoint-<step>/  progress.json  log.txt  failure.json
    trunks/<trunk_id>/<step>          the id of a published stable segment: a hint, verified when used
    tasks/<weights_id>/<segment_id>   the task that a published evaluation of these weights scores: a hint too
    scratch/<run>/                    where the workers that share a segment meet while it runs
    sweeps/<name>/                    sweep.json  texts.json  runs.parquet  fits.json  figures/  forecasts/
                                      mlflow.db

A segment is done if and only if segments/<id>/result.json exists. An attempt builds its folder privately and publishes
it by one rename, which fails where the folder is already there: the first wins, and a late attempt changes nothing.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.errors import Unreachable
from mor_core.files import (
    UnreadableFileError,
    fsync,
    is_plain_name,
    read_regular_file,
    replace_text,
    write_bytes,
    write_json,
)
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.identity import Segment, TaskEvaluation, trunk_id
from orchestrator.store.attempts import Attempt, Attempts
from orchestrator.store.published import (
    LARGEST_RESULT_BYTES,
    RESULT,
    RESULT_SCHEMA,
    PublishedSegment,
    ResultError,
    SegmentResult,
    StoreError,
    move_away,
    parse_result,
    result_content,
    small_file_sums,
    wrong_files,
)
from orchestrator.store.workers.stop_request import StopFile, new_stop_file

LARGEST_HINT_BYTES = 4096
FORECASTS = "forecasts"
"""The folder of a sweep whose files are written once."""


@dataclass(frozen=True)
class Upstream:
    """A second place that results are shared through, as a git clone has a remote. What it holds wins over what this
    host has.

    This one is none: the folder is all there is, and every host that works on the results sees it. Where a place cannot
    be used, or does not answer for as long as is worth a wait, its methods raise StoreError.
    """

    @property
    def address(self) -> str:
        """Of the place, for people and for workers on other hosts; empty where the folder is all there is."""
        return ""

    def pull(self) -> None:
        """Bring the folder up to date, but for checkpoints."""

    def push(self) -> None:
        """Share what commands wrote of sweeps, and failures that could not be shared when they happened."""

    def create(self, sweep: str, inside: str, content: bytes) -> bytes:
        """Share a file of a sweep's folder that is written once, before it appears in this one. What counts from then
        on: another host's bytes where it was first."""
        return content

    def pull_revisions(self, sweep: str) -> None:
        """Bring a sweep's plan revisions."""

    def append_revision(self, sweep: str) -> bool:
        """Share a sweep's latest revision. False where another host has appended one of that number meanwhile: pull,
        and number again. In a folder alone a lock has kept others from that number."""
        return True

    def shared_stop(self, stop: StopFile, sweep: str) -> StopFile:
        """A driver's stop file as its workers on other hosts see it."""
        return stop

    def fetch(self, segment: Segment) -> None:
        """Bring what an attempt at the segment, which begins now, may start from; or its result, if it has one."""

    def fetch_outcome(self, segment_id: str) -> None:
        """Bring the result of a segment that ended on another host, or why it failed there."""

    def fetch_checkpoint(self, segment_id: str) -> None:
        """Bring the checkpoint of a published segment."""

    def keep(self, segment: Segment, attempt: Attempt, step: int) -> None:
        """Share an attempt's checkpoint, so that another host can go on from there."""

    def publish(self, segment: Segment, folder: Path) -> bool:
        """Share a finished segment's folder, before it appears in this one. False where another attempt was first: of
        a folder alone its rename decides."""
        return True

    def last_step(self, segment_id: str) -> int:
        """The furthest step of which an attempt has shared a checkpoint; 0 without one."""
        return 0

    def record_failure(self, segment_id: str) -> None:
        """Share why the newest attempt at a segment failed."""

    def withdraw(self, segment_ids: Sequence[str]) -> None:
        """Take results and failures back, so that the segments are computed again."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A results folder, opened by `orchestrator.store.upstream.upstream.open_store`."""

    root: Path
    """Usually `results/`."""
    upstream: Upstream = Upstream()
    """Where the results are shared beyond this folder."""

    @property
    def location(self) -> str:
        """By what another process, on whichever host, opens these results."""
        return self.upstream.address or str(self.root.absolute())

    def segment_folder(self, segment_id: str) -> Path:
        """Where a published segment lies."""
        return self.root / "segments" / segment_id

    def published(self, segment_id: str) -> PublishedSegment:
        """The files of a published segment."""
        return PublishedSegment(folder=self.segment_folder(segment_id))

    def attempts_folder(self, segment_id: str) -> Path:
        """Where a segment's attempts lie."""
        return self.root / "attempts" / segment_id

    def sweep_folder(self, name: str) -> Path:
        """Where a sweep's plan revisions, table, fits and figures lie."""
        return self.root / "sweeps" / name

    def forecasts_folder(self, name: str) -> Path:
        """Where a sweep's forecasts lie; not there before the first."""
        return self.sweep_folder(name) / FORECASTS

    def forecast_files(self, name: str) -> list[Path]:
        """The files of a sweep's forecasts, by key; `orchestrator.records.fits.forecasts` reads them."""
        return sorted(self.forecasts_folder(name).glob("*.json"))

    def is_done(self, segment_id: str) -> bool:
        """Whether the segment has been published."""
        return (self.root / f"segments/{segment_id}/{RESULT}").is_file()

    def result(self, segment_id: str) -> SegmentResult | None:
        """The published result, or None. Raises StoreError where it cannot be read, or was changed since."""
        path = f"{self.root}/segments/{segment_id}/{RESULT}"  # A status reads thousands: no Path is made of it.
        try:
            return parse_result(read_regular_file(path, LARGEST_RESULT_BYTES), segment_id)
        except FileNotFoundError:
            return None
        except UnreadableFileError as error:
            raise StoreError(f"{error}: {move_away(self.segment_folder(segment_id))}") from error
        except ResultError as error:
            fault = f"{path} cannot be read ({error})"
            raise StoreError(f"{fault}: {move_away(self.segment_folder(segment_id))}") from error

    def verified_result(self, segment_id: str) -> SegmentResult | None:
        """The published result, or None. Raises StoreError also where a small file beside it was changed since."""
        result, folder = self.result(segment_id), self.segment_folder(segment_id)
        if result is not None:
            for path, fault in wrong_files(result, folder):
                raise StoreError(f"{path} {fault}: {move_away(folder)}")
        return result

    def readable_results(self, segment_ids: Iterable[str]) -> dict[str, SegmentResult]:
        """The published results among these segments, without those that cannot be read."""
        results: dict[str, SegmentResult] = {}
        for segment_id in segment_ids:
            with contextlib.suppress(StoreError):
                result = self.result(segment_id)
                if result is not None:
                    results[segment_id] = result
        return results

    def has_finished(self, segment_id: str) -> bool:
        """Whether a result that can be read says that the segment reached its end. What diverged may be retried."""
        result = self.readable_results([segment_id]).get(segment_id)
        return result is not None and result.is_finished

    def checkpoint_folder(self, segment_id: str) -> Path:
        """The published checkpoint of a segment."""
        return self.published(segment_id).checkpoint

    def make_folder(self, folder: Path) -> Path:
        """Make a folder of the store and those above it, up to the root. Raises FileNotFoundError where the root is
        gone: one that was moved away must not come back empty."""
        if folder == self.root:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root))
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            self.make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        return folder

    def attempts(self, segment_id: str) -> Attempts:
        """The attempts at a segment."""
        return Attempts(folder=self.attempts_folder(segment_id))

    def last_step(self, segment_id: str) -> int:
        """The furthest step of which an attempt, on whichever host, has kept a checkpoint; 0 without one."""
        return max(self.attempts(segment_id).last_step(), self.upstream.last_step(segment_id))

    def fetch_checkpoints(self) -> Iterator[tuple[str, str]]:
        """Bring the checkpoint of every published segment; (segment id, why not) of each that cannot be read.

        Raises Unreachable where the upstream does not answer."""
        for folder in sorted((self.root / "segments").glob("*")):
            try:
                self.upstream.fetch_checkpoint(folder.name)
            except Unreachable:
                raise
            except StoreError as error:
                yield folder.name, str(error)

    def new_stop_file(self, sweep: str, *, on_this_host: bool) -> StopFile:
        """By what a new run of a sweep tells its workers, wherever they are, to stop. Nothing is written yet."""
        stop = new_stop_file(self.sweep_folder(sweep))
        return stop if on_this_host else self.upstream.shared_stop(stop, sweep)

    def new_attempt(self, segment: Segment) -> Attempt:
        """A new private folder for one try at a segment. Raises FileNotFoundError where the root is gone."""
        self.make_folder(self.attempts_folder(segment.id))
        return self.attempts(segment.id).new()

    def publish(
        self,
        segment: Segment,
        attempt: Attempt,
        checkpoint: Path | None,
        measured: Mapping[str, Any],
    ) -> bool:
        """Make the attempt's metrics, sequence losses, checkpoint and what it measured the segment's. False where
        another attempt was first. `measured` has the fields of a SegmentResult, as plain values.

        Raises StoreError where it can be published neither here nor upstream.
        """
        publication = PublishedSegment(folder=attempt.publication)
        shutil.rmtree(publication.folder, ignore_errors=True)
        publication.folder.mkdir()
        write_json(publication.spec, to_jsonable(segment))
        if attempt.metrics.exists():
            shutil.copyfile(attempt.metrics, publication.metrics)
        if attempt.sequence_losses.exists():
            attempt.sequence_losses.replace(publication.sequence_losses)
        if checkpoint is not None:
            checkpoint.rename(publication.checkpoint)
        identity = {"schema": RESULT_SCHEMA, "segment_id": segment.id, "kind": segment.kind}
        content = result_content({**identity, **measured, "files": small_file_sums(publication.folder)})
        self.hint(segment, parse_result(content, segment.id))  # Before the result: readers ask whether it is done.
        write_bytes(publication.result, content)
        # Upstream first: what appears here is believed to be what everyone sees.
        if not self.upstream.publish(segment, publication.folder):
            return False
        target = self.segment_folder(segment.id)
        self.make_folder(target.parent)
        try:
            publication.folder.rename(target)
        except OSError as error:
            if self.is_done(segment.id):
                return False
            self.refuse_obstructed(segment.id)
            raise StoreError(f"{target} cannot be published: {error}") from error
        fsync(target.parent)
        return True

    def refuse_obstructed(self, segment_id: str) -> None:
        """Raise StoreError where a folder without a result would stand in the way of publication."""
        target = self.segment_folder(segment_id)
        if target.exists() and not self.is_done(segment_id):
            raise StoreError(f"{target} is in the way and holds no result: {move_away(target)}")

    def hint(self, segment: Segment, result: SegmentResult | None) -> None:
        """Write the hints that lead to a segment with this result."""
        for path, text in hints(segment, result).items():
            self.make_folder((self.root / path).parent)
            replace_text(self.root / path, text)

    def published_task_scores(self, weights_id: str) -> list[str]:
        """Ids of the published evaluations that score these weights on a task, in the order of their names."""
        folder = self.root / "tasks" / weights_id
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [name for name in names if not name.endswith(".writing") and self.is_done(name)]

    def published_trunk_steps(self, trunk: str) -> list[tuple[int, str]]:
        """(step, segment id) of the published stable segments of a trunk, the latest step first."""
        folder = self.root / "trunks" / trunk
        if not folder.is_dir():
            return []
        steps = [(int(path.name), read_hint(path)) for path in folder.iterdir() if is_step(path.name)]
        named = ((step, name) for step, name in steps if is_plain_name(name) and self.is_done(name))
        return sorted(named, reverse=True)


def is_step(name: str) -> bool:
    """Whether a file's name in trunks/ is a step, as this program writes it."""
    return name.isascii() and name.isdecimal()


def read_hint(path: Path) -> str:
    """What a hint says; empty for a file that no hint can be."""
    try:
        return read_regular_file(path, LARGEST_HINT_BYTES).decode()
    except (FileNotFoundError, UnreadableFileError, UnicodeDecodeError):
        return ""


def hints(segment: Segment, result: SegmentResult | None) -> dict[str, str]:
    """Path in a results folder -> content, of the hints that lead to a segment with this result."""
    if isinstance(segment.evaluation, TaskEvaluation):
        return {f"tasks/{segment.needs[0]}/{segment.id}": segment.evaluation.task}
    if segment.kind == "stable" and result is not None and result.is_finished:
        return {f"trunks/{trunk_id(segment.trunk)}/{segment.stop_step}": segment.id}
    return {}
