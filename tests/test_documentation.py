"""The README and the pages of docs/ promise nothing that the tool does not have."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.verbs import VERBS

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
"""What a user reads."""


def commands_shown(page: str) -> list[str]:
    """What follows `mor-sweep` in the page's code, up to a comment."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    fences = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^ *(?:\$ )?mor-sweep ([^#\n]+)", fences, re.MULTILINE)
    indented = re.findall(r"^ {4,}mor-sweep ([^#\n]+)", text, re.MULTILINE)
    inline = re.findall(r"`mor-sweep ([^`]+)`", text)
    return [*lines, *indented, *inline]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_is_a_verb_with_these_options(page: str):
    for command in commands_shown(page):
        words = command.split()
        if words[0].startswith("-"):
            continue  # Of `mor-sweep` itself.
        verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
        assert verb in VERBS, command
        known = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, command


def test_every_verb_is_shown_in_a_page():
    shown = [command for page in PAGES for command in commands_shown(page)]
    assert [verb for verb in VERBS if not any(f"{command} ".startswith(f"{verb} ") for command in shown)] == []


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        "CONTRIBUTING.md",
        "bench/README.md",
        "results/README.md",
        "results/published/ablation_kv_cpu/README.md",
        "results/published/backtest/README.md",
        "results/published/cpu_demo/README.md",
        "results/published/paper/README.md",
        "results/published/coverage/README.md",
    ],
)
def test_every_local_link_leads_somewhere(page: str):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (folder / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_into_a_page_meets_a_heading(page: str):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]*\.md|)#([^)]+)\)", (ROOT / page).read_text())
    dead = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors(folder / target if target else ROOT / page)
    ]
    assert not dead


def test_the_readme_can_be_read_in_minutes():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1300


def test_the_citation_is_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"{{{version}}}" in (ROOT / "README.md").read_text()


def test_every_file_named_in_the_tree_exists():
    tree = re.search(r"## The tree\n```\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert tree is not None
    folder = ROOT
    for line in tree[1].splitlines():
        if not line.startswith(" "):
            folder = ROOT / line.split()[0]
        inner = folder
        for name in re.findall(r"[\w/]+(?:\.py|\.md|\.toml|/)", line):
            path = ROOT / name if (ROOT / name).exists() else inner / name
            assert path.exists(), f"{name} of the line {line!r}"
            inner = path if name.endswith("/") else inner
