"""The commands that pages show: found by their marks, run, compared with what is shown, and written into the pages.

.venv/bin/python -m docs.shown_commands table          # run these and write their output into the pages
.venv/bin/python -m docs.shown_commands demo --results results docs/quickstart.md

A fence is marked by a comment above it, which neither the site nor a repository's page shows:

    <!-- run: table -->
    ```console
    $ mor-sweep fit --table runs.csv | head -2
    ...
    ```

CONTRIBUTING.md says what the marks mean. A fence in `console` holds commands after "$ ", each with its output, one in
`bash` is a script whose output is not shown.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("table", "sweep", "demo", "no")
MARK = re.compile(r"\s*<!-- run: (?P<kind>\w+)(?:, (?:exit (?P<code>\d+)|(?P<reason>.+)))? -->\s*")
FENCE = re.compile(r"(?P<indent>\s*)(?P<ticks>```+)(?P<language>[\w-]*)")
SHELLS = ("console", "bash", "sh", "shell")
PLAIN = ("", "text")
"""Of fences that may hold commands, or anything else."""
LEFT_OUT = "..."
COLUMNS = 80
"""Of the window that pages show: what a reader's terminal has at least."""

LONGEST_SECONDS = 250
"""Of one command, which is less than a test may take; what goes on for ever, as `ui` does, is no command to mark."""
TOO_LONG = 124

EIGHT_CELLS = ROOT / "tests" / "fixtures" / "eight.toml"
RUN_TABLE = ROOT / "results" / "published" / "cpu_demo" / "runs.csv"
SOMEWHERE = "/home/me/study"
"""What an absolute path of the folder in which a command ran is shown as."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a fence."""

    text: str
    """As it is typed, its continued lines included."""
    output: tuple[str, ...]
    """The lines shown below it; empty where only its exit code matters."""


@dataclass(frozen=True, kw_only=True)
class Fence:
    """One fence with commands."""

    page: Path
    """The file."""
    first: int
    """Index of its first line between the ticks."""
    lines: tuple[str, ...]
    """What stands between the ticks, without the fence's indentation."""
    indent: str
    """What stands before each of its lines, as in a list."""
    language: str
    """What follows the ticks."""
    kind: str
    """By its mark: table, sweep, demo or no; empty where it has none."""
    code: int
    """The exit code of its last command."""
    reason: str
    """Why it is not run."""

    @property
    def name(self) -> str:
        """For messages, such as docs/quickstart.md:12."""
        page = self.page.relative_to(ROOT).as_posix() if self.page.is_relative_to(ROOT) else self.page.name
        return f"{page}:{self.first}"

    @property
    def commands(self) -> tuple[Command, ...]:
        """In their order."""
        if any(line.startswith("$ ") for line in self.lines):
            return tuple(_commands(self.lines))
        return (Command(text="\n".join(self.lines), output=()),)


def _commands(lines: Sequence[str]) -> Iterator[Command]:
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = start
        while lines[last].endswith("\\") and last + 1 < end:
            last += 1
        typed = "\n".join([lines[start].removeprefix("$ "), *lines[start + 1 : last + 1]])
        yield Command(text=typed, output=tuple(lines[last + 1 : end]))


def navigation() -> list[str]:
    """The pages that mkdocs.yml lists, as paths in docs/."""
    return re.findall(r"- (?:[\w ]+: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def pages() -> list[Path]:
    """Those whose commands are run: README.md and the navigation's; the reference is made of the code."""
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in navigation() if not name.startswith("reference/"))]


