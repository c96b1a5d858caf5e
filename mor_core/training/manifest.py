"""The manifest of a checkpoint folder, and the check that its files are still the bytes it lists. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path

from mor_core.files import file_sha256, is_plain_name, read_json_object

SCHEMA = "mor-sweep.checkpoint/1"
MANIFEST, WEIGHTS, OPTIMIZER = "manifest.json", "weights.safetensors", "optimizer.safetensors"


class CheckpointError(Exception):
    """A checkpoint that is missing, torn, altered or of another shape; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a verified checkpoint holds."""

    step: int
    """Optimiser steps taken."""
    files: dict[str, str]
    """File name -> sha256 of its bytes."""


def verify_checkpoint(folder: Path) -> Manifest:
    """Read the manifest and compare every file with its sha256. Raises CheckpointError."""
    try:
        data = read_json_object(folder / MANIFEST)
        manifest = Manifest(step=int(data["step"]), files=dict(data["files"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: not a readable manifest ({error})") from error
    if data.get("schema") != SCHEMA:
        raise CheckpointError(f"{folder / MANIFEST}: schema {data.get('schema')!r}, expected {SCHEMA!r}")
    for name, expected in manifest.files.items():
        if not is_plain_name(name):
            raise CheckpointError(f"{folder / MANIFEST}: {name!r} is not a plain file name")
        if (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name}: a link; a checkpoint holds its own files only")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing")
        if file_sha256(folder / name) != expected:
            raise CheckpointError(f"{folder / name}: its sha256 is not the manifest's; the file was changed or torn")
    return manifest
