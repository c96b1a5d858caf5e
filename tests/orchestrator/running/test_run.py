"""A whole sweep through the command line: resume, growth, refusals."""

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from orchestrator.records.curves import curve
from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.faults.disturbances import ONE_CELL, SIX_CELLS, TWO_CELLS, assert_as_undisturbed
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here


def in_this_process(toy: ToySweep, *flags: str) -> subprocess.CompletedProcess[str]:
    """A sweep on Ray that ends before it trains anything."""
    return run_here(toy.command("--executor", "ray", "--no-mlflow", *flags)[len(MOR_SWEEP) :], toy.environment)


def test_every_cell_of_the_sweep_has_a_loss_below_a_uniform_guess(reference: ToySweep):
    table = pl.read_parquet(reference.results / "sweeps/toy/runs.parquet")
    assert table.height == 12
    assert (table["status"] == "finished").all()
    assert (table["loss"] < 5.0).all()
    assert table.filter(pl.col("arm") == "vanilla")["depth_mean"].unique().to_list() == [1.0]
    routed = table.filter(pl.col("arm") == "mor-2")
    assert routed["depth_mean"].is_between(1.2, 1.8).all()
    assert (routed["loss"] != routed["loss_topk"]).all()


def test_without_mlflow_nothing_is_mirrored(reference: ToySweep):
    assert (
        sorted(path.name for path in (reference.results / "sweeps" / "toy").iterdir() if path.name.startswith("m"))
        == []
    )


def test_the_same_command_again_trains_nothing_and_changes_nothing(reference: ToySweep):
    before, table = reference.published(), reference.science()
    again = in_this_process(reference)
    assert again.returncode == 0
    assert "nothing to train" in again.stderr
    assert reference.published() == before
    assert reference.science().equals(table)


def test_a_larger_a_middle_and_a_smaller_budget_train_only_what_is_missing(reference: ToySweep, tmp_path: Path):
    grown = ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)
    shutil.copytree(reference.results, grown.results)
    before = grown.published()
    done = grown.run("--budgets", "3e8,6e8,9e8,1.2e9,2.4e9,3e9", "--sizes", "13k")
    assert done.returncode == 0, done.stderr
    after = grown.published()
    assert {name: after[name] for name in before} == before
    new = [json.loads(data) for name, data in after.items() if name not in before]
    # For each of 2 trunks and 3 new budgets: one stable stretch, one decay, one evaluation.
    assert sorted(result["kind"] for result in new) == ["decay"] * 6 + ["evaluate"] * 6 + ["stable"] * 6
    table = pl.read_parquet(grown.results / "sweeps/toy/runs.parquet")
    executed = sum(result.get("steps_executed", 0) for result in new)
    alone = table.filter(pl.col("budget").is_in(["300000000", "900000000", "3000000000"]))["steps"].sum()
    assert executed < 0.6 * alone
    assert table.height == 18
    old = table.filter(~pl.col("budget").is_in(["300000000", "900000000", "3000000000"]))
    assert old.select(reference.science().columns).sort("cell_id").equals(reference.science())


@pytest.mark.slow
def test_cells_of_other_settings_are_trained_anew_and_never_share_a_table(reference: ToySweep, tmp_path: Path):
    """Another learning rate under the same name: nothing is mixed, nothing that exists is changed, and it is said."""
    other = ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)
    shutil.copytree(reference.results, other.results)
    before = other.published()
    slower = tmp_path / "slower.toml"
    slower.write_text(TOY_PRESET.read_text().replace("base = 1e-2", "base = 5e-3"))
    done = other.run("--preset", str(slower), "--sizes", "13k", "--budgets", "6e8", "--arms", "vanilla")
    assert done.returncode == 0, done.stderr
    assert "12 cells that sweep toy had under other settings are left out" in done.stderr
    table = other.science()
    assert table.height == 1
    assert set(table["cell_id"]).isdisjoint(reference.science()["cell_id"])
    after = other.published()
    assert {name: after[name] for name in before} == before
    back = other.run()
    assert "nothing to train" in back.stderr
    assert other.science().equals(reference.science())


def test_a_cells_curve_does_not_change_when_another_budget_is_added(reference: ToySweep, tmp_path: Path):
    grown = ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)
    shutil.copytree(reference.results, grown.results)
    store = Store(root=grown.results)
    before = load_sweep(store, "toy")
    curves = {cell.cell_id: curve(store, before, cell) for cell in before.cells}
    assert grown.run("--budgets", "6e8,9e8,1.2e9,2.4e9", "--sizes", "13k").returncode == 0
    after = load_sweep(store, "toy")
    assert len(after.cells) > len(before.cells)
    assert {cell.cell_id: curve(store, after, cell) for cell in before.cells} == curves