def fences(page: Path) -> list[Fence]:
    """The page's fences that hold commands, in their order."""
    lines = page.read_text().splitlines()
    page_fences, number = [], 0
    while number < len(lines):
        opening = FENCE.fullmatch(lines[number].rstrip())
        if opening is None:
            number += 1
            continue
        indent, ticks, language = opening["indent"], opening["ticks"], opening["language"]
        end = next((at for at in range(number + 1, len(lines)) if lines[at].strip() == ticks), len(lines))
        body = tuple(line.removeprefix(indent) for line in lines[number + 1 : end])
        mark = MARK.fullmatch(lines[number - 1]) if number else None
        typed = language in PLAIN and any(line.startswith(("$ ", "mor-sweep ")) for line in body)
        if mark or typed or language in SHELLS:
            page_fences.append(
                Fence(
                    page=page,
                    first=number + 1,
                    lines=body,
                    indent=indent,
                    language=language,
                    kind=mark["kind"] if mark else "",
                    code=int(mark["code"] or 0) if mark else 0,
                    reason=(mark["reason"] or "") if mark else "",
                )
            )
        number = end + 1
    return page_fences


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command gave."""

    command: Command
    """Which."""
    code: int
    """Its exit code."""
    output: tuple[str, ...]
    """What a reader sees, both streams in their order."""


def run(fence: Fence, room: Path) -> list[Ran]:
    """Its commands one after the other, by the shell, in a folder made for them."""
    return [_run(command, room) for command in fence.commands]


def _run(command: Command, room: Path) -> Ran:
    program = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": program,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(COLUMNS),
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    if (room / "cache").exists():
        environment["MOR_SWEEP_CACHE"] = str(room / "cache")
    code, printed = _of_shell(command.text, room, environment)
    lines = [line.rstrip() for line in printed.replace(str(room), SOMEWHERE).rstrip().splitlines()]
    return Ran(command=command, code=code, output=tuple(lines))


def _of_shell(text: str, room: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code, 124 after too long, and both streams. A script ends with its first command that fails."""
    shell = subprocess.Popen(
        ["bash", "-e", "-c", text],
        cwd=room,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(timeout=LONGEST_SECONDS)
        return shell.returncode, printed
    except subprocess.TimeoutExpired:
        return TOO_LONG, f"it did not end within {LONGEST_SECONDS} seconds"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # What it left running, or all of it where it took too long.


def problems(fence: Fence, room: Path) -> list[str]:
    """Run it; a sentence for each command that did not do as the page shows."""
    results = run(fence, room)
    codes = [0] * (len(results) - 1) + [fence.code]
    sentences = []
    for ran, code in zip(results, codes, strict=True):
        shown = ran.command.output
        if ran.code != code:
            sentences.append(f"{ran.command.text}\nended with exit code {ran.code}, expected {code}:")
        elif shown and not is_as_shown(shown, ran.output, by_shape=fence.kind != "table"):
            sentences.append(f"{ran.command.text}\nprints something else than the page shows:")
        else:
            continue
        sentences += ran.output
    return sentences


def is_as_shown(shown: Sequence[str], output: Sequence[str], *, by_shape: bool) -> bool:
    """Whether the output is what is shown; "..." stands for any lines. By shape, numbers may be others."""
    alike = shape if by_shape else str.rstrip
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == LEFT_OUT else re.escape(alike(line)) + r"\n" for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{alike(line)}\n" for line in output)) is not None


def shape(line: str) -> str:
    """The line with # for every number, identity and length of time, and one blank for many."""
    line = re.sub(r"\b[0-9a-f]{8,}\b", "#", line)
    line = re.sub(r"[≤≥<>~]? ?[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:[kMGBT]?B?|%)?(?![\w])", " #", line)
    line = re.sub(r"# (?:milliseconds?|seconds?|minutes?|hours?|m?s|[kMG]?B)\b", "#", line)
    line = re.sub(r"[─-╿\-]{2,}", "-", line)
    return re.sub(r"\s+", " ", line).strip()


def with_output(fence: Fence, results: Sequence[Ran]) -> list[str]:
    """The fence's lines with what its commands gave now. A command without a line below it stays without; where a line
    "..." stands, as many lines as are shown before and after it."""
    if not any(ran.command.output for ran in results):
        return list(fence.lines)
    return [
        line
        for ran in results
        for line in (*f"$ {ran.command.text}".splitlines(), *_excerpt(ran.command.output, ran.output))
    ]


def _excerpt(shown: Sequence[str], output: Sequence[str]) -> Sequence[str]:
    gaps = [number for number, line in enumerate(shown) if line.strip() == LEFT_OUT]
    if not shown or not gaps:
        return output if shown else ()
    before, after = gaps[0], len(shown) - gaps[0] - 1
    if len(gaps) > 1:
        raise SystemExit(f"{LEFT_OUT} stands more than once below a command: which lines are meant?")
    if before + after >= len(output):
        return output
    return (*output[:before], LEFT_OUT, *output[len(output) - after :])


def rewrite(fence: Fence, room: Path) -> None:
    """Run it and write the page anew. Ends with a sentence where a command fails otherwise than the mark says, or where
    the fence was edited or moved meanwhile. Other edits of the page stay.
    """
    results = run(fence, room)
    for ran, code in zip(results, [0] * (len(results) - 1) + [fence.code], strict=True):
        if ran.code != code:
            output = "\n".join(ran.output)
            raise SystemExit(f"{fence.name}: {ran.command.text}: exit code {ran.code}, expected {code}\n{output}")
    if fence not in fences(fence.page):
        raise SystemExit(f"{fence.name}: edited or moved while its commands ran: nothing was written, run it again")
    lines = fence.page.read_text().splitlines()
    written = [f"{fence.indent}{line}".rstrip() for line in with_output(fence, results)]
    lines[fence.first : fence.first + len(fence.lines)] = written
    fence.page.write_text("\n".join(lines) + "\n")


def table_room(room: Path) -> Path:
    """A folder for `table`: published results as in a checkout, and a run table of one's own, runs.csv."""
    (room / "results").mkdir(parents=True)
    (room / "results" / "published").symlink_to(ROOT / "results" / "published")
    shutil.copy(RUN_TABLE, room / "runs.csv")
    return room


def train_eight_cells(room: Path) -> Path:
    """A folder for `sweep`, once: the sweep `eight`, trained, with its file, its text and the tokens made of it."""
    table_room(room)
    (room / "cache").mkdir()
    shutil.copy(EIGHT_CELLS, room / "eight.toml")
    (room / "text.jsonl").symlink_to(ROOT / "tests" / "fixtures" / "first_study" / "text.jsonl")
    text = "mor-sweep isoflop --preset eight.toml --yes --executor in-process --no-mlflow"
    ran = _run(Command(text=text, output=()), room)
    if ran.code:
        raise SystemExit("\n".join(ran.output))
    return room


def copy_room(trained: Path, room: Path) -> Path:
    """The same for one fence, which may change what it likes."""
    return Path(shutil.copytree(trained, room, symlinks=True))


def demo_room(results: Path, room: Path) -> Path:
    """A folder for `demo`: a copy of the results of `make demo`, and what `table` has."""
    if not (results / "sweeps" / "isoflop-cpu").exists():
        raise SystemExit(f"{results} has no sweep isoflop-cpu: run `make demo` first, or name --results")
    table_room(room)
    ours = shutil.ignore_patterns("published", "README.md")
    shutil.copytree(results, room / "results", dirs_exist_ok=True, ignore=ours)
    return room


def main() -> None:
    """Write the output of the fences of one kind into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("table", "sweep", "demo"))
    parser.add_argument("pages", nargs="*", type=Path, help="all by default")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="of `make demo`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained"
        makers = {
            "table": table_room,
            "sweep": lambda room: copy_room(trained if trained.exists() else train_eight_cells(trained), room),
            "demo": lambda room: demo_room(options.results, room),
        }
        for page in map(Path.resolve, options.pages or pages()):
            for number in range(len(fences(page))):
                fence = fences(page)[number]  # Read anew: what was written moved the lines.
                if fence.kind == options.kind:
                    print(fence.name, flush=True)
                    room = Path(folder) / "study"
                    rewrite(fence, makers[options.kind](room))
                    shutil.rmtree(room)


if __name__ == "__main__":
    main()
