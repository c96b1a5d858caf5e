"""Verbs that need our family say so of a user's own model, and import none of its code."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.inference.trained_cell import NotTrained, export_cell, family_model, load_trained_cell
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.own_models import planned_own_model
from tests.helpers.paths import TOY_PRESET


def test_a_verb_for_our_family_names_the_model_and_what_it_is_for(tmp_path: Path) -> None:
    ours = plan(load_spec(str(TOY_PRESET)), None).cells[0]
    own = planned_own_model("no_such_module:ladder", version="1")
    theirs = replace(ours, arm="mine", architecture="own", model=own)
    assert family_model(ours) is ours.model
    for asked in (
        lambda: load_trained_cell(None, None, theirs),  # pyright: ignore[reportArgumentType]
        lambda: export_cell(None, None, theirs, tmp_path),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(NotTrained, match=r"a model of your own \(no_such_module:ladder\): text, tasks"):
            asked()
