"""`base = "cpu"` in a sweep file: what a file leaves out is as in the preset or file that lies under it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override, SpecError, laid_over, preset_names, read_sweep_file
from orchestrator.planning.spec.sweep_spec import load_spec, parse_spec

CHANGES: dict[tuple[str, ...], list[Any]] = {
    ("name",): ["other"],
    ("budgets",): [["1e13"], ["1e13", "3e13"]],
    ("seeds",): [[0], [1, 2]],
    ("trunks",): ["per-budget"],
    ("arms", "architectures"): [["vanilla"], ["recursive", "mor"]],
    ("arms", "recursions"): [[2], [2, 3]],
    ("sizes", "names"): [["1.1M"], ["1.1M", "1.6M"]],
    ("schedule", "cooldown_fraction"): [0.3],
    ("schedule", "warmup_steps"): [3],
    ("model", "context_length"): [64],
    ("routing", "alpha"): [0.2],
    ("train", "weight_decay"): [0.0, 0.2],
    ("train", "batch_size"): [4],
    ("train", "peak_learning_rate"): [1e-3],
    ("evaluation", "num_sequences"): [7],
    ("execution", "micro_batch"): [2],
}


def toml(values: dict[tuple[str, ...], Any], base: str) -> str:
    lines = [f"{'.'.join(path)} = {json.dumps(value)}" for path, value in values.items()]
    return "\n".join([f'base = "{base}"', *lines])


@st.composite
def changes(draw: st.DrawFn) -> dict[tuple[str, ...], Any]:
    paths = draw(st.lists(st.sampled_from(sorted(CHANGES)), unique=True))
    return {path: draw(st.sampled_from(CHANGES[path])) for path in paths}


@given(preset=st.sampled_from(preset_names()), values=changes())
def test_a_file_with_a_base_plans_the_cells_of_the_same_values_written_out(
    tmp_path_factory: pytest.TempPathFactory, preset: str, values: dict[tuple[str, ...], Any]
):
    path = tmp_path_factory.mktemp("base") / "mine.toml"
    path.write_text(toml(values, preset))
    file = read_sweep_file(str(path))
    whole = path.with_name("whole.toml")
    resolved = parse_spec(file)
    whole.write_text("\n".join(f"{key} = {_inline(value)}" for key, value in resolved.document().items()))
    assert load_spec(str(whole)) == resolved
    # And as if the values stood in the preset itself, or were flags, which replace a table of alternatives too.
    written = {("name",): "mine"} | values
    others = [("sizes",)] if ("sizes", "names") in values else []
    others += [("schedule", "warmup_budget")] if ("schedule", "warmup_steps") in values else []
    others += [("train", "learning_rate")] if ("train", "peak_learning_rate") in values else []
    others += [("train", "batch_law")] if ("train", "batch_size") in values else []
    emptied = [Override(flag="-", path=each, value={} if each == ("sizes",) else None) for each in others]
    laid = [Override(flag="-", path=each, value=value) for each, value in written.items()]
    assert load_spec(preset, [*emptied, *laid]) == resolved


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_laid_over_itself_has_the_same_ids(tmp_path: Path, preset: str):
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "{preset}"\n')
    spec, whole = load_spec(str(path)), load_spec(preset)
    assert spec == whole.model_copy(update={"name": "mine"})
    assert plan(spec, None).settings_id == plan(whole, None).settings_id
    document = read_sweep_file(preset).document
    assert laid_over(document, document) == document


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return str(path)


def test_bases_form_a_chain_whose_paths_are_meant_from_where_each_file_lies(tmp_path: Path):
    write(tmp_path / "common" / "lab.toml", 'base = "cpu"\nseeds = [7]\nevaluation.num_sequences = 9\n')
    write(tmp_path / "mine.toml", 'base = "common/lab.toml"\nseeds = [8]\n')
    top = write(tmp_path / "deep" / "top.toml", 'base = "../mine.toml"\ntrunks = "per-budget"\n')
    spec = load_spec(top)
    assert (spec.seeds, spec.evaluation.num_sequences, spec.trunks, spec.name) == ((8,), 9, "per-budget", "top")
    assert spec.model == load_spec("cpu").model


def test_a_circle_and_a_base_that_is_none_are_one_sentence(tmp_path: Path):
    one = write(tmp_path / "one.toml", 'base = "two.toml"\n')
    write(tmp_path / "two.toml", 'base = "./one.toml"\n')
    with pytest.raises(SpecError, match=r"base goes in a circle, .*one\.toml -> .*two\.toml -> .*one\.toml"):
        load_spec(one)
    with pytest.raises(SpecError, match=r"base = 3: expected a preset's name or the path of a sweep file"):
        load_spec(write(tmp_path / "three.toml", "base = 3\n"))
    with pytest.raises(SpecError, match="'cpuu' is no shipped sweep: did you mean cpu"):
        load_spec(write(tmp_path / "four.toml", 'base = "cpuu"\n'))


def test_what_takes_the_place_of_another_key_drops_it(tmp_path: Path):
    def spec(text: str):
        return load_spec(write(tmp_path / "mine.toml", f'base = "cpu"\n{text}'))

    by_tokens = spec('tokens = ["1e6"]\nsizes.names = ["51k"]\nschedule.warmup_steps = 5\n')
    assert (by_tokens.budgets, by_tokens.tokens) == (None, (10**6,))
    assert by_tokens.sizes is not None
    assert by_tokens.sizes.auto is None
    assert by_tokens.schedule.warmup_budget is None
    assert spec("train.peak_learning_rate = 1e-3\n").train.learning_rate is None
    count = spec("sizes.auto.count = 3\n").sizes
    assert count is not None
    assert count.auto is not None
    assert (count.auto.count, count.auto.ladder) == (3, "shallow"), "a table is laid over a table key by key"


def test_another_corpus_comes_without_the_rules_and_limits_of_the_one_below(tmp_path: Path):
    path = write(tmp_path / "mine.toml", 'base = "cpu"\n[data]\ncorpus = "text.txt"\n')
    assert load_spec(path).data.model_dump(exclude_unset=True) == {"corpus": "text.txt"}
    limit = write(tmp_path / "limit.toml", 'base = "cpu"\n[data]\nmax_megabytes = 3.0\n')
    assert load_spec(limit).data.quality
    token = write(tmp_path / "token.toml", 'base = "paper"\n[routing]\nchoice = "token"\n')
    assert load_spec(token).routing.given == {"choice": "token"}


def test_a_short_file_without_a_base_is_told_both_ways_to_the_rest(tmp_path: Path):
    path = write(tmp_path / "short.toml", 'name = "x"\nbudgts = ["1e10"]\n[arms]\narchitectures = ["vanilla"]\n')
    with pytest.raises(SpecError) as refused:
        load_spec(path)
    unknown, absent = str(refused.value).splitlines()
    assert "budgts is no known key: did you mean budgets?" in unknown
    assert "budget_convention, schedule, model, train, evaluation, execution are missing" in absent
    assert 'base = "cpu"' in absent
    assert "`mor-sweep config init FILE`" in absent
