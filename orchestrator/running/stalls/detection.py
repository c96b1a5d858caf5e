"""The driver's watch: for how long the attempts of its run have shown no sign of life, by its own clock alone.

An attempt's watchdog writes its sign anew about once a second while steps are taken, with the seconds after which it
ends the process itself (see watchdog). A process that is frozen as a whole does neither; nor does one that waits in the
kernel for a disk or a device. Where no sign has been seen there is nothing to count: the task waits for a place, or
works in another host's folder.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from orchestrator.store.attempts import Attempt
from orchestrator.store.store import Store
from orchestrator.store.workers.sign_of_life import Sign

MARGIN_SECONDS = 10.0
"""Beyond the watchdog's own limit: what can end itself, with better stacks, does."""

LONGEST_LOOK_SECONDS = 2.0
"""Counts at most between two looks. Where more has passed, this process was itself stopped or busy, and the workers
perhaps with it."""


@dataclass(frozen=True, kw_only=True)
class Silence:
    """An attempt whose sign of life does not change."""

    segment_id: str
    """What it computes."""
    attempt: Attempt
    """The one."""
    sign: Sign
    """The last that was seen."""
    seconds: float = 0.0
    """For how long it has been the same."""

    @property
    def is_too_long(self) -> bool:
        """Whether the attempt should have ended itself by now."""
        return self.seconds > self.sign.limit_seconds + MARGIN_SECONDS


@dataclass(kw_only=True)
class StallWatch:
    """Looks at the newest attempts of one run at the segments that it has started, but for those given up."""

    store: Store
    """Where they are."""
    run: str
    """The run: attempts of others are watched by their own drivers."""
    _silences: dict[str, Silence] = field(default_factory=dict, init=False)
    _looked_at: float | None = field(default=None, init=False)

    def too_long(self, segment_ids: Iterable[str], now: float) -> Iterator[Silence]:
        """The attempts that should have ended themselves. `now` is monotonic; one that is named starts from 0 again."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, LONGEST_LOOK_SECONDS)
        self._looked_at = now
        self._silences = {name: silence for name in segment_ids if (silence := self._silence(name, passed))}
        for silence in [silence for silence in self._silences.values() if silence.is_too_long]:
            self._silences[silence.segment_id] = replace(silence, seconds=0.0)
            yield silence

    def _silence(self, segment_id: str, passed: float) -> Silence | None:
        for attempt in reversed(list(self.store.attempts(segment_id))):
            sign = attempt.read_sign()
            if sign and sign.run == self.run and not attempt.has_failed:
                before = self._silences.get(segment_id)
                if before and (before.attempt, before.sign) == (attempt, sign):
                    return replace(before, seconds=before.seconds + passed)
                return Silence(segment_id=segment_id, attempt=attempt, sign=sign)
        return None
