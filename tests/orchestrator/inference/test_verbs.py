"""The verbs that use trained cells, on the toy sweep; in this process, since a start costs more than the work."""

import json
import re
from html import unescape
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.main import app, exit_code_of
from orchestrator.inference.routing import token_class
from tests.helpers.toy_sweep import ToySweep

CELL = "mor-2/23k/2.4e9"


def run(sweep: ToySweep, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--results", str(sweep.results)], env=sweep.environment)


def record(sweep: ToySweep) -> dict:
    """The cell's row of the table."""
    rows = pl.read_parquet(sweep.results / "sweeps" / "toy" / "runs.parquet")
    return rows.filter(arm="mor-2", size="23k", budget="2400000000").row(0, named=True)


def test_text_is_continued_the_same_way_for_the_same_seed_however_the_cell_is_named(reference: ToySweep):
    by_name = run(reference, "generate", CELL, "the model", "--tokens", "12", "--threads", "1")
    cell_id = record(reference)["cell_id"][:10]
    by_id = run(reference, "generate", cell_id, "the model", "--tokens", "12", "--threads", "1", "--sweep", "toy")
    assert by_name.exit_code == 0, by_name.output
    assert by_name.stdout.startswith("the model ")
    assert by_name.stdout == by_id.stdout
    told = run(reference, "generate", CELL, "the model", "--tokens", "12", "--threads", "1", "--json")
    document = json.loads(told.stdout)
    assert document["schema"] == "mor-sweep.generate/1"
    assert document["data"]["prompt"] + document["data"]["text"] + "\n" == by_name.stdout
    assert document["data"]["tokens"] == len(document["data"]["depths"]) == 12
    assert "12 tokens" in by_name.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "mor-9/23k/2.4e9"), "'mor-9/23k/2.4e9' is no cell of sweep toy"),
        (("generate", ""), "'' is no cell of sweep toy"),
        (("generate", CELL, "word " * 60), "the model's context is 32"),
        (("generate", CELL, "--depth", "3"), "depth 3: expected 1 to the model's 2"),
        (("generate", CELL, "--temperature", "-1"), "temperature -1.0: expected 0 or more"),
        (("depth", "vanilla/23k/2.4e9"), "has one depth only"),
        (("throughput", "--batches", "1,many"), "found 'many'"),
        (("throughput", "--size", "99k"), "no size and budget at size 99k"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(reference: ToySweep, words: tuple[str, ...], said: str):
    done = run(reference, *words)
    assert exit_code_of(done.exception) == 2, done.output
    assert said in str(done.exception)
    assert done.stdout == ""


def test_the_loss_at_full_depth_is_the_loss_of_the_cell_and_less_depth_costs_less(reference: ToySweep):
    done = run(reference, "depth", CELL, "--sequences", "32", "--threads", "1", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.depth/1"
    shallow, full = document["data"]["rows"]
    assert full["loss"] == pytest.approx(record(reference)["loss"], abs=1e-4)
    assert full["mean_depth"] == pytest.approx(record(reference)["depth_mean"], abs=1e-3)
    assert shallow["mean_depth"] == 1.0
    assert shallow["flops_per_token"] < full["flops_per_token"]
    assert (reference.results / "sweeps/toy/figures/depth-mor-2-23k-2.4e9-0.png").stat().st_size > 1000


def test_depths_by_class_and_position_are_those_of_the_evaluation(reference: ToySweep):
    done = run(reference, "routing", CELL, "--sequences", "32", "--threads", "1", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.routing/1"
    for rows in (document["data"][name] for name in ("class", "depth", "position")):
        tokens = sum(row["tokens"] for row in rows)
        depth = sum(row.get("mean_depth", row.get("depth")) * row["tokens"] for row in rows) / tokens
        assert tokens == 32 * 32
        assert depth == pytest.approx(record(reference)["depth_mean"], abs=1e-3)


@pytest.mark.parametrize("cell", [CELL, "vanilla/23k/2.4e9"])
def test_a_page_shows_a_text_whole_and_runs_nothing_of_it(reference: ToySweep, tmp_path: Path, cell: str):
    text = 'a <script>alert("1")</script> & <b onclick="x">the model</b>\nhttps://example.org/?a=1&b=2 \'"> é'
    (tmp_path / "hostile.txt").write_text(text)
    done = run(reference, "routing", cell, "--text", str(tmp_path / "hostile.txt"), "--threads", "1")
    assert done.exit_code == 0, done.output
    name = f"routing-{cell.replace('/', '-')}-0.html"  # the seed is part of a cell's name
    page = (reference.results / "sweeps/toy/figures" / name).read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|b|img|link|iframe)\b", page)
    assert not re.search(r"\b(src|href|onclick)\s*=\s*\"", page.replace("&quot;", ""))
    tokens = re.findall(r'<span class="d(\d)" title="([^"]*)">([^<]*)</span>', page.partition("<pre>")[2])
    shown = unescape("".join(piece for _, _, piece in tokens)).replace("↵", "")
    assert shown.startswith('a <script>alert("1")</script> & <b onclick="x">the model</b>\nhttps://example.org/')
    assert {depth for depth, _, _ in tokens} <= {"1", "2"}


def test_throughput_compares_each_arm_with_vanilla_within_one_memory_budget(reference: ToySweep):
    flags = ["--texts", "4", "--rounds", "2", "--kv-budget", "60000", "--threads", "1", "--json"]
    done = run(reference, "throughput", "--batches", "4,max", *flags)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.throughput/1"
    rows = {(row["arm"], row["batch"]): row for row in document["data"]["rows"]}
    assert set(rows) == {(arm, batch) for arm in ("vanilla", "mor-2") for batch in ("4", "max")}
    for batch in ("4", "max"):
        assert rows["vanilla", batch]["ratio"] == rows["vanilla", batch]["flops_ratio"] == 1.0
        assert rows["mor-2", batch]["flops_ratio"] > 1.0
    assert all(row["lowest"] <= row["ratio"] <= row["highest"] for row in rows.values())
    assert all(row["kv_bytes"] <= 60000 for (_, batch), row in rows.items() if batch == "max")
    # A token of mor-2 leaves three quarters of vanilla's keys and values at the planned depth.
    assert rows["mor-2", "max"]["sequences"] > rows["vanilla", "max"]["sequences"] > 4
    assert (reference.results / "sweeps/toy/figures/throughput.svg").exists()


@pytest.mark.parametrize(
    ("piece", "before", "expected"),
    [
        (" model", "the", "word start"),
        ("ing", "go", "word continuation"),
        ("the", "\n", "word start"),
        (" 42", "is", "number"),
        ("\n    ", ":", "space"),
        (" (", "f", "opening"),
        ("):", "x", "punctuation"),
        ("_x", "self", "word continuation"),
        ("\ufffd", "a", "bytes"),
    ],
)
def test_tokens_are_classed_by_what_they_look_like(piece: str, before: str, expected: str):
    assert token_class(piece, before) == expected
