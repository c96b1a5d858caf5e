"""`data.unique_tokens`: what a sweep reads of its text, and what that changes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mor_core.data.prepare import open_tokens
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override, SpecError
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.orchestrator.planning.test_later_settings import FIRST_STUDY, data, recorded

__all__ = ["data"]  # A fixture.


def planned(snapshot, unique_tokens):
    flags = [Override(flag="only", path=("only",), value=["mor-4"])]
    if unique_tokens is not None:
        flags.append(Override(flag="unique_tokens", path=("data", "unique_tokens"), value=unique_tokens))
    return plan(load_spec(str(FIRST_STUDY / "sweep.toml"), flags), snapshot)


def test_without_the_setting_every_id_is_what_it_was(data):
    first = planned(data, None)
    assert first.settings_id == recorded()["settings_id"]
    assert [to_jsonable(cell) for cell in first.cells] == recorded()["cells"]
    assert all("unique_tokens" not in json.dumps(to_jsonable(each.trunk)) for each in first.segments)


def test_another_number_of_tokens_is_other_work_on_the_same_data(data):
    whole, half, third = (planned(data, number) for number in (None, data.train_tokens // 2, data.train_tokens // 3))
    assert len({each.settings_id for each in (whole, half, third)}) == 3
    ids = [{segment.id for segment in each.segments} for each in (whole, half, third)]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[2]
    assert {segment.trunk.data_fingerprint for segment in half.segments} == {data.fingerprint}
    for few, all_tokens in zip(half.cells, whole.cells, strict=True):
        assert few.epochs == pytest.approx(few.tokens / (data.train_tokens // 2))
        assert (few.steps, few.tokens, few.flops) == (all_tokens.steps, all_tokens.tokens, all_tokens.flops)


@pytest.mark.parametrize("number", [3, 10**12])
def test_a_number_that_the_text_cannot_serve_is_refused_with_what_it_can(data, number):
    with pytest.raises(SpecError, match=f"data.unique_tokens {number}: expected .* to {data.train_tokens}"):
        planned(data, number)


@pytest.mark.parametrize("value", ["many", -1, 0])
def test_what_is_no_number_of_tokens_is_refused(value, data):
    with pytest.raises(SpecError, match="unique_tokens"):
        planned(data, value)


def test_training_reads_the_first_tokens_only_and_all_of_them(data):
    length = 8
    reader = replace(open_tokens(data), unique_tokens=20 * length + 1)
    tokens = np.concatenate([shard.tokens for shard in reader.train])
    first = sorted(tuple(tokens[i * length : (i + 1) * length + 1].tolist()) for i in range(20))
    seen = sorted(tuple(row.tolist()) for step in range(5) for row in reader.train_batch(7, step, 4, length))
    assert seen == first
    assert reader.num_valid_sequences(length) == open_tokens(data).num_valid_sequences(length)
