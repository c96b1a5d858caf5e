"""What this machine has and lacks for a sweep, one line each. Heavy libraries are asked in processes of their own."""

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mor_core.data.snapshot import MANIFEST, SPLITS, read_manifest
from mor_core.data.spec import DataError, cache_folder
from mor_core.files import file_sha256
from mor_core.units import bytes_text
from orchestrator.planning.costs.machine import machine_memory
from orchestrator.running.ray.connection import SHARED_MEMORY, ClusterUnreachable, check_shared_memory
from orchestrator.store.folder import ResultsError, check_writable
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import NoSuchSweep, data_folder, last_sweep_name
from orchestrator.tracking.cursor import VARIABLE, TrackingUriError, check_uri, public_uri, tracking_uri
from orchestrator.tracking.server import TrackingServerUnreachable, check_answers

Level = Literal["ok", "warn", "bad"]

DISTRIBUTION = "mor-sweep"
PROBE_SECONDS = 240.0
LITTLE_DISK_BYTES = 2 * 10**9
LITTLE_MEMORY_BYTES = 2 * 10**9
LITTLE_SHARED_MEMORY_BYTES = 2 * 10**8
"""Ray's object store of a sweep, twice."""
FEW_OPEN_FILES = 256
PAPER_GIGABYTES = 120
"""Of the paper's 1.7B model with its batch, as its plan says."""

TORCH_PROBE = """
import json, torch
gpu = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else []
print(json.dumps({"version": torch.__version__, "gpus": names, "bf16": not gpu or torch.cuda.is_bf16_supported()}))
"""

RAY_PROBE = """
from pathlib import Path
from orchestrator.running.ray.executor import RayExecutor
from orchestrator.running.segment.job import Job
job = Job(results=Path("unused"), data_folder=Path("unused"), checkpoint_every_steps=1)
print(len(list(RayExecutor(workers=1).run([], job, {}))))
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that was looked at."""

    level: Level
    """bad: sweeps fail here; warn: they may, or are slow."""
    name: str
    """What it is."""
    found: str
    """What was found, and what to do where it is not ok."""
    next: tuple[str, ...] = ()
    """The verb, with its flags, to go on with by what was found."""


def examine(store: Store, *, deep: bool) -> Iterator[Line]:
    """One line a thing, as each is looked at. `deep` also starts and ends a local Ray."""
    yield from _machine_lines(store)
    yield from _package_lines()
    torch, problem = _probe(TORCH_PROBE)
    yield _torch_line(torch, problem)
    yield _presets_here_line([] if torch is None else torch["gpus"])
    yield _compiler_line()
    if deep:
        yield _ray_line()
    yield _tracking_line(store)
    yield from _data_lines(store)


def _machine_lines(store: Store) -> Iterator[Line]:
    memory = machine_memory()
    summary = f"{os.cpu_count()} cores, {bytes_text(memory)} of memory, {platform.system()} {platform.machine()}"
    yield _judged("machine", summary, "use one worker" if memory < LITTLE_MEMORY_BYTES else "")
    for name, folder in (("results", store.root), ("cache", cache_folder())):
        yield _disk_line(name, folder)
    if SHARED_MEMORY.is_dir():
        yield _shared_memory_line()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _judged("open files", f"at most {files}", f"ulimit -n {4 * FEW_OPEN_FILES}" if files < FEW_OPEN_FILES else "")


def _judged(name: str, found: str, advice: str, level: Level = "warn") -> Line:
    """What was found: of `level`, with what to do, where there is advice; ok without."""
    return Line(level=level if advice else "ok", name=name, found=f"{found}: {advice}" if advice else found)


def _shared_memory_line() -> Line:
    try:
        check_shared_memory()
    except ClusterUnreachable as error:
        return Line(level="bad", name="shared memory", found=str(error))
    free = shutil.disk_usage(SHARED_MEMORY).free
    advice = f"Ray will use the disk; give {SHARED_MEMORY} more (docker: --shm-size 1g)"
    return _judged("shared memory", f"{bytes_text(free)} free", advice if free < LITTLE_SHARED_MEMORY_BYTES else "")


def _disk_line(name: str, folder: Path) -> Line:
    try:
        check_writable(folder)
    except ResultsError as error:
        return Line(level="bad", name=f"disk of {name}", found=error.message)
    nearest = next(ancestor for ancestor in (folder.absolute(), *folder.absolute().parents) if ancestor.exists())
    free = shutil.disk_usage(nearest).free
    advice = "free some (mor-sweep gc), or name another folder" if free < LITTLE_DISK_BYTES else ""
    return _judged(f"disk of {name}", f"{bytes_text(free)} free at {folder}", advice)


