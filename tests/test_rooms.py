"""The check that keeps every folder of the packages small enough to be looked over."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.parametrize("rooms", [10, 11])
def test_a_folder_with_an_eleventh_room_is_named_with_what_it_holds(tmp_path: Path, rooms: int) -> None:
    folder = tmp_path / "analysis" / "surface"
    for name in ("analysis", "analysis/surface", "analysis/surface/laws", "mor_core", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for number in range(rooms - 1):  # The folder laws is one of them.
        (folder / f"module_{number}.py").touch()
    checked = subprocess.run([sys.executable, ROOT / ".ci" / "rooms", tmp_path], capture_output=True, text=True)
    assert checked.returncode == (1 if rooms == 11 else 0)
    assert ("analysis/surface/ holds 11 rooms, at most 10 are wanted: laws, module_0" in checked.stderr) == (
        rooms == 11
    )


@pytest.mark.parametrize("package", ["mor_core", "analysis", "orchestrator"])
def test_the_tables_for_contributors_name_the_rooms_that_there_are(package: str) -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition(f"**{package}** (")[2].split("\n\n")[1]
    named = [room.strip("/") for row in table.splitlines()[2:] for room in re.findall(r"`(\w+/?)`", row.split("|")[1])]
    folders = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
    modules = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(folders + modules)
