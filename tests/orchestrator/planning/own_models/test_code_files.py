"""What goes to other machines of an own model's code: what it imports and names, and nothing that lies beside it."""

import sys
from pathlib import Path

import pytest

from mor_core.model.own.code import OwnModelError
from orchestrator.planning.own_models import code_files as shipping
from orchestrator.planning.own_models.code_files import code_files
from tests.helpers.paths import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a module, one that it imports, a package, and much that no model needs."""
    write(tmp_path, "mine.py", "import torch\nimport parts\nfrom package.layers import nothing\n")
    write(tmp_path, "parts.py", "import json\n")
    write(tmp_path, "unused.py", "")
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/layers.py", "from . import shapes\n")
    write(tmp_path, "package/shapes.py", "")
    write(tmp_path, "package/table.json", "[]")
    write(tmp_path, "package/.venv/lib/module.py", "")
    write(tmp_path, "package/__pycache__/old.py", "")
    write(tmp_path, ".gitignore", "parts.py\n")
    write(tmp_path, "results/segments/a/result.json", "{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_module_comes_with_what_it_imports_beside_it_and_no_data(folder: Path) -> None:
    files = code_files({"mine:ladder": ()})
    package = {"package/__init__.py", "package/layers.py", "package/shapes.py"}
    assert files.keys() == {"mine.py", "parts.py", *package}
    assert all(file.samefile(folder / name) for name, file in files.items())


def test_a_package_comes_whole_and_alone(folder: Path) -> None:
    write(folder, "package/models/own.py", "import unused\n")
    assert code_files({"package.models.own:ladder": ()}).keys() == {
        "package/__init__.py",
        "package/layers.py",
        "package/shapes.py",
        "package/models/own.py",
        "unused.py",
    }
    assert "package/__init__.py" in code_files({"package:ladder": ()})


def test_files_that_an_object_names_keep_their_place_beside_its_module(folder: Path) -> None:
    table = (folder / "package" / "table.json").resolve()
    assert code_files({"package.layers:ladder": [table]})["package/table.json"] == table


def test_a_named_file_elsewhere_is_refused_with_what_to_do(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = write(tmp_path_factory.mktemp("elsewhere"), "table.json", "[]")
    with pytest.raises(OwnModelError, match="move it there, or choose the executor in-process"):
        code_files({"mine:ladder": [elsewhere]})


def test_more_than_ray_takes_is_refused_and_names_the_largest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(folder, "table.json", "x" * 5000)
    monkeypatch.setattr(shipping, "MOST_BYTES", 4000)
    with pytest.raises(OwnModelError, match=r"table\.json alone 5 kB: Ray ships at most 4 kB"):
        code_files({"mine:ladder": [table]})


def test_installed_packages_and_this_program_stay_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "site-packages/theirs.py", "")
    monkeypatch.setattr(sys, "path", [str(folder / "site-packages"), *sys.path])
    assert code_files({"theirs:ladder": ()}) == {}
    monkeypatch.chdir(ROOT)
    files = code_files({"examples.ngram_mlp:ngram": ()})
    assert files.keys() == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    own = code_files({"tests.helpers.own_models:right": ()})
    assert not {name.partition("/")[0] for name in own} & {"mor_core", "orchestrator", "analysis"}


def test_what_is_no_python_is_shipped_unread(folder: Path) -> None:
    write(folder, "parts.py", "print 'of another age'\n")
    assert "parts.py" in code_files({"mine:ladder": ()})
