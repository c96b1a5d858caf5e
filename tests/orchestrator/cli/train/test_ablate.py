"""`mor-sweep ablate`: what it plans, what it refuses, and the table of variants that it ends with."""

import json
from importlib import resources

import pytest

from orchestrator.cli.train.ablate import variants_table
from tests.helpers.command_line import run_in


@pytest.fixture
def ablate(tmp_path):
    """Runs the command in an empty folder without a terminal, with an empty data cache."""

    def run(*arguments):
        return run_in(tmp_path, "ablate", *arguments)

    return run


@pytest.mark.parametrize(("name", "cells"), [("sharing", 22), ("expert-router", 18), ("token-router", 12), ("kv", 19)])
def test_the_papers_ablations_are_planned_by_name(ablate, name, cells):
    done = ablate(name, "--dry-run")
    assert done.returncode == 0
    assert done.stderr.startswith(f"note: ablation-{name} trains on FineWeb-Edu, which is not prepared here")
    assert f"ablation-{name}: {cells} cells, 10B tokens each" in done.stdout
    assert "each cell is a run of its own" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "…" not in done.stdout


def test_flags_choose_sizes_tokens_seeds_and_variants(ablate):
    flags = ["--sizes", "51k,70k", "--tokens", "4e5", "--seeds", "1,2", "--only", "full,cyc-2", "--name", "mine"]
    done = ablate("sharing", "--preset", "cpu", *flags, "--dry-run", "--json")
    document = json.loads(done.stdout)["data"]
    assert document["name"] == "mine"
    found = {(cell["arm"], cell["size"], cell["seed"]) for cell in document["cells"]}
    assert found == {(arm, size, seed) for arm in ("full", "cyc-2") for size in ("51k", "70k") for seed in (1, 2)}
    assert {cell["steps"] for cell in document["cells"]} == {round(4e5 / 512)}


def test_a_users_own_file_is_planned(ablate, tmp_path):
    text = (resources.files("sweeps") / "ablation_kv_cpu.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('name = "ablation-kv-cpu"', 'name = "mine"'))
    done = ablate("mine.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "mine: 19 cells" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sharin"], "error: 'sharin' is no shipped ablation: did you mean sharing?"),
        (["kv", "--tokens", "1e5x"], "error: --tokens: '1e5x': expected a positive whole number of tokens"),
        (["kv", "--sizes", "70"], "error: --sizes: size '70' is unknown: did you mean 70k"),
        (["kv", "--only", "exprt"], "there is no arm 'exprt': did you mean expert"),
        (["./kv.toml", "--preset", "cpu"], "--preset chooses between shipped ablations"),
        (["kv", "--preset", "gpu"], "error: --preset: found 'gpu', expected paper or cpu"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(ablate, arguments, sentence):
    done = ablate(*arguments, "--dry-run")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def row(arm, loss, **changes):
    measured = {"loss_half": None, "loss_topk": loss, "depth_mean": 3.0, "last_capacity": 1.0}
    planned = {"arm": arm, "size": "70k", "unique_params": 35_200, "tokens": 600_064}
    return planned | measured | {"loss": loss, "status": "finished", "reason": ""} | changes


def drawn(listing):
    return [line.split() for line in listing.body_lines(140)]


def test_variants_are_listed_by_loss_and_those_without_one_last():
    unmeasured = {"loss_topk": None, "depth_mean": None, "last_capacity": None}
    rows = [
        row("third", 4.2),
        row("lost", None, status="diverged", reason="loss nan", **unmeasured),
        row("linear", 3.9, loss_half=3.95, loss_topk=3.88, depth_mean=1.98, last_capacity=0.331),
    ]
    paper = {"linear": {"360M": 2.8667}, "lost": {"360M": "diverged"}}
    listing = variants_table(rows, paper)
    lines = drawn(listing)
    assert [column.name for column in listing.columns][-2:] == ["paper 360M", "status"]
    assert lines[0] == [
        "linear",
        "70k",
        "35.2k",
        "600k",
        "3.9000",
        "3.9500",
        "3.8800",
        "1.98",
        "0.331",
        "2.8667",
        "finished",
    ]
    assert [line[0] for line in lines] == ["linear", "third", "lost"]
    assert lines[2] == ["lost", "70k", "35.2k", "600k", "diverged", "diverged:", "loss", "nan"]


def test_a_row_at_a_size_of_the_papers_stands_beside_the_papers_loss_at_that_size_alone():
    paper = {"full": {"135M": 3.0323, "360M": 2.8471}}
    lines = drawn(variants_table([row("full", 3.1, size="135M"), row("full", 3.2, size="70k")], paper))
    assert [line[-2] for line in lines] == ["3.0323", "2.8471"]
    assert [line.count("2.8471") for line in lines] == [0, 1]
