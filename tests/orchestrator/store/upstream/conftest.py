"""Machines that share a bucket."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.remote_machine import Machine


@pytest.fixture
def machine(bucket: str, tmp_path: Path, toy_text: Path, toy_cache: Path) -> Machine:
    """A machine and an empty bucket."""
    return Machine(url=f"{bucket}/study", scratch=tmp_path / "one", text=toy_text, cache=toy_cache)


@pytest.fixture
def other(machine: Machine, tmp_path: Path) -> Machine:
    """Another machine with the same bucket."""
    return replace(machine, scratch=tmp_path / "two")
