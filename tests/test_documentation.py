"""The README and the pages of docs/ promise nothing that the tool does not have."""

import fcntl
import re
import tomllib
from pathlib import Path

import pytest

from docs import shown_commands
from docs.make_reference import REFERENCE
from docs.shown_commands import (
    KINDS,
    Fence,
    copy_room,
    fences,
    is_as_shown,
    navigation,
    pages,
    problems,
    rewrite,
    table_room,
    train_eight_cells,
)
from docs.site_hooks import outside
from orchestrator.cli.options import DOCUMENTS
from orchestrator.planning.spec.schema import sweep_schema
from tests.helpers.paths import ROOT
from tests.helpers.toy_sweep import SCIENCE
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


def test_the_json_documents_of_the_page_on_scripts_are_those_that_there_are():
    text = (ROOT / "docs" / "guides" / "scripts.md").read_text()
    shown = re.findall(r"`(mor-sweep\.[\w-]+/\d+)`", text)
    assert sorted(shown) == sorted(DOCUMENTS)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_is_a_verb_with_these_options(page: str):
    for command in commands_shown(page):
        words = command.partition(" | ")[0].split()
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
    made = {(ROOT / "docs" / "reference" / name).resolve() for name in REFERENCE}
    targets = {link: (folder / link).resolve() for link in links if "://" not in link}
    missing = [link for link, target in targets.items() if not target.exists() and target not in made]
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


def test_the_reference_has_every_verb_with_every_option():
    page = REFERENCE["verbs.md"]()
    for verb, command in VERBS.items():
        section = page.partition(f"\n### {verb}\n")[2].partition("\n### ")[0]
        assert section, verb
        assert command.help.split()[0] in section
        for parameter in (option for option in command.params if not getattr(option, "hidden", False)):
            assert all(name in section for name in parameter.opts if name.startswith("--")), (verb, parameter.name)


def test_the_reference_has_every_key_of_a_sweep_file_and_no_link_in_it_is_dead():
    page, schema = REFERENCE["sweep_file.md"](), sweep_schema()
    for section in (schema, *schema["$defs"].values()):
        for key in section.get("properties", {}):
            assert f"| `{key}` |" in page
    assert set(re.findall(r"\(#(\w+)\)", page)) == set(re.findall(r"\{#(\w+)\}", page))


def test_the_reference_has_every_column_of_the_run_table():
    page = REFERENCE["results.md"]()
    for column in SCIENCE:
        assert f"`{column}`" in page


def test_every_page_of_the_navigation_is_there_or_made():
    pages = navigation()
    assert len(pages) > 15
    assert [page for page in pages if not (ROOT / "docs" / page).exists()] == [
        f"reference/{name}" for name in REFERENCE
    ]


@pytest.mark.parametrize(
    ("page", "target", "path"),
    [
        ("index.md", "../results/README.md", "results/README.md"),
        ("guides/fit.md", "../../mor_core/config/sizes.py", "mor_core/config/sizes.py"),
        ("guides/fit.md", "../concepts/trunks.md", None),
        ("guides/fit.md", "../../no/such/file.md", None),
        ("guides/fit.md", "../../../elsewhere", None),
        ("index.md", "https://mlflow.org", None),
    ],
)
def test_a_link_out_of_the_pages_is_told_from_one_within_and_from_a_dead_one(page: str, target: str, path: str | None):
    assert outside(page, target) == path


FENCES = [fence for page in pages() for fence in fences(page)]


def of_kind(kind: str) -> list[Fence]:
    return [fence for fence in FENCES if fence.kind == kind]


@pytest.fixture(scope="session")
def eight_cells(shared: Path) -> Path:
    """The sweep that shown commands are run on, trained once for all processes that share the tests."""
    room = shared / "eight-cells"
    with (shared / "eight-cells.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return room if room.exists() else train_eight_cells(shared / "eight-cells-in-training").rename(room)


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.name)
def test_every_fence_with_commands_says_how_they_are_tried(fence: Fence):
    """CONTRIBUTING.md, "Documents", says which mark is for what."""
    marks = ", ".join(f"<!-- run: {kind} -->" for kind in KINDS)
    assert fence.kind in KINDS, f"{fence.name}: the line above its fence is none of {marks}"
    assert (fence.kind == "no") == bool(fence.reason), f"{fence.name}: what is not run says why, and nothing else does"


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "README.md"], ids=lambda page: page.name)
def test_commands_of_a_page_stand_in_fences(page: Path):
    """Lines that are set in cannot be marked."""
    set_in = re.findall(r"^ {4}(?:\$ )?(?:mor-sweep|make) .*$", page.read_text(), re.MULTILINE)
    assert [line for line in set_in if not any(line.strip() in fence.lines for fence in fences(page))] == []


def test_commands_on_a_run_table_take_a_minute_in_all():
    """A fit of the published table takes five processor seconds."""
    assert sum(len(fence.commands) for fence in of_kind("table")) <= 12


