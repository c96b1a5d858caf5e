"""The published IsoFLOP study: 36 cells whose steps and warm-up are known.

Source: Bae et al., Mixture-of-Recursions, arXiv 2507.10524v3, appendix D and Table 9 (token counts, at 2,097,152
tokens a step), and the released configurations for 360M.
"""

from fractions import Fraction

import pytest

from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec

# (size, architecture): (steps at 2e18, 5e18, 16.5e18, warm-up steps)
PUBLISHED = {
    ("135M", "vanilla"): (3080, 7699, 25408, 154),
    ("135M", "recursive"): (2887, 7218, 23820, 144),
    ("135M", "mor"): (4403, 11008, 36325, 220),
    ("360M", "vanilla"): (1144, 2860, 9438, 57),
    ("360M", "recursive"): (1144, 2860, 9438, 57),
    ("360M", "mor"): (1716, 4291, 14160, 86),
    ("730M", "vanilla"): (583, 1458, 4810, 29),
    ("730M", "recursive"): (583, 1458, 4810, 29),
    ("730M", "mor"): (859, 2148, 7088, 43),
    ("1.7B", "vanilla"): (279, 697, 2299, 14),
    ("1.7B", "recursive"): (257, 643, 2122, 13),
    ("1.7B", "mor"): (376, 940, 3101, 19),
}
BUDGETS = (2 * 10**18, 5 * 10**18, 165 * 10**17)

TYPED_BUDGETS = Override(flag="--budgets", path=("budgets",), value=["2e18", "5e18", "16.5e18"])


@pytest.fixture(scope="module")
def paper_cells():
    return plan(load_spec("paper", [TYPED_BUDGETS]), None).cells


def test_the_paper_preset_plans_the_36_published_cells(paper_cells):
    planned = {(cell.size, cell.architecture, cell.budget): cell for cell in paper_cells}
    assert len(planned) == len(paper_cells) == 36
    for (size, architecture), (*steps, warmup_steps) in PUBLISHED.items():
        cells = [planned[size, architecture, budget] for budget in BUDGETS]
        assert [cell.steps for cell in cells] == steps
        assert {cell.train.warmup_steps for cell in cells} == {warmup_steps}


def test_the_cooldown_of_360m_is_the_released_one(paper_cells):
    lengths = [c.decay_steps for c in paper_cells if c.size == "360M" and c.architecture == "vanilla"]
    assert lengths == [229, 572, 1888]


def test_planned_paper_flops_are_the_budget_within_half_a_step(paper_cells):
    for cell in paper_cells:
        half_a_step = Fraction(cell.flops["paper"], 2 * cell.steps)
        assert abs(cell.flops["paper"] - cell.budget) <= half_a_step + 1


def test_every_cell_uses_the_released_batch_rate_and_optimiser(paper_cells):
    for train in (cell.train for cell in paper_cells):
        assert (train.batch_size, train.peak_learning_rate, train.precision) == (1024, 3e-3, "bf16")
        assert (train.beta1, train.beta2, train.weight_decay, train.gradient_clip) == (0.9, 0.95, 0.1, 1.0)


@pytest.mark.parametrize(
    ("size", "architecture", "millions"),
    [("360M", "vanilla", 315), ("360M", "mor", 118), ("135M", "recursive", 42), ("730M", "mor", 252)],
)
def test_unique_parameters_are_those_of_the_paper(paper_cells, size, architecture, millions):
    found = {cell.unique_params for cell in paper_cells if (cell.size, cell.architecture) == (size, architecture)}
    assert len(found) == 1
    assert found.pop() / 1e6 == pytest.approx(millions, abs=1)
