"""The README promises nothing that the tool does not have."""

import re

import pytest

from tests.helpers.command_line import run
from tests.helpers.paths import ROOT


def commands_in_the_readme() -> set[tuple[str, ...]]:
    """Verbs and sub-verbs of every `mor-sweep` line, without their arguments."""
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"(?:^    |`)mor-sweep((?: [a-z]+)+)", text, re.MULTILINE)
    return {tuple(line.split()) for line in lines}


@pytest.mark.parametrize("command", sorted(commands_in_the_readme()), ids=" ".join)
def test_every_command_of_the_readme_answers_to_help(command: tuple[str, ...]):
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "bench/README.md",
        "docs/launching.md",
        "docs/mlflow.md",
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


def test_every_file_named_in_the_tree_exists():
    tree = re.search(r"## The tree\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
