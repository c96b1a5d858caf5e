"""Own models asked in this process: a child takes seconds to load torch, which the tests have loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mor_core.model.own import code as own_code
from orchestrator.planning.own_models import questions
from orchestrator.planning.own_models.answer import answer


@contextmanager
def asked_here(cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """Answers are given in this process and remembered in a cache of its own. The user has named no model before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "_asked", lambda _, request: answer(dict(request)))
        patch.setattr(own_code, "_allowed", set())
        patch.setenv("MOR_SWEEP_CACHE", str(cache))
        questions._ladder.cache_clear()
        yield patch
    questions._ladder.cache_clear()


def forget(patch: pytest.MonkeyPatch) -> None:
    """As in another process: nothing is remembered but in files, the user has named no model, and no code may run."""

    def refused(*_: Any) -> None:
        raise AssertionError("the user's code was asked")

    questions._ladder.cache_clear()
    patch.setattr(own_code, "_allowed", set())
    patch.setattr(questions, "_asked", refused)
