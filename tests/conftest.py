"""What several test folders share: a small corpus, prepared once, and a cache folder that is not the user's."""

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.faults.fault_report import mark_reports, write_summary

# Read when torch is first imported, here and in every command that a test starts: several threads in each of several
# processes wait for one another on a busy machine, and give other bits.
os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["tests.helpers.toy_fixtures"]
"""Named and not imported, since that would bring NumPy before the line above."""

# A busy machine is no failure of the code under test. Every run draws other examples, so that few at a time are enough.
settings.register_profile("few at a time", deadline=None, max_examples=40)
settings.load_profile("few at a time")

# What is imported and collected stays to the end: looking for garbage among it is a fifth of the time of collecting.
gc.disable()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes share which the tests are dealt to."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def toy_text(shared: Path) -> Path:
    """Sentences with a grammar, so that there is something to learn; a JSON Lines file of 400 documents."""
    generator = random.Random(0)
    subjects, verbs = ["the model", "a token", "the router", "one layer"], ["reads", "keeps", "drops", "repeats"]
    lines = []
    for _ in range(400):
        words = " ".join(
            f"{generator.choice(subjects)} {generator.choice(verbs)} {generator.randrange(100)}." for _ in range(40)
        )
        lines.append(f'{{"text": "{words}"}}')
    path = shared / "toy.jsonl"
    if not path.exists():
        written = shared / f"toy.jsonl.{os.getpid()}"
        written.write_text("\n".join(lines))
        written.rename(path)  # Whole at once, for the other processes.
    return path


@pytest.fixture(scope="session")
def toy_cache(shared: Path) -> Path:
    """Where prepared data goes during the tests; commands are given it as MOR_SWEEP_CACHE."""
    folder = shared / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Adds what a test measured to the line of one case in the report of `make test-faults`."""
    return lambda case, text: request.node.user_properties.append((f"figure {case}", text))


@pytest.hookimpl(tryfirst=True)  # Before pytest leaves out what -m does not ask for.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See fault_report."""
    mark_reports(items)


def pytest_collection_finish() -> None:
    """From now on cycles are collected again, but not among what stays to the end."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How to repeat this order of the tests; and see fault_report."""
    seed = config.getoption("randomly_seed", None)
    if isinstance(seed, int):
        terminalreporter.write_line(
            f"this order of the tests again: make test SEED={seed}, or pytest --randomly-seed={seed}"
        )
    if config.getoption("markexpr") == "faults":
        write_summary(terminalreporter)
