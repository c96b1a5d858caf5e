"""The sizes and costs of a user's own models. A child process answers; answers are kept while the code is the same.

    <cache>/own_models/<sha256 of the question>.json    the answer, and the code that it is an answer of

This side imports no code of the user's and no torch. A sweep that was not written here, but read from a results folder,
asks nothing: it has what was answered before, so that a bundle cannot make this program run code.
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mor_core.config.own_model import OwnModel
from mor_core.config.training import NUMERICS_VERSION
from mor_core.data.spec import cache_folder
from mor_core.files import write_json
from mor_core.model.own.code import CodeFingerprint, OwnImportError, OwnModelError, fingerprint, may_import, module_file
from orchestrator.planning.canonical import content_id, from_jsonable

SCHEMA = "mor-sweep.own-model/2"

TIMEOUT_SECONDS = 600.0
"""For one model, all its sizes and the check included."""


@dataclass(frozen=True, kw_only=True)
class OwnLadder:
    """What an own model's object answered."""

    models: tuple[OwnModel, ...]
    """Its sizes, smallest first."""
    warnings: tuple[str, ...]
    """What a reader of its numbers should know."""
    code: CodeFingerprint
    """What its losses depend on beside its settings, as it is now."""
    files: tuple[Path, ...] = ()
    """That its object names, absolute."""


def own_ladder(model: str, vocab_size: int, context_length: int) -> OwnLadder:
    """The ladder of the object at `model` ("package.module:object").

    Raises OwnImportError where its import fails, OwnModelError where it is wrong in another way.
    """
    file = module_file(model)
    return _ladder(model, file, vocab_size, context_length, file.stat().st_mtime_ns)


def remembered_ladder(model: str, vocab_size: int, context_length: int) -> OwnLadder | None:
    """The ladder as it was answered on this machine; None where it was not, or the code has changed since. It runs no
    code of the user's."""
    try:
        file = module_file(model)
    except OwnModelError:
        return None
    return _remembered(_cache_file(_request(model, vocab_size, context_length), file), file)


def _request(model: str, vocab_size: int, context_length: int) -> dict[str, Any]:
    return {"model": model, "vocab_size": vocab_size, "context_length": context_length}


@lru_cache(maxsize=64)
def _ladder(model: str, file: Path, vocab_size: int, context_length: int, _changed_at: int) -> OwnLadder:
    """Once per process, unless the module's file is written anew."""
    request = _request(model, vocab_size, context_length)
    path = _cache_file(request, file)
    if (ladder := _remembered(path, file)) is not None:
        return ladder
    if not may_import(model):
        raise OwnModelError(
            f"model {model}: its code is not run for a sweep that was read from a results folder: give the sweep file "
            "(TOML) that names it"
        )
    reply = _asked(model, request)
    if reply["problems"]:
        raise (OwnImportError if reply["import_failed"] else OwnModelError)("\n".join(reply["problems"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, **reply})
    return _ladder_of(reply)


def _cache_file(request: Mapping[str, Any], file: Path) -> Path:
    question = {
        **request,
        "file": str(file),
        "torch": importlib.metadata.version("torch"),
        "numerics_version": NUMERICS_VERSION,
    }
    return cache_folder() / "own_models" / f"{content_id(question)[:32]}.json"


def _remembered(path: Path, file: Path) -> OwnLadder | None:
    """What was answered before, where the code is still that; a file that cannot be read counts as none."""
    try:
        reply = json.loads(path.read_text())
        if reply["schema"] != SCHEMA:
            return None
        ladder = _ladder_of(reply)
        now = fingerprint(file, [Path(name) for name in reply["files"]], ladder.code.versions)
    except (OSError, ValueError, KeyError, TypeError, OwnModelError):
        return None
    return ladder if now == ladder.code else None


def _ladder_of(reply: Mapping[str, Any]) -> OwnLadder:
    return OwnLadder(
        models=tuple(from_jsonable(OwnModel, model) for model in reply["models"]),
        warnings=tuple(reply["warnings"]),
        code=CodeFingerprint(sha256=reply["sha256"], versions=dict(reply["versions"])),
        files=tuple(Path(name) for name in reply["files"]),
    )


def _asked(model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own. Raises OwnModelError where it ends without one."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.planning.own_models.answer"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OwnModelError(
            f"model {model}: no answer within {TIMEOUT_SECONDS:g} s: leave out its largest sizes"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise OwnModelError(f"model {model}: its process ended with {ended} ({last:.200})")
    return json.loads(done.stdout.strip().splitlines()[-1])