@pytest.mark.parametrize("fence", of_kind("table"), ids=lambda fence: fence.name)
def test_a_command_on_a_run_table_prints_what_the_page_shows(fence: Fence, tmp_path: Path):
    """Where this fails: make docs-output FENCES=table."""
    assert not problems(fence, table_room(tmp_path / "study")), fence.name


@pytest.mark.parametrize("fence", of_kind("sweep"), ids=lambda fence: fence.name)
def test_a_command_on_a_sweep_prints_lines_of_the_shape_that_the_page_shows(
    fence: Fence, eight_cells: Path, tmp_path: Path
):
    """Where this fails: make docs-output FENCES=sweep."""
    assert not problems(fence, copy_room(eight_cells, tmp_path / "study")), fence.name


def a_page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


PAGE = """# A page
<!-- run: table -->
```console
$ printf 'one\\ntwo\\nthree\\n'
one
...
three
$ printf '%s ' \\
    four
```

  <!-- run: no, it needs a cluster -->
  ```bash
  ray start --head
  ```

````markdown
<!-- run: table -->
```console
$ mor-sweep shown-as-an-example
```
````

```toml
name = "no command"
```
"""


def test_a_fence_is_found_with_its_mark_its_commands_and_their_output(tmp_path: Path):
    shown, script = fences(a_page(tmp_path, PAGE))
    assert [(command.text, command.output) for command in shown.commands] == [
        ("printf 'one\\ntwo\\nthree\\n'", ("one", "...", "three")),
        ("printf '%s ' \\\n    four", ()),
    ]
    assert (script.kind, script.reason) == ("no", "it needs a cluster")
    assert [command.text for command in script.commands] == ["ray start --head"]


def test_a_fence_that_shows_what_is_printed_is_right_and_another_line_or_exit_code_is_named(tmp_path: Path):
    (right, _) = fences(a_page(tmp_path, PAGE))
    assert problems(right, tmp_path) == []
    (wrong, _) = fences(a_page(tmp_path, PAGE.replace("\nthree\n", "\nfour\n")))
    (sentence, *output) = problems(wrong, tmp_path)
    assert sentence.endswith("prints something else than the page shows:")
    assert output == ["one", "two", "three"]
    (left, _) = fences(
        a_page(
            tmp_path,
            PAGE.replace(
                "run: table -->\n```console\n$ printf 'one", "run: table, exit 5 -->\n```console\n$ printf 'one"
            ),
        )
    )
    assert "ended with exit code 0, expected 5" in problems(left, tmp_path)[0]


def test_a_script_ends_with_its_first_command_that_fails_and_what_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (script,) = fences(a_page(tmp_path, "<!-- run: table -->\n```bash\nfalse\necho on\n```\n"))
    assert problems(script, tmp_path) == ["false\necho on\nended with exit code 1, expected 0:"]
    monkeypatch.setattr(shown_commands, "LONGEST_SECONDS", 1)
    (endless,) = fences(a_page(tmp_path, "<!-- run: table -->\n```bash\nsleep 1000 | cat\n```\n"))
    assert problems(endless, tmp_path)[1] == "it did not end within 1 seconds"


def test_what_commands_print_is_written_into_the_page_and_nothing_else_is_touched(tmp_path: Path):
    page = a_page(tmp_path, PAGE.replace("\none\n", "\n1\n").replace("\nthree\n", "\n3\n"))
    rewrite(fences(page)[0], tmp_path)
    assert page.read_text() == PAGE


def test_what_somebody_writes_into_a_page_while_its_commands_run_stays(tmp_path: Path):
    fence = "<!-- run: table -->\n```console\n$ {edit} page.md; echo new\nold\n```\n"
    page = a_page(tmp_path, fence.format(edit="echo below >>"))
    rewrite(fences(page)[0], tmp_path)
    assert page.read_text() == fence.format(edit="echo below >>").replace("old", "new") + "below\n"
    page = a_page(tmp_path, fence.format(edit="sed -i '1i above'"))
    with pytest.raises(SystemExit, match="edited or moved while its commands ran"):
        rewrite(fences(page)[0], tmp_path)
    assert page.read_text() == "above\n" + fence.format(edit="sed -i '1i above'")


def test_the_shape_of_a_line_is_its_words_and_not_its_numbers():
    shown = ["vanilla  5.5k  loss 0.6806 [0.61, 0.72]  4 seconds", "..."]
    assert is_as_shown(shown, ["vanilla 10k loss 1.2 [≤ 0.6, 7.21] 1.2 minutes"], by_shape=True)
    assert is_as_shown(shown, ["vanilla 10k loss 1.2 [0.6, 7.21] 3 seconds", "and more"], by_shape=True)
    assert not is_as_shown(shown, ["mor-2 10k loss 1.2 [0.6, 7.21] 3 seconds"], by_shape=True)
    assert not is_as_shown(shown, ["vanilla 10k loss 1.2 [0.6, 7.21] 3 seconds"], by_shape=False)
