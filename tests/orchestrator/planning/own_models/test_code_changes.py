"""A plan stops where published segments of an own model were computed by other code."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mor_core.config.training import TrainConfig
from mor_core.model.own.code import CodeFingerprint
from orchestrator.planning.identity import TrunkRecipe, stable_segment
from orchestrator.planning.own_models.code_changes import OtherCode, check_same_code
from tests.helpers.own_models import planned_own_model

MODEL = planned_own_model("mine:ladder", version="3")
TRUNK = TrunkRecipe(
    model=MODEL,
    train=TrainConfig(batch_size=1, peak_learning_rate=0.1, warmup_steps=0),
    data_fingerprint="",
    tokenizer_fingerprint="",
    seed=0,
    numerics_version=2,
)
SEGMENT, LATER = stable_segment(TRUNK, 10), stable_segment(TRUNK, 20)
CODE = CodeFingerprint(sha256="a", versions={"torch": "2.13.0"})


@dataclass(frozen=True)
class Result:
    numerics: tuple[dict[str, Any], ...]


SAME = Result((CODE.to_numerics() | {"device": "cpu"},))


def test_the_same_code_and_segments_that_are_not_published_go_on() -> None:
    check_same_code([SEGMENT, LATER], {SEGMENT.id: SAME}, {MODEL.object: CODE})


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(CODE, sha256="b"), "its code changed"),
        (replace(CODE, versions={"torch": "3.0"}), "what it imports changed"),
        (CodeFingerprint(sha256="b", versions={}), "its code and what it imports changed"),
    ],
)
def test_other_code_stops_the_plan_and_names_both_ways_on(now: CodeFingerprint, words: str) -> None:
    with pytest.raises(OtherCode) as refused:
        check_same_code([SEGMENT, LATER], {SEGMENT.id: SAME, LATER.id: SAME}, {MODEL.object: now})
    assert words in str(refused.value)
    assert "2 segments were published under its version 3: raise the version" in str(refused.value)
    assert "same_model" in str(refused.value)


def test_a_chain_that_was_computed_by_both_is_other_code_still() -> None:
    both = Result((*SAME.numerics, replace(CODE, sha256="b").to_numerics()))
    with pytest.raises(OtherCode):
        check_same_code([SEGMENT], {SEGMENT.id: both}, {MODEL.object: CODE})
