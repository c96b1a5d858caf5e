"""A machine of several that share a bucket: a scratch folder of its own, and commands on the bucket's results."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest

from mor_core.data.snapshot import DataSnapshot
from orchestrator.planning.identity import Segment
from orchestrator.running.outcomes import Outcome
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.upstream.clone import local_folder
from tests.helpers.paths import ROOT, TOY_PRESET
from tests.helpers.single_segment import job_for
from tests.helpers.toy_sweep import MOR_SWEEP, run_here


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine with a scratch folder of its own."""

    url: str
    scratch: Path
    text: Path
    cache: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The local folder of the results."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MOR_SWEEP_SCRATCH", str(self.scratch))
            return local_folder(self.url)

    @property
    def environment(self) -> dict[str, str]:
        """Of its commands."""
        folders = {"MOR_SWEEP_SCRATCH": str(self.scratch), "MOR_SWEEP_CACHE": str(self.cache)}
        return os.environ | folders | self.variables

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on these results, in this process."""
        return run_here([*arguments, "--results", self.url], self.environment)

    def sweep(self, *flags: str) -> list[str]:
        """The arguments of the toy sweep."""
        common = ["--preset", str(TOY_PRESET), "--data", str(self.text), "--yes", "--no-mlflow"]
        return ["isoflop", *common, "--executor", "in-process", *flags]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command on these results, in a process of its own."""
        return subprocess.Popen(
            [*MOR_SWEEP, *arguments, "--results", self.url],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def process(self, data: DataSnapshot) -> subprocess.Popen[str]:
        """One segment, in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.one_segment", self.url, str(data.folder)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attempt(self, segment: Segment, data: DataSnapshot, **settings) -> Outcome:
        """One segment, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MOR_SWEEP_SCRATCH", str(self.scratch))
            return run_segment(segment, job_for(self.url, data, **settings))


def objects_of(url: str, part: str = "") -> dict[str, bytes]:
    """Name -> bytes of a bucket's objects."""
    files = fsspec.filesystem("s3", use_listings_cache=False)
    return {path.partition("/study/")[2]: files.cat_file(path) for path in files.find(f"{url}/{part}")}
