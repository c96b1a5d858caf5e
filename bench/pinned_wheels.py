"""Renew the list of wheels behind the corpus `pinned-python`: the newest wheel of Python alone of each package.

    python -m bench.pinned_wheels EDITION [PACKAGE ...]

Without packages, those of the present list. Another list or another edition is another corpus. A package whose metadata
name no permissive licence is refused.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

from mor_core.data.text.pinned_python import ANY_MACHINE, LIST, PinnedWheel, pinned_wheels
from mor_core.files import file_sha256

PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|ISC)\b")
OTHER = re.compile(r"GPL|GNU|MPL|Mozilla|Commercial|Proprietary")

HEADER = """\
# The wheels whose Python files are the corpus pinned-python, as pip requirements. Edition {edition}.
# Made by `python -m bench.pinned_wheels`: the newest wheels for any platform, permissively licensed by their metadata.
"""


def pinned(path: Path) -> PinnedWheel:
    """The line of the list for a wheel. Raises SystemExit where its metadata name no permissive licence."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = BytesParser().parsebytes(archive.read(name), headersonly=True)
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    fields = [str(metadata.get(field, "")).strip().partition("\n")[0] for field in ("License-Expression", "License")]
    licence = ", ".join(filter(None, [*fields, *classifiers]))
    if not PERMISSIVE.search(licence) or OTHER.search(licence):
        raise SystemExit(f"{path.name}: the licence is {licence!r}, expected MIT, BSD, Apache, PSF or ISC")
    package = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    return PinnedWheel(package=package, version=metadata["Version"], sha256=file_sha256(path))


def main(edition: str, *packages: str) -> None:
    names = packages or tuple(pin.package for pin in pinned_wheels())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", *ANY_MACHINE]
        subprocess.run([*command, "-d", folder, *names], check=True)
        pins = sorted((pinned(path) for path in Path(folder).glob("*.whl")), key=lambda pin: pin.package)
    lines = "".join(f"{pin.requirement}\n" for pin in pins)
    LIST.write_text(HEADER.format(edition=int(edition)) + lines, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
