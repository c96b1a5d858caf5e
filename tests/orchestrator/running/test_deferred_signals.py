"""Signals that wait for what must not be cut short."""

import signal
import subprocess
import sys
import time

import pytest

from orchestrator.running.stopping import deferred_signals

BODY = """
import signal, sys
from orchestrator.running.stopping import deferred_signals

def leave(number, frame):
    sys.exit(77)

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs start with it ignored.
with deferred_signals("the body has ended"):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what Ray does while it starts
    print("inside", flush=True)
    sys.stdin.readline()
    print("ended", flush=True)
print("went on", flush=True)
"""


def signalled(*kinds: signal.Signals) -> tuple[int, str, float]:
    """Exit code, output and seconds of a body that is sent signals, the next when one has been answered, and then told
    to end."""
    command = [sys.executable, "-c", BODY]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline()
        started = time.monotonic()
        for kind in kinds:
            process.send_signal(kind)
            said += process.stdout.readline()
        if len(kinds) == 1:
            process.stdin.write("end\n")
            process.stdin.flush()
        said += process.stdout.read()
        return process.wait(60), said, time.monotonic() - started


def test_sigterm_waits_for_the_body_and_goes_to_the_handler_from_before_it():
    code, said, _ = signalled(signal.SIGTERM)
    assert code == 77
    assert "ended" in said
    assert "went on" not in said
    assert "stopping as soon as the body has ended; once more stops at once" in said


def test_ctrl_c_waits_for_the_body_and_raises_then():
    code, said, _ = signalled(signal.SIGINT)
    assert code == -signal.SIGINT
    assert "ended" in said
    assert said.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait(kind: signal.Signals):
    code, said, seconds = signalled(signal.SIGINT, kind)
    assert code == 128 + kind
    assert "\nended" not in said
    assert seconds < 10


def test_handlers_are_back_after_a_body_that_fails():
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(ZeroDivisionError), deferred_signals("it has ended"):
        raise ZeroDivisionError
    assert {kind: signal.getsignal(kind) for kind in before} == before
    assert signal.signal(signal.SIGUSR1, signal.SIG_DFL) is not None
