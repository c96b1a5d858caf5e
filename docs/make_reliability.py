"""Writes the table of docs/reliability.md: what is promised, the fault made on purpose, its tests, the last figure.

.venv/bin/python -m docs.make_reliability     # from the checkout; `make test-faults` ends with it
"""

from functools import cache
from pathlib import Path

from tests.faults.fault_report import CASES, ELSEWHERE, PROMISES
from tests.faults.last_run import Outcome, functions_by_case, outcomes

PAGE = Path(__file__).parent / "reliability.md"
START, END = "<!-- made by docs/make_reliability.py -->", "<!-- to here -->"


def with_table(page: str) -> str:
    """The page with the table of what is on file now."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{table(outcomes())}\n{END}{rest.partition(END)[2]}"


def table(last: list[Outcome]) -> str:
    """A row a case, and below it what the numbers of machines mean."""
    tests = _functions()
    machines = list(dict.fromkeys(outcome.machine for outcome in last))
    rows = [
        f"| {PROMISES[case]} | {case}: {fault} | {_tests(tests.get(case, []))} | "
        f"{_measured([outcome for outcome in last if outcome.case == case], tests.get(case, []), machines)} |"
        for case, fault in CASES.items()
    ]
    notes = [f"Machine {number}: {machine}." for number, machine in enumerate(machines, 1)]
    return "\n".join(["| Promise | Fault | Tests | Last measured |", "|---|---|---|---|", *rows, "", *notes]).rstrip()


@cache
def _functions() -> dict[str, list[str]]:
    return functions_by_case(ELSEWHERE)


def _tests(names: list[str]) -> str:
    """The files, as links, with the number of tests in each."""
    files = [name.partition("::")[0] for name in names]
    return ", ".join(f"[{Path(file).name}](../{file}): {files.count(file)}" for file in dict.fromkeys(files))


def _measured(last: list[Outcome], tests: list[str], machines: list[str]) -> str:
    """Such as "1 of 3 tests passed: killed 30 times (1a2b3c4, machine 1)"."""
    if not last:
        return "not run yet"
    broken = {outcome.function for outcome in last if not outcome.passed}
    ran = {outcome.function for outcome in last} - broken
    figures = [outcome.figure for outcome in last if outcome.passed and outcome.figure]
    places = dict.fromkeys(f"{outcome.commit}, machine {machines.index(outcome.machine) + 1}" for outcome in last)
    counts = [f"{len(ran)} of {len(tests)} tests passed", *([f"**{len(broken)} failed**"] if broken else [])]
    text = "; ".join([*counts, *dict.fromkeys(figures)])
    return f"{text} ({'; '.join(places)})".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
