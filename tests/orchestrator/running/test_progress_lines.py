"""A search says of each trial which setting was tried."""

from dataclasses import replace

from orchestrator.planning.plan import plan
from orchestrator.running.progress import settings_tried


def test_a_sweep_with_one_setting_at_each_place_names_none(small_sweep, snapshot):
    assert settings_tried(plan(small_sweep({"seeds": [0, 1]}), snapshot).cells) == {}


def test_trials_of_one_place_are_told_apart_by_what_they_vary(small_sweep, snapshot):
    first, second, *_ = plan(small_sweep(), snapshot).cells
    other = replace(first, cell_id="other", train=replace(first.train, peak_learning_rate=0.0121))
    tried = settings_tried((first, other, second))
    assert tried == {
        str(first.cell_id): f", learning rate {first.train.peak_learning_rate:.3g}",
        "other": ", learning rate 0.0121",
    }
