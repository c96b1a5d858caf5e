"""The sweep file and the flags: strict, exact, and clear about mistakes."""

import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mor_core.units import budget_text, parse_budget
from orchestrator.cli.main import exit_code_of
from orchestrator.planning.spec.sweep_file import (
    Override,
    SpecError,
    SweepFile,
    preset_names,
    read_sweep_file,
    recipe_overrides,
)
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec, parse_spec


def shipped(preset):
    return tomllib.loads((resources.files("sweeps") / f"isoflop_{preset}.toml").read_text())


def refusal(path, value, preset="cpu"):
    """The message when one key of a shipped sweep file is replaced in the file itself."""
    document = shipped(preset)
    *tables, key = path.split(".")
    target = document
    for name in tables:
        target = target[name]
    target[key] = value
    with pytest.raises(SpecError) as refused:
        parse_spec(SweepFile(source="my.toml", document=document))
    assert exit_code_of(refused.value) == 2
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("16.5e18", 16_500_000_000_000_000_000),
        ("1.65e19", 16_500_000_000_000_000_000),
        ("2e19", 20_000_000_000_000_000_000),
        ("1e18", 10**18),
        ("1.0e+18", 10**18),
        ("1000", 1000),
        (" 5E3 ", 5000),
        ("123456789012345678901234567", 123456789012345678901234567),
    ],
)
def test_budgets_are_exact_integers(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["0", "-2e18", "nan", "inf", "-inf", "", "1.5", "1e-3", "2e18x", "1e41", "1e999999999"]
)
def test_what_is_no_positive_whole_number_is_no_budget(text):
    with pytest.raises(ValueError, match="expected a positive whole number of FLOPs"):
        parse_budget(text)


@given(st.integers(min_value=1, max_value=10**39))
def test_budget_text_is_exact(budget):
    assert parse_budget(budget_text(budget)) == budget


def test_a_budget_without_quotes_is_refused_because_it_is_rounded():
    assert "write it in quotes" in refusal("budgets", [2e18])


def test_equal_budgets_are_merged_and_sorted(small_sweep):
    assert small_sweep({"budgets": ["5e18", "2.0e18", "2e18"]}).budgets == (2 * 10**18, 5 * 10**18)


@pytest.mark.parametrize("preset", ["paper", "cpu", "gpu"])
def test_a_shipped_sweep_survives_its_own_json(preset):
    spec = load_spec(preset)
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("study", ["isoflop", "ablation"])
def test_every_key_of_a_shipped_sweep_has_a_comment(study):
    for preset in preset_names(study):
        seen = set()
        for line in (resources.files("sweeps") / f"{study}_{preset}.toml").read_text().splitlines():
            key = line.partition("=")[0].strip()
            if "=" in line and not line.startswith("#") and key not in seen and key != "source":
                assert "#" in line, f"{preset}: {line}"
                seen.add(key)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("train.batch_sise", 4, "my.toml: train.batch_sise is no known key: did you mean batch_size or batch_law?"),
        ("budgetz", [], "my.toml: budgetz is no known key: did you mean budgets"),
        ("train.learning_rate.default.bse", 1, "default.bse is no known key: did you mean base?"),
        ("model.vocab_size", 0, "my.toml: model.vocab_size: found 0, expected a number greater than 0"),
        ("model.vocab_size", "512", 'model.vocab_size: found "512", expected a valid integer'),
        ("schedule.cooldown_fraction", 1.0, "cooldown_fraction: found 1.0, expected a number less than 1"),
        ("train.weight_decay", float("nan"), "train.weight_decay: found NaN, expected a finite number"),
        ("trunks", "share", "trunks: found \"share\", expected 'shared' or 'per-budget'"),
        ("budgets", [], "budgets: the list is empty: give at least one"),
        ("arms.recursions", [1], "arms.recursions.0: found 1, expected a number greater than or equal to 2"),
        ("arms.recursions", [], "recursive and mor need at least one recursion count"),
        ("arms.sharing", "sequence", "sharing 'sequence' cannot be routed"),
        ("sizes.names", ["51k"], "sizes: give either names = [...] or a table auto, not both"),
        ("sizes", {"names": ["135"]}, "size '135' is unknown: did you mean 135M"),
        ("sizes.auto.optimum", {}, "no entry for the arm vanilla: add [sizes.auto.optimum.vanilla]"),
        ("train.learning_rate.moor", {}, "train.learning_rate.moor.base is missing: add it"),
        ("train.batch_size", None, "recipe small needs batch_size"),
        ("train.recipe", "paper", "recipe paper has one rate for all sizes"),
        ("name", "../x", "'../x' cannot name a folder"),
        ("seeds", [True], "seeds.0: found true, expected a valid integer"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_with_its_place(path, value, sentence):
    assert sentence in refusal(path, value)


def test_each_mistake_has_its_own_line():
    document = shipped("cpu") | {"budgets": ["x"], "seeds": [-1]}
    with pytest.raises(SpecError) as refused:
        parse_spec(SweepFile(source="my.toml", document=document))
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == ["budgets.0", "seeds.0"]


def test_a_mistake_in_a_flag_names_the_flag():
    flag = Override(flag="--budgets", path=("budgets",), value=["2e18", "", "5e18"])
    with pytest.raises(SpecError, match=r"^--budgets: one item is empty: .* remove the extra comma$"):
        load_spec("paper", [flag])


def test_a_users_own_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    text = (resources.files("sweeps") / "isoflop_cpu.toml").read_text()
    path.write_text(text.replace('name = "isoflop-cpu"', 'name = "mine"'))
    assert load_spec(str(path)).name == "mine"


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"none\.toml cannot be read"):
        load_spec(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("budgets = [")
    with pytest.raises(SpecError, match=r"broken\.toml is no valid TOML"):
        load_spec(str(broken))


def test_an_unknown_preset_gets_a_near_name():
    with pytest.raises(SpecError, match="'papre' is no shipped sweep: did you mean paper"):
        load_spec("papre")


@pytest.mark.parametrize("read", [read_sweep_file, recipe_overrides], ids=["preset", "recipe"])
def test_a_file_that_is_nested_without_end_is_one_sentence(tmp_path: Path, read: Callable[[str], object]):
    path = tmp_path / "deep.toml"
    path.write_text("budgets = " + "[" * 20_000)
    with pytest.raises(SpecError, match=r"deep\.toml is nested too deeply"):
        read(str(path))


def test_a_flag_laid_into_a_table_of_another_changes_nothing_of_its_caller():
    table: dict[str, object] = {"kind": "trapezoid"}
    whole = Override(flag="schedule", path=("schedule",), value=table)
    share = Override(flag="schedule.cooldown_fraction", path=("schedule", "cooldown_fraction"), value=0.5)
    schedule = read_sweep_file("cpu", [whole, share]).document["schedule"]
    assert schedule == {"kind": "trapezoid", "cooldown_fraction": 0.5}
    assert table == {"kind": "trapezoid"}
