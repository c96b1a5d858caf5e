"""`mor-sweep isoflop`: what it prints, what it refuses and with which exit code, and how light it starts."""

import json
import subprocess
import sys

import pytest

from tests.helpers.command_line import run_in
from tests.helpers.paths import SMALL_PRESET

SMALL = str(SMALL_PRESET)

HEAVY = ("torch", "ray", "mlflow", "pydantic", "polars", "numpy", "pandas", "scipy", "matplotlib", "rich")


@pytest.fixture
def mor_sweep(tmp_path):
    """Runs the command in an empty folder with an empty data cache and no terminal."""

    def run(*arguments):
        return run_in(tmp_path, *arguments)

    return run


def test_the_paper_study_is_shown_with_steps_warmup_and_totals(mor_sweep):
    done = mor_sweep("isoflop", "--budgets", "2e18,5e18,16.5e18", "--dry-run")
    assert done.returncode == 0
    assert done.stderr.startswith("note: isoflop-paper trains on FineWeb-Edu, which is not prepared here")
    assert done.stderr.endswith("next: one of the ways on that the note names\n")
    assert "isoflop-paper: 36 cells, budgets in paper FLOPs" in done.stdout
    assert "ids unresolved: data" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["vanilla", "360M", "315M", "2e18", "1,144", "2.4B", "57"] in [row[:7] for row in rows]
    assert ["1.65e19", "3,101", "6.5B", "19"] in [row[:4] for row in rows]
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "exact FLOPs per paper FLOP of budget" in done.stdout
    for total in ("segments", "compute", "time", "memory", "disk"):
        assert any(row[:1] == [total] for row in rows)


def test_the_plan_as_json_is_exact(mor_sweep):
    done = mor_sweep("isoflop", "--budgets", "16.5e18", "--arms", "mor", "--recursions", "2,3", "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.plan/1"
    cells = document["data"]["cells"]
    assert {cell["budget"] for cell in cells} == {16_500_000_000_000_000_000}
    assert {cell["arm"] for cell in cells} == {"mor-2", "mor-3"}
    assert {cell["budget_convention"] for cell in cells} == {"paper"}
    assert {cell["cell_id"] for cell in cells} == {"unresolved: data"}
    assert all(isinstance(flops, int) for cell in cells for flops in cell["flops"].values())
    assert isinstance(document["data"]["estimate"]["flops"], int)


def test_what_is_left_out_is_shown_with_its_reason(mor_sweep):
    done = mor_sweep("isoflop", "--preset", SMALL, "--budgets", "3e9,1e12", "--sizes", "51k", "--dry-run")
    assert done.returncode == 0
    assert "3 steps of 2,048 tokens fit, 10 are needed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--budgets", "2e18,,5e18"], 2, "error: --budgets: one item is empty"),
        (["--budgets", "1.5"], 2, "error: --budgets: '1.5' is not whole"),
        (["--sizes", "36M"], 2, "error: --sizes: size '36M' is unknown: did you mean 360M"),
        (["--arms", "mor-3"], 2, "ask for the architecture mor, and for 3 among the recursions"),
        (["--recursions", "1"], 2, "error: --recursions: found 1, expected a number greater than or equal to 2"),
        (["--seeds", "0,x"], 2, 'error: --seeds: found "x", expected a valid integer'),
        (["--data", "/no/such/folder"], 2, "error: There is no file or folder /no/such/folder"),
        (["--preset", "papre"], 2, "did you mean paper"),
        (["--budgets", "1e6"], 4, "error: none of the 12 cells can be trained"),
        (["--bugdets", "1e6"], 2, "--budgets"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_an_exit_code(mor_sweep, arguments, code, sentence):
    done = mor_sweep("isoflop", *arguments, "--dry-run")
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_expensive_sweep_without_a_terminal_is_not_started(mor_sweep, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for index in range(160):
        words = " ".join(f"word{(index * 7919 + k * k) % 5003} and {k * index % 97}" for k in range(1500))
        (text / f"{index}.txt").write_text(words)
    done = mor_sweep(
        "isoflop", "--preset", SMALL, "--data", str(text), "--budgets", "1e14", "--sizes", "10M", "--no-probe"
    )
    assert done.returncode == 4, done.stderr
    assert "there is no terminal to ask: add --yes" in done.stderr
    assert not (tmp_path / "results").exists()


def test_json_without_dry_run_is_a_usage_error(mor_sweep):
    assert mor_sweep("isoflop", "--json").returncode == 2


def loaded_by(*arguments):
    """Which heavy modules a command loads, in a fresh interpreter."""
    script = (
        "import sys; from orchestrator.cli.main import app\n"
        f"try: app({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()


def test_help_loads_nothing_heavy():
    assert loaded_by("--help") == []


def test_help_of_a_verb_loads_nothing_heavy_but_what_typer_needs():
    assert set(loaded_by("isoflop", "--help")) <= {"pydantic"}


def test_a_dry_run_loads_no_training_scheduling_or_tracking(tmp_path):
    loaded = loaded_by("isoflop", "--dry-run", "--results", str(tmp_path))
    assert set(loaded).isdisjoint({"torch", "ray", "mlflow", "polars", "pandas", "scipy", "matplotlib"})


def test_a_learning_rate_law_that_overflows_is_one_sentence(mor_sweep, tmp_path):
    for exponent in ("1e300", "-1e300"):
        text = SMALL_PRESET.read_text().replace("exponent = -0.3 ", f"exponent = {exponent} ")
        assert exponent in text
        (tmp_path / "steep.toml").write_text(text)
        done = mor_sweep("isoflop", "--preset", "steep.toml", "--dry-run")
        assert done.returncode == 2
        assert "use exponents nearer to 0" in done.stderr
        assert "Traceback" not in done.stderr