def test_a_seed_that_no_table_can_hold_is_refused_before_anything_is_recorded(toy: ToySweep):
    done = toy.run("--seeds", "9223372036854775808")
    assert done.returncode == 2
    assert "--seeds" in done.stderr
    assert "Traceback" not in done.stderr
    assert not toy.results.exists()


@pytest.mark.slow  # By default one Ray sweep serves for this and for what is heard: see tests/test_security.py.
def test_ray_workers_compute_what_one_process_computes(toy: ToySweep, reference: ToySweep):
    done = toy.run("--workers", "2", *TWO_CELLS, executor="ray")
    assert done.returncode == 0, done.stderr
    assert len(toy.published()) == 6
    assert_as_undisturbed(toy, reference)


@pytest.mark.slow
def test_two_drivers_at_once_compute_each_segment_once(toy: ToySweep, reference: ToySweep):
    drivers = [toy.start(*SIX_CELLS, executor="in-process") for _ in range(2)]
    outputs = [driver.communicate(timeout=800)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert_as_undisturbed(toy, reference)
    assert all(json.loads(data)["attempts"] == 1 for data in toy.published().values())


def test_a_run_that_diverges_is_a_result_that_blocks_its_descendants_and_exits_3(toy: ToySweep, tmp_path: Path):
    hot = tmp_path / "hot.toml"
    hot.write_text(TOY_PRESET.read_text().replace("base = 1e-2", "base = 1e38"))
    flags = ["--preset", str(hot), "--sizes", "13k", "--arms", "vanilla"]
    done = toy.run(*flags)
    assert done.returncode == 3
    table = pl.read_parquet(toy.results / "sweeps/toy/runs.parquet")
    assert table["status"].to_list() == ["diverged"] * 3
    assert "at step" in table["reason"][0]
    assert table["loss"].is_null().all()
    reported = [line for line in done.stderr.splitlines() if line.startswith("  vanilla 13k at ")]
    assert len(reported) == 3
    assert all(line.count("diverged") == 1 for line in reported)
    published = toy.published()
    again = toy.run(*flags)
    assert again.returncode == 3
    assert toy.published() == published


def test_a_result_that_cannot_be_read_is_named_with_what_to_do_and_nothing_else_is_lost(
    reference: ToySweep, tmp_path: Path
):
    broken = ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)
    shutil.copytree(reference.results, broken.results)
    victim = next(path for path in broken.results.glob("segments/*/result.json") if "evaluate" in path.read_text())
    victim.write_text('{"kind": "eval')
    done = broken.run()
    assert done.returncode == 3
    assert f"{victim} cannot be read" in done.stderr
    assert "the same command tries what failed again, once what its reason names is mended" in done.stderr
    assert "move" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(victim.parent)
    mended = broken.run()
    assert mended.returncode == 0, mended.stderr
    assert broken.science().equals(reference.science())


def test_a_damaged_checkpoint_of_a_trunk_is_named_and_the_cells_that_do_not_need_it_stay(
    reference: ToySweep, tmp_path: Path
):
    broken = ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)
    shutil.copytree(reference.results, broken.results)
    store = Store(root=broken.results)
    sweep = load_sweep(store, "toy")
    *_, stable, decay, evaluate = sweep.chain(sweep.cells[0])
    weights = store.checkpoint_folder(stable.id) / "weights.safetensors"
    weights.write_bytes(b"torn")
    for lost in (decay, evaluate):
        shutil.rmtree(store.segment_folder(lost.id))
    done = broken.run()
    assert done.returncode == 3
    assert f"{weights}: its sha256 is not the manifest's" in done.stderr
    assert f"move {store.segment_folder(stable.id)} away" in done.stderr
    assert "11 of 12 cells finished" in done.stderr
    shutil.rmtree(store.segment_folder(stable.id))
    assert broken.run().returncode == 0
    assert broken.science().equals(reference.science())
    assert broken.weights() == reference.weights()


def test_an_unreachable_ray_address_is_said_within_seconds_with_exit_code_6(toy: ToySweep):
    started = time.monotonic()
    done = in_this_process(toy, "--address", "127.0.0.1:9")
    assert done.returncode == 6
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("address", ["nonsense", "host:port"])
def test_a_malformed_ray_address_says_what_was_expected(toy: ToySweep, address: str):
    done = in_this_process(toy, "--address", address)
    assert done.returncode == 6
    assert "expected host:port" in done.stderr


