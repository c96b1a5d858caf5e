"""Values and their JSON: every configuration comes back as it was, and other versions are recognised."""

import dataclasses
import json

import pytest
from hypothesis import given

from mor_core.config.model import ExpertChoice, ModelConfig, TokenChoice
from mor_core.config.training import TrainConfig
from orchestrator.cli.main import exit_code_of
from orchestrator.planning.canonical import OtherVersion, content_id, from_jsonable, to_jsonable
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import Evaluation, EvaluationSpec, TaskEvaluation, TextEvaluation, TrunkRecipe
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import preset_names
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.plan_samples import models, train_configs


def returned(value):
    """The value after a journey through JSON text."""
    return from_jsonable(type(value), json.loads(json.dumps(to_jsonable(value))))


@given(models(), train_configs)
def test_every_configuration_survives_json_exactly(model: ModelConfig, train: TrainConfig):
    recipe = TrunkRecipe(
        model=model, train=train, data_fingerprint="a", tokenizer_fingerprint="b", seed=1, numerics_version=2
    )
    assert returned(recipe) == recipe
    assert content_id(returned(recipe)) == content_id(recipe)


@pytest.mark.parametrize("preset", preset_names("ablation"))
def test_every_cell_of_the_ablations_survives_json_exactly(preset, snapshot):
    cells = plan(load_spec(preset, study="ablation"), dataclasses.replace(snapshot, valid_tokens=10**7)).cells
    for cell in cells:
        assert returned(cell) == cell
        assert returned(cell).flops == cell.flops


def test_evaluations_of_every_kind_are_read_as_the_one_that_was_written():
    task = TaskEvaluation(task="piqa", fingerprint="a" * 64, limit=None, rule="half")
    text = TextEvaluation(text_sha256="b" * 64, rule="half")
    for evaluation in (EvaluationSpec(num_sequences=3), task, dataclasses.replace(task, limit=7), text, None):
        read = from_jsonable(Evaluation | None, to_jsonable(evaluation))
        assert read == evaluation
        assert type(read) is type(evaluation)


def test_an_evaluation_of_old_keeps_its_identity_and_one_that_measures_more_has_another():
    old = TaskEvaluation(task="piqa", fingerprint="a" * 64, limit=None, rule="half")
    assert to_jsonable(old).keys() == {"task", "fingerprint", "limit", "rule"}
    new = dataclasses.replace(old, measures=2)
    assert to_jsonable(new) == to_jsonable(old) | {"measures": 2}
    assert from_jsonable(Evaluation | None, to_jsonable(old)) == old


def test_equal_keys_of_both_kinds_of_routing_are_read_as_the_one_that_wrote_them():
    for routing in (ExpertChoice(router="mlp"), TokenChoice(router="mlp"), None):
        read = from_jsonable(ExpertChoice | TokenChoice | None, to_jsonable(routing))
        assert read == routing
        assert type(read) is type(routing)


@pytest.mark.parametrize(
    ("kind", "data", "named"),
    [
        (TrainConfig, {"batch_size": 4, "peak_learning_rate": 0.1, "warmup_steps": 1}, "TrainConfig differs in"),
        (ExpertChoice | TokenChoice | None, {"alpha": 0.1, "aux_loss_weight": 0.001}, "choice None"),
        (ExpertChoice | TokenChoice | None, {"choice": "both"}, "choice 'both'"),
        (Cell, {"arm": "mor-2", "router": "linear"}, "router"),
    ],
)
def test_what_another_version_wrote_is_one_sentence_with_what_to_do(kind, data, named):
    with pytest.raises(OtherVersion, match="made by an earlier version of mor-sweep") as refused:
        from_jsonable(kind, data)
    assert named in str(refused.value)
    assert "use another results folder, or move this one away" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert exit_code_of(refused.value) == 1


def test_what_is_no_object_is_no_other_version_but_damage():
    with pytest.raises(ValueError, match="expected an object"):
        from_jsonable(Cell, 3)
