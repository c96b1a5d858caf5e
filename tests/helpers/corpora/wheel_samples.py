"""Wheels made by hand, a folder of them that pip takes for its index, and the list that pins them."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.corpora.data_samples import module, write


def wheel(folder: Path, package: str, files: Mapping[str, str], links: Mapping[str, str] | None = None) -> Path:
    """A wheel of version 1.0; `links` are entries that say they are symbolic links, with where they lead."""
    path = folder / f"{package}-1.0-py3-none-any.whl"
    about = f"{package}-1.0.dist-info"
    described = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, **described}.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # ZipInfo: the same time stamp in every archive
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, target)
    return path


def index_of_wheels(folder: Path, packages: int = 30) -> list[Path]:
    """A folder of small wheels, of four modules each."""
    seeds = {f"wheel{number}": range(100 * number, 100 * number + 4) for number in range(packages)}
    return [
        wheel(folder, package, {f"{package}/m{seed}.py": module(seed) for seed in of_package})
        for package, of_package in seeds.items()
    ]


def list_of(wheels: list[Path], path: Path) -> Path:
    """The list that pins `wheels`."""
    pins = [
        f"{file.name.partition('-')[0]}==1.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in wheels
    ]
    return write(path, "# wheels made by hand\n" + "".join(pins))
