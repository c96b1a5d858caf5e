"""`mor-sweep config`: what a sweep resolves to and where each value came from; the schema that editors read."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from orchestrator.planning.spec.schema import schema_text, sweep_schema
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.command_line import run
from tests.helpers.paths import ROOT, SMALL_PRESET

SWEEPS = ROOT / "sweeps"


def origins(*flags: str) -> dict[str, tuple[object, str]]:
    done = run("config", "show", *flags, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.config/1"
    return {each["key"]: (each["value"], each["origin"]) for each in document["data"]["settings"]}


def test_each_value_says_whether_a_flag_a_file_or_a_default_gave_it():
    found = origins("--preset", "cpu", "--budgets", "1e11,16.5e18", "--name", "mine")
    assert found["budgets"] == (["1e11", "1.65e19"], "flag --budgets")
    assert found["name"] == ("mine", "flag --name")
    assert found["train.batch_size"] == (8, "preset sweeps/isoflop_cpu.toml")
    assert found["sizes.auto.optimum.mor.unique_params"] == (19500, "preset sweeps/isoflop_cpu.toml")
    assert found["execution.stall_seconds"] == (600.0, "default")
    assert found["execution.micro_batch"] == (None, "default")
    assert origins("--preset", str(SMALL_PRESET))["seeds"] == ([0], f"file {SMALL_PRESET}")
    assert origins("--preset", "cpu", "--sizes", "51k")["sizes.names"] == (["51k"], "flag --sizes")


def test_files_of_ones_own_come_without_the_rules_of_quality_that_a_preset_asks_for_its_own_text():
    assert origins("--preset", "cpu")["data.quality"] == (True, "preset sweeps/isoflop_cpu.toml")
    other = origins("--preset", "cpu", "--data", "python-sources")
    assert other["data.corpus"] == ("python-sources", "flag --data")
    assert other["data.quality"] == (True, "preset sweeps/isoflop_cpu.toml")
    for corpus in ("text.txt", "fineweb-edu", "s3://bucket/data"):
        assert origins("--preset", "cpu", "--data", corpus)["data.quality"] == (False, "flag --data")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_shown_is_a_sweep_file_with_the_same_meaning(path: Path, tmp_path: Path):
    for flags in ([], ["--origin"]):
        done = run("config", "show", "--preset", str(path), *flags)
        assert done.returncode == 0, done.stderr
        copy = tmp_path / "copy.toml"
        copy.write_text(done.stdout)
        assert load_spec(str(copy)) == load_spec(str(path))


def test_ablations_and_recipes_are_shown_as_their_verbs_read_them(tmp_path: Path):
    found = origins("--ablation", "kv", "--preset", "cpu", "--tokens", "4e5", "--sizes", "51k")
    assert found["name"] == ("ablation-kv-cpu", "preset sweeps/ablation_kv_cpu.toml")
    assert found["tokens"] == (["4e5"], "flag --tokens")
    assert origins("--ablation", "kv")["name"] == ("ablation-kv", "preset sweeps/ablation_kv.toml")
    assert origins("--preset", "cpu", "--recipe", "step-law")["train.recipe"] == ("small", "flag --recipe")
    assert "did you mean kv" in run("config", "show", "--ablation", "kvv").stderr


def test_the_file_that_gave_a_value_is_named_and_what_differs_from_the_preset_is_listed(tmp_path: Path):
    under, mine = tmp_path / "lab.toml", tmp_path / "mine.toml"
    under.write_text('base = "cpu"\nevaluation.num_sequences = 9\nseeds = [1]\n')
    mine.write_text('base = "lab.toml"\nseeds = [2]\ntrain.batch_size = 8\n')
    flags = ("--preset", str(mine), "--recursions", "3")
    found = origins(*flags)
    assert found["name"] == ("mine", f"file {mine}")
    assert found["seeds"] == ([2], f"file {mine}")
    assert found["evaluation.num_sequences"] == (9, f"file {under}")
    assert found["data.corpus"] == ("pinned-python", "preset sweeps/isoflop_cpu.toml")
    assert found["arms.recursions"] == ([3], "flag --recursions")
    assert found["execution.stall_seconds"] == (600.0, "default")
    changed = origins(*flags, "--changed")
    assert changed.keys() == {"name", "seeds", "evaluation.num_sequences", "arms.recursions"}, "batch_size is as before"
    assert changed.items() <= found.items()
    assert run("config", "show", "--preset", "cpu", "--changed").stdout == ""


@pytest.mark.parametrize("preset", ["paper", "gpu", "cpu"])
def test_a_preset_is_written_with_its_comments_as_a_file_of_ones_own(tmp_path: Path, preset: str):
    path = tmp_path / "mine.toml"
    written = run("config", "init", str(path), "--preset", preset)
    assert written.returncode == 0, written.stderr
    assert load_spec(str(path)) == load_spec(preset).model_copy(update={"name": "mine"})
    shipped = (SWEEPS / f"isoflop_{preset}.toml").read_text().splitlines()
    differing = [line for line in path.read_text().splitlines() if line not in shipped]
    assert len(differing) == 3, "the schema, where it comes from, and the name"
    again = run("config", "init", str(path), "--preset", preset)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert run("config", "init", str(tmp_path / "mine.txt")).returncode == 2


def test_a_mistake_is_the_same_sentence_as_with_isoflop():
    shown = run("config", "show", "--preset", "cpu", "--budgets", "1.5")
    asked = run("isoflop", "--preset", "cpu", "--budgets", "1.5", "--dry-run")
    assert (shown.returncode, shown.stderr) == (asked.returncode, asked.stderr)
    assert shown.returncode == 2
    assert "--budgets: '1.5' is not whole" in shown.stderr


def test_the_committed_schema_is_up_to_date_and_every_shipped_sweep_names_and_follows_it(tmp_path: Path):
    committed = SWEEPS / "sweep.schema.json"
    assert committed.read_text() == schema_text(), (
        "run `python -m orchestrator.planning.spec.schema > sweeps/sweep.schema.json`"
    )
    jsonschema.Draft202012Validator.check_schema(sweep_schema())
    for path in sorted(SWEEPS.glob("*.toml")):
        assert path.read_text().startswith(f"#:schema ./{committed.name}\n")
        jsonschema.validate(tomllib.loads(path.read_text()), sweep_schema())
    jsonschema.validate({"base": "cpu", "train": {"weight_decay": 0.1}}, sweep_schema())
    own = tmp_path / "mine.toml"
    assert run("config", "init", str(own), "--preset", "cpu").returncode == 0
    assert own.read_text().splitlines()[0] == f"#:schema {committed}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budgetz": ["1e11"]}, "budgetz"),
        ({"seeds": ["one"]}, "'one'"),
        ({"arms": {"architectures": ["mamba"]}}, "mamba"),
        ({"evaluation": {"num_sequences": 0}}, "0"),
        ({"sizes": {"names": ["36M"]}}, "36M"),
    ],
)
def test_the_schema_refuses_what_the_command_refuses(change: dict, said: str):
    document = tomllib.loads((SWEEPS / "isoflop_cpu.toml").read_text()) | change
    with pytest.raises(jsonschema.ValidationError, match=said):
        jsonschema.validate(document, sweep_schema())


def test_every_key_of_the_schema_says_what_it_is_for():
    schema = sweep_schema()
    silent = [
        f"{name}.{key}"
        for name, table in {"": schema, **schema["$defs"]}.items()
        for key, field in table.get("properties", {}).items()
        if "description" not in field and "$ref" not in field
    ]
    # Keys of [routing] are explained where their values are, in mor_core/config/model.py.
    assert [each for each in silent if not each.startswith(("ExpertSection.", "TokenSection."))] == []
