"""Documents promise nothing that the tool does not have, and the reference holds all that it has."""

import re

import pytest

from docs.make_reference import PAGES
from orchestrator.planning.spec.schema import sweep_schema
from tests.helpers.command_line import run
from tests.helpers.paths import ROOT
from tests.helpers.toy_sweep import SCIENCE
from tests.helpers.verbs import VERBS


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
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
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
    made = {(ROOT / "docs" / "reference" / name).resolve() for name in PAGES}
    targets = {link: (folder / link).resolve() for link in links if "://" not in link}
    missing = [link for link, target in targets.items() if not target.exists() and target not in made]
    assert not missing


def test_the_reference_has_every_verb_with_every_option():
    page = PAGES["verbs.md"]()
    for verb, command in VERBS.items():
        section = page.partition(f"\n### {verb}\n")[2].partition("\n### ")[0]
        assert section, verb
        assert command.help.split()[0] in section
        for parameter in command.params:
            assert all(name in section for name in parameter.opts if name.startswith("--")), (verb, parameter.name)


def test_the_reference_has_every_key_of_a_sweep_file_and_no_link_in_it_is_dead():
    page, schema = PAGES["sweep_file.md"](), sweep_schema()
    for section in (schema, *schema["$defs"].values()):
        for key in section.get("properties", {}):
            assert f"| `{key}` |" in page
    assert set(re.findall(r"\(#(\w+)\)", page)) == set(re.findall(r"\{#(\w+)\}", page))


def test_the_reference_has_every_column_of_the_run_table():
    page = PAGES["results.md"]()
    for column in SCIENCE:
        assert f"`{column}`" in page


def test_every_page_of_the_navigation_is_there_or_made():
    pages = re.findall(r"- ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(pages) > 15
    assert [page for page in pages if not (ROOT / "docs" / page).exists()] == [f"reference/{name}" for name in PAGES]


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