def _package_lines() -> Iterator[Line]:
    """Python and the packages against what this program asks for."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield Line(level="warn", name="packages", found=f"{DISTRIBUTION} is not installed here: pip install -e .")
        return
    required, version = metadata["Requires-Python"], platform.python_version()
    advice = "" if version in SpecifierSet(required or "") else f"needs {required}"
    yield _judged("python", f"{version} at {sys.executable}", advice, "bad")
    requirements = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or []]
    needed = [requirement for requirement in requirements if not requirement.marker or requirement.marker.evaluate()]
    complaints = [complaint for complaint in map(_wrong_version, needed) if complaint]
    versions = "; ".join(complaints) or f"{len(requirements)} in the versions asked for"
    yield _judged("packages", versions, "pip install -e . again" if complaints else "", "bad")


def _wrong_version(requirement: Requirement) -> str:
    """What is wrong with an installed package; empty where nothing is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _torch_line(torch: Any, problem: str) -> Line:
    """What TORCH_PROBE printed, or why it printed nothing."""
    if torch is None:
        return Line(level="bad", name="torch", found=f"cannot be imported ({problem}): pip install -e . again")
    device = ", ".join(torch["gpus"]) or "CPU"
    text = f"{torch['version']} on {device}, bf16 {'works' if torch['bf16'] else 'does not work: use precision fp32'}"
    if not torch["gpus"] and shutil.which("nvidia-smi"):
        advice = "there is an NVIDIA driver, and torch sees no GPU: install torch's CUDA build"
        return Line(level="warn", name="torch", found=f"{text}; {advice}")
    return Line(level="ok" if torch["bf16"] else "warn", name="torch", found=text)


def _presets_here_line(gpus: list[str]) -> Line:
    """Which of the shipped studies this machine can train, and what the others want."""
    paper = f"paper, the default, needs FineWeb-Edu and up to {PAPER_GIGABYTES} GB of GPU memory"
    if gpus:
        return Line(
            level="ok", name="presets", found=f"gpu and cpu can run here; {paper}", next=("isoflop", "--preset", "gpu")
        )
    return Line(
        level="ok",
        name="presets",
        found=f"cpu can run here; gpu needs a GPU; {paper}: train those on a Ray cluster",
        next=("isoflop", "--preset", "cpu"),
    )


def _compiler_line() -> Line:
    compiler = os.environ.get("CXX") or "g++"
    path = shutil.which(compiler)
    if path:
        return Line(level="ok", name="compiler", found=path)
    return Line(
        level="warn", name="compiler", found=f"no {compiler}: sweeps with compile = true need one; others do not"
    )


def _ray_line() -> Line:
    started = time.monotonic()
    answer, problem = _probe(RAY_PROBE)
    if answer is None:
        return Line(level="bad", name="ray", found=f"does not start ({problem}): the in-process executor needs none")
    return Line(level="ok", name="ray", found=f"started and ended in {time.monotonic() - started:.0f} s")


def _tracking_line(store: Store) -> Line:
    uri = os.environ.get(VARIABLE, "")
    try:
        check_uri(uri)
        uri = tracking_uri(store, last_sweep_name(store))
    except NoSuchSweep:
        pass
    except TrackingUriError as error:
        return Line(level="bad", name="mlflow", found=str(error))
    try:
        check_answers(uri)
    except TrackingServerUnreachable as error:
        return Line(level="warn", name="mlflow", found=f"{error}; training goes on without it")
    return Line(level="ok", name="mlflow", found=public_uri(uri) or "an SQLite file in each sweep's folder")


def _data_lines(store: Store) -> Iterator[Line]:
    """The snapshot of the sweep used last; without a sweep, every prepared one."""
    try:
        folders = [data_folder(store, last_sweep_name(store))]
    except NoSuchSweep:
        folders = sorted(path.parent for path in (cache_folder() / "tokens").glob(f"*/{MANIFEST}"))
    except StoreError as error:
        yield Line(level="bad", name="data", found=str(error))
        return
    if not folders:
        yield Line(level="ok", name="data", found="none prepared yet: the first sweep does it")
    for folder in folders:
        yield _snapshot_line(folder)


def _snapshot_line(folder: Path) -> Line:
    try:
        manifest = read_manifest(folder)
        shards = [entry for split in SPLITS for entry in manifest["splits"][split]["shards"]]
        wrong = [entry["file"] for entry in shards if file_sha256(folder / entry["file"]) != entry["sha256"]]
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        says_what_helps = isinstance(error, DataError) and error.fix is not None
        advice = "" if says_what_helps else ": run `mor-sweep data prepare`"
        return Line(level="bad", name="data", found=f"{error}{advice}")
    if wrong:
        return Line(
            level="bad", name="data", found=f"{folder / wrong[0]} was changed: delete it and run `data prepare`"
        )
    tokens = sum(entry["tokens"] for entry in shards)
    return Line(level="ok", name="data", found=f"{manifest['name']}, {tokens:,} tokens verified in {folder}")


def _probe(code: str) -> tuple[Any, str]:
    """What a process of its own printed as JSON, or None and the last line of its complaint."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PROBE_SECONDS:g} s"
    try:
        return json.loads(done.stdout.strip().splitlines()[-1]), ""
    except (IndexError, ValueError):
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
