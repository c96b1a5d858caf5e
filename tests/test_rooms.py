"""The check that keeps folders, modules, functions and calls small enough to be looked over."""

import re
import subprocess
import sys
from collections.abc import Callable
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


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("mor_core/long.py", lambda more: "x = 1\n" * (400 + more), "mor_core/long.py has 401 lines, at most 400"),
        (
            "bench/slow.py",
            lambda more: "def main():\n" + "    x = 1\n" * (59 + more),
            "bench/slow.py:1 main has 61 lines, at most 60",
        ),
        (
            "analysis/law.py",
            lambda more: "class Law:\n" + "    x = 1\n" * (249 + more),
            "analysis/law.py:1 Law has 251 lines, at most 250",
        ),
        (
            "docs/page.py",
            lambda more: "class Page:\n    def show(self, a, b, c, d, e, f, *, g" + ", h" + ", i" * more + "): ...\n",
            "docs/page.py:2 show takes 9 parameters, at most 8",
        ),
    ],
    ids=["module", "function", "class", "parameters"],
)
def test_what_is_one_line_or_parameter_too_large_is_named(
    tmp_path: Path, path: str, text: Callable[[int], str], sentence: str, more: int
) -> None:
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(text(more))
    checked = subprocess.run([sys.executable, ROOT / ".ci" / "rooms", tmp_path], capture_output=True, text=True)
    assert (checked.returncode, sentence in checked.stderr) == ((1, True) if more else (0, False))


def test_a_verb_may_have_more_flags_and_its_helpers_no_more_parameters(tmp_path: Path) -> None:
    (tmp_path / "orchestrator" / "cli").mkdir(parents=True)
    text = "".join(f"def {name}(a, b, c, d, e, f, g, h, i): ...\n" for name in ("verb", "_helper"))
    (tmp_path / "orchestrator" / "cli" / "verbs.py").write_text(text)
    checked = subprocess.run([sys.executable, ROOT / ".ci" / "rooms", tmp_path], capture_output=True, text=True)
    assert checked.stderr == "orchestrator/cli/verbs.py:2 _helper takes 9 parameters, at most 8 are wanted\n"


@pytest.mark.parametrize("package", ["mor_core", "analysis", "orchestrator"])
def test_the_tables_for_contributors_name_the_rooms_that_there_are(package: str) -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition(f"**{package}** (")[2].split("\n\n")[1]
    named = [room.strip("/") for row in table.splitlines()[2:] for room in re.findall(r"`(\w+/?)`", row.split("|")[1])]
    folders = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
    modules = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(folders + modules)