def test_a_results_folder_that_is_a_file_is_one_clear_sentence(toy: ToySweep):
    toy.results.write_text("not a folder")
    below = replace(toy, results=toy.results / "deeper" / "still")
    for done in (toy.run(), below.run(), run_here(["status", "--results", str(toy.results)], toy.environment)):
        assert done.returncode == 2
        assert (
            done.stderr
            == f"error: --results: {toy.results} is not a folder: name a folder, one that exists or a new one\n"
        )


@pytest.mark.parametrize("folder", ["/sys/results", "/proc/results"])
def test_a_results_folder_that_cannot_be_written_is_one_sentence_before_any_work(toy: ToySweep, tmp_path, folder: str):
    """Two file systems that refuse new files to every user, root included."""
    done = replace(toy, results=Path(folder), cache=tmp_path / "cache").run()
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: --results: {folder} cannot be written (")
    assert "name a folder that you may write to" in sentence
    assert not (tmp_path / "cache").exists()


def test_a_sweep_that_takes_long_asks_before_it_prepares_its_data(toy: ToySweep, tmp_path: Path):
    asked = replace(toy, cache=tmp_path / "cache")
    command = [flag for flag in asked.command("--budgets", "5e13", "--sizes", "23M", "--no-probe") if flag != "--yes"]
    done = subprocess.run(
        command, env=asked.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert "add --yes to start it" in done.stderr
    assert not asked.cache.exists()
    assert not asked.results.exists()


@pytest.mark.slow
def test_an_arm_of_which_nothing_can_be_trained_is_named_in_the_plan_and_in_the_end(toy: ToySweep):
    done = toy.run("--recursions", "100000", "--sizes", "13k", "--budgets", "6e8")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert said.count("note: no cell of mor-100000 can be trained, all 1 are left out; 13k at 6e8: 0 steps") == 2


def test_an_empty_data_flag_says_what_was_expected(toy: ToySweep):
    for verb in (["isoflop"], ["data", "info"]):
        done = run_here([*verb, "--data", ""], toy.environment)
        assert done.returncode == 2
        assert done.stderr.startswith(
            "error: --data: found '', expected pinned-python, python-sources, fineweb-edu, hf:NAME, or the path of"
        )


def test_an_unreadable_data_file_is_refused_before_anything_is_written(toy: ToySweep, tmp_path: Path):
    arguments = ["isoflop", "--preset", str(tmp_path / "none.toml"), "--results", str(toy.results)]
    done = run_here(arguments, toy.environment)
    assert done.returncode == 2
    done = ToySweep(results=toy.results, text=tmp_path / "absent.jsonl", cache=toy.cache).run()
    assert done.returncode == 2
    assert "absent.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    assert not toy.results.exists()


@pytest.mark.slow
def test_two_commands_on_different_budgets_at_once_leave_one_table_of_both(
    toy: ToySweep, reference: ToySweep, tmp_path: Path
):
    budgets = ("6e8", "1.2e9")
    running = [toy.start("--no-mlflow", "--sizes", "13k", "--budgets", each, executor="in-process") for each in budgets]
    said = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    whole = reference.science()
    expected = whole.filter((pl.col("size") == "13k") & pl.col("budget").is_in(["600000000", "1200000000"]))
    assert toy.science().equals(expected)


@pytest.mark.slow
def test_a_command_whose_text_was_deleted_goes_on_from_what_was_frozen(toy: ToySweep, tmp_path: Path):
    own = replace(toy, results=tmp_path / "my results", text=tmp_path / "own.jsonl", cache=tmp_path / "cache")
    shutil.copyfile(toy.text, own.text)
    first = own.run(*ONE_CELL)
    assert first.returncode == 0, first.stderr
    assert f"next: mor-sweep fit --results '{own.results}', mor-sweep plot frontier --results '" in first.stderr
    own.text.unlink()
    again = own.run(*ONE_CELL)
    assert again.returncode == 0, again.stderr
    assert f"note: {own.text} is gone; the text that was frozen" in again.stderr
    assert "nothing to train" in again.stderr
    own.text.write_text(toy.text.read_text().replace("model", "router"))
    assert "nothing to train" not in own.run(*ONE_CELL, "--dry-run").stderr + own.run(*ONE_CELL).stderr


@pytest.mark.parametrize("uri", ["http://me:secret@[::1", "postgresql://me:secret@host/db"])
def test_a_tracking_uri_that_nobody_could_use_is_refused_before_anything_is_trained(toy: ToySweep, uri: str):
    arguments = toy.command("--executor", "in-process", *ONE_CELL)[len(MOR_SWEEP) :]
    done = run_here(arguments, toy.environment | {"MLFLOW_TRACKING_URI": uri})
    assert done.returncode == 2, done.stderr
    assert "error: MLFLOW_TRACKING_URI: " in done.stderr
    assert "secret" not in done.stderr
    assert not toy.results.exists()
