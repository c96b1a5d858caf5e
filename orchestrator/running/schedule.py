"""Which segment to start next, of those whose needs are met: an evaluation, else the one with the longest chain behind
it. Pure."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import flops_by_segment
from orchestrator.running.outcomes import Outcome, blocked


class Schedule:
    """Hands out segments and takes their outcomes; what needs a segment that did not finish is blocked, not run.

    The longest chain goes first: a sweep lasts at least as long as its longest trunk with its cooldown, so what is
    short fills the gaps, and the last workers are not left waiting for a long segment that started late. Evaluations go
    before all else: they are short, and a cell is a result only when its own is done, whenever the sweep is stopped.
    """

    def __init__(self, segments: Sequence[Segment], published: Mapping[str, Outcome]) -> None:
        chains = chain_flops(segments)
        self._segments = segments
        self._first = {
            segment.id: (segment.kind != "evaluate", -chains[segment.id], place)
            for place, segment in enumerate(segments)
        }
        self._dependents: dict[str, list[Segment]] = defaultdict(list)
        self._missing = {segment.id: len(segment.needs) for segment in segments}
        self._ready: list[tuple[bool, int, int]] = []
        self._unsettled = set(self._first)
        for segment in segments:
            for need in segment.needs:
                self._dependents[need].append(segment)
            if not segment.needs:
                heapq.heappush(self._ready, self._first[segment.id])
        self.blocked_at_first = [
            blocked_outcome for outcome in published.values() for blocked_outcome in self.settle(outcome)
        ]

    @property
    def is_done(self) -> bool:
        """Whether every segment has an outcome."""
        return not self._unsettled

    def take(self) -> Segment | None:
        """The next segment to start; None where all that is left waits for outcomes."""
        return self._segments[heapq.heappop(self._ready)[-1]] if self._ready else None

    def put_back(self, segment: Segment) -> None:
        """What was taken has not been started: it waits again in its place."""
        heapq.heappush(self._ready, self._first[segment.id])

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """Note an outcome. Returns those of the segments that it blocks, however far down."""
        blocked_outcomes: list[Outcome] = []
        arrived = [outcome]
        while arrived:
            cause = arrived.pop()
            self._unsettled.discard(cause.segment_id)
            for dependent in self._dependents.pop(cause.segment_id, []):
                if cause.status == "finished":
                    self._release(dependent)
                elif dependent.id in self._unsettled:
                    arrived.append(blocked(dependent, cause))
                    blocked_outcomes.append(arrived[-1])
        return blocked_outcomes

    def _release(self, segment: Segment) -> None:
        self._missing[segment.id] -= 1
        if not self._missing[segment.id]:
            heapq.heappush(self._ready, self._first[segment.id])


def chain_flops(segments: Sequence[Segment]) -> dict[str, int]:
    """By id: exact training FLOPs of a segment and of the longest chain of segments that wait for it.

    Segments come after what they need; evaluations count nothing.
    """
    flops = flops_by_segment(segments)
    longest: dict[str, int] = defaultdict(int)
    chains: dict[str, int] = {}
    for segment in reversed(segments):
        chains[segment.id] = flops[segment.id] + longest[segment.id]
        for need in segment.needs:
            longest[need] = max(longest[need], chains[segment.id])
    return chains
