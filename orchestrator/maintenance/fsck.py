"""Prove that a results folder is what it claims to be, without changing it.

Checked: every planned cell is in one state (I1); published segments are whole and their own (I2, I6); what unfinished
work starts from is there; tables, fits and MLflow say what the store says (I7, I9); no process of an ended sweep is
left (I8). A finding is a problem, or a note: nothing is wrong, but something could be tidier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.maintenance.check_segment import CheckedSegment, check_segment
from orchestrator.maintenance.check_sweep import sweep_findings
from orchestrator.maintenance.findings import Finding, note, problem, process_findings
from orchestrator.maintenance.gc import leftovers
from orchestrator.records.terminal import command_line
from orchestrator.store.drivers import FOLDER, running_drivers
from orchestrator.store.folder import is_held
from orchestrator.store.store import Store, is_step, read_hint
from orchestrator.store.sweep_document import sweep_names


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at and what was found."""

    findings: tuple[Finding, ...]
    """Problems first."""
    num_sweeps: int
    """Sweeps checked."""
    num_segments: int
    """Published segments checked."""
    num_bytes: int
    """Bytes of checkpoints whose sha256 was compared."""
    num_unsummed: int
    """Segments that were published before results had sums: of their small files only the shape was checked."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that are no notes."""
        return tuple(finding for finding in self.findings if not finding.is_note)


def check_results(store: Store, *, ask_mlflow: bool = True) -> Report:
    """Check a results folder. Reads everything, writes nothing; a file that cannot be read is a finding."""
    segments = {path.name: check_segment(store, path) for path in sorted((store.root / "segments").glob("*"))}
    names = sweep_names(store)
    findings = [finding for segment in segments.values() for finding in segment.findings]
    findings += _hint_findings(store, segments)
    for name in names:
        findings += sweep_findings(store, name, segments, ask_mlflow=ask_mlflow)
    findings += process_findings(store)
    findings += _leftover_findings(store)
    return Report(
        findings=tuple(sorted(findings, key=lambda finding: finding.is_note)),
        num_sweeps=len(names),
        num_segments=len(segments),
        num_bytes=sum(segment.num_bytes for segment in segments.values()),
        num_unsummed=sum(segment.is_unsummed for segment in segments.values()),
    )


def _hint_findings(store: Store, segments: dict[str, CheckedSegment]) -> Iterator[Finding]:
    """trunks/<trunk>/<step> names the stable segment that ends there, and every one of them is named."""
    named: dict[str, Path] = {}
    for path in sorted((store.root / "trunks").glob("*/*")):
        if path.name.endswith(".writing"):
            continue
        if not is_step(path.name):
            yield note(path, "is no hint: its name is no step", "delete it")
            continue
        segment_id = read_hint(path).strip()
        if not segment_id:
            yield problem(path, "does not name a segment", "delete it")
            continue
        named[segment_id] = path
        segment = segments.get(segment_id)
        if segment is None:
            yield note(path, "names a segment that is not published", "nothing: it is passed over")
        elif segment.verified and (segment.trunk_id, segment.stop_step) != (path.parent.name, int(path.name)):
            yield problem(path, "names a segment of another trunk or step", "delete this file")
    for name, segment in segments.items():
        if segment.verified and segment.kind == "stable" and segment.status == "finished" and name not in named:
            path = store.root / "trunks" / segment.trunk_id / str(segment.stop_step)
            yield problem(path, "is missing: its segment is left out of curves", f"write {name} into it")


def _leftover_findings(store: Store) -> Iterator[Finding]:
    for path in leftovers(store):
        yield note(path, "was left by an attempt that is gone", command_line("gc", results=store.root))
    if not running_drivers(store):
        for path in sorted((store.root / "sweeps").glob(f"*/{FOLDER}/*")):
            if not is_held(path):
                yield note(path, "was left by a driver that was killed", "nothing: the next run removes it")
