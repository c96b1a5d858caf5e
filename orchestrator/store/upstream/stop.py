"""The request to stop for workers on hosts that do not see their driver's folder: an object in the bucket.

The signal handler writes the driver's own file; the driver uploads it when it next looks around. A worker looks at the
bucket from a thread of its own, so that a server that hangs does not hold training up.
"""

import contextlib
import threading
import time
from dataclasses import dataclass

from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable, ObjectStore
from orchestrator.store.workers.stop_request import StopFile

LOOK_SECONDS = 3.0
"""Between two looks of a worker at the bucket."""

FORGET_SECONDS = 60.0
"""A worker that has not asked for so long has nothing to stop any more."""


@dataclass(frozen=True, kw_only=True)
class SharedStop(StopFile):
    """A stop file that is also an object of a bucket."""

    objects: ObjectStore
    """The bucket."""
    name: str
    """Of the object."""

    def asked(self) -> str | None:
        """See StopFile; at most some seconds late on another host."""
        return super().asked() or _watch_of(self).answer()

    def announce(self) -> None:
        """Upload what the driver's own file says, if anything."""
        how = super().asked()
        if how is not None:
            with contextlib.suppress(BucketUnreachable):
                self.objects.create(self.name, how.encode())

    def remove(self) -> None:
        """See StopFile."""
        super().remove()
        with contextlib.suppress(BucketUnreachable, BucketRefused):
            self.objects.remove([self.name])


class _Watch:
    """Looks for one request in the bucket for as long as somebody asks."""

    def __init__(self, stop: SharedStop) -> None:
        self._stop = stop
        self._request: str | None = None
        self._last_question = 0.0
        self._thread: threading.Thread | None = None

    def answer(self) -> str | None:
        """The request as far as it has been seen; None without one."""
        self._last_question = time.monotonic()
        if self._request is None and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self._request

    def _look(self) -> None:
        while self._request is None and time.monotonic() - self._last_question < FORGET_SECONDS:
            with contextlib.suppress(BucketUnreachable, BucketRefused):
                content = self._stop.objects.read(self._stop.name)
                self._request = content.decode(errors="replace") if content is not None else None
            time.sleep(LOOK_SECONDS)


_WATCHES: dict[str, _Watch] = {}


def _watch_of(stop: SharedStop) -> _Watch:
    if stop.name not in _WATCHES:
        _WATCHES.clear()  # A worker serves one run at a time.
        _WATCHES[stop.name] = _Watch(stop)
    return _WATCHES[stop.name]
