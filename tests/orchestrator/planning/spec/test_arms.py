"""Arms: the grid, named variants, and how their tokens are routed."""

import dataclasses
import json
from fractions import Fraction

import pytest

from mor_core.config.model import ExpertChoice, TokenChoice
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.arms import ROUTING_KINDS, ROUTING_SECTIONS
from orchestrator.planning.spec.sweep_file import SpecError, preset_names
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec

MOR = {"architecture": "mor", "recursions": 3}
ONE_SIZE = {"sizes": {"names": ["70k"]}, "budgets": ["5e11"]}


@pytest.fixture
def variants(small_sweep):
    """The small sweep with named arms in place of its grid, and other keys replaced."""

    def sweep(named, changes=None):
        return small_sweep(ONE_SIZE | {"arms": None, "variants": named} | (changes or {}))

    return sweep


def members(spec):
    return {arm.label: arm for arm in spec.members}


@pytest.mark.parametrize("choice", ["expert", "token"])
def test_the_routing_table_has_every_key_of_the_configuration_and_no_other(choice):
    fields = {field.name for field in dataclasses.fields(ROUTING_KINDS[choice])}
    assert set(ROUTING_SECTIONS[choice].model_fields) == fields


def test_a_routing_table_without_keys_is_the_papers_recipe(variants):
    assert members(variants({"a": MOR}, {"routing": {}}))["a"].routing == ExpertChoice()
    assert members(variants({"a": MOR}, {"routing": {"choice": "token"}}))["a"].routing == TokenChoice()


def test_every_key_of_the_routing_table_reaches_the_model(variants):
    token = {
        "choice": "token",
        "router": "wide-mlp",
        "activation": "sigmoid",
        "alpha": 0.5,
        "gating": "exit",
        "balancing": "loss-free",
        "balancing_loss_weight": 0.2,
        "bias_update_rate": 0.01,
        "z_loss_weight": 0.3,
    }
    expert = {
        "choice": "expert",
        "router": "mlp",
        "activation": "tanh",
        "alpha": 2.0,
        "gating": "additive",
        "auxiliary": "router",
        "aux_loss_weight": 0.2,
        "z_loss_weight": 0.3,
        "capacities": ["1", "2/3", 0.25],
        "capacity_warmup_steps": 9,
        "threshold_decay": 0.5,
    }
    for given, kind in ((token, TokenChoice), (expert, ExpertChoice)):
        (cell,) = plan(variants({"a": MOR}, {"routing": given}), None).cells
        shares = {"capacities": (Fraction(1), Fraction(2, 3), Fraction(1, 4))} if "capacities" in given else {}
        assert cell.model.routing == kind(**(given | shares))
        assert set(given) == {field.name for field in dataclasses.fields(kind)}


def test_a_variants_routing_is_laid_over_the_sweeps(variants):
    named = {
        "base": MOR,
        "loud": MOR | {"routing": {"alpha": 1.0}},
        "tanh": MOR | {"routing": {"choice": "expert", "activation": "tanh"}},
        "token": MOR | {"routing": {"choice": "token"}},
    }
    arms = members(variants(named, {"routing": {"router": "mlp", "alpha": 0.5}}))
    assert arms["base"].routing == ExpertChoice(router="mlp", alpha=0.5)
    assert arms["loud"].routing == ExpertChoice(router="mlp", alpha=1.0)
    assert arms["tanh"].routing == ExpertChoice(router="mlp", alpha=0.5, activation="tanh")
    assert arms["token"].routing == TokenChoice()


def test_a_variant_that_names_no_choice_follows_the_sweeps(variants):
    named = {"base": MOR, "loud": MOR | {"routing": {"balancing": "none"}}}
    arms = members(variants(named, {"routing": {"choice": "token", "alpha": 0.5}}))
    assert arms["base"].routing == TokenChoice(alpha=0.5)
    assert arms["loud"].routing == TokenChoice(alpha=0.5, balancing="none")


def test_variants_stand_beside_the_grid(small_sweep):
    spec = small_sweep(ONE_SIZE | {"variants": {"shared": MOR | {"kv": "shared"}}})
    assert list(members(spec)) == ["vanilla", "mor-2", "shared"]
    assert [cell.model.recursion.kv for cell in plan(spec, None).cells] == ["recursion-wise"] * 2 + ["shared"]


def test_only_some_arms_can_be_asked_for_and_their_ids_stay(variants, snapshot):
    named = {"a": MOR, "b": MOR | {"kv": "shared"}, "c": {"architecture": "vanilla"}}
    every = plan(variants(named), snapshot)
    some = plan(variants(named, {"only": ["c", "a"]}), snapshot)
    assert [cell.arm for cell in some.cells] == ["a", "c"]
    assert some.settings_id == every.settings_id
    assert {cell.cell_id for cell in some.cells} < {cell.cell_id for cell in every.cells}


def test_the_grid_takes_key_values_and_depth_fitting(small_sweep):
    changes = ONE_SIZE | {"arms.kv": "hybrid", "arms.fit_depth": "shrink", "arms.recursions": [4]}
    vanilla, mor = plan(small_sweep(changes), None).cells
    assert (vanilla.model.recursion.kv, mor.model.recursion.kv) == ("recursion-wise", "hybrid")
    assert (vanilla.model.num_layers, mor.model.num_layers) == (8, 6)
    raised = plan(small_sweep(changes | {"arms.fit_depth": "raise"}), None).cells[1]
    assert raised.model.num_layers == 10


@pytest.mark.parametrize(("depth", "layers"), [(5, 5), ("1/2", 4), ("1/3", 2), ("0.5", 4), (12, 12)])
def test_a_variant_may_have_other_layers_than_its_size_or_a_share_of_them(variants, depth, layers):
    named = {"short": {"architecture": "vanilla", "num_layers": depth}}
    (cell,) = plan(variants(named), None).cells
    assert cell.model.num_layers == layers


def test_per_arm_tables_find_entries_by_label_then_architecture_then_default(variants):
    law = {"reference_params": 100_000, "source": "planted"}
    rates = {"default": law | {"base": 0.01}, "mor": law | {"base": 0.02}, "loud": law | {"base": 0.03}}
    named = {"loud": MOR, "quiet": MOR, "plain": {"architecture": "vanilla"}}
    planned = plan(variants(named, {"train.learning_rate": rates}), None)
    assert {cell.arm: cell.train.peak_learning_rate for cell in planned.cells} == {
        "loud": 0.03,
        "quiet": 0.02,
        "plain": 0.01,
    }


def test_what_a_label_stands_for_is_a_setting_and_what_the_paper_prints_is_not(variants):
    def settings_id(variant):
        return plan(variants({"a": variant}), None).settings_id

    assert settings_id(MOR) != settings_id(MOR | {"kv": "shared"})
    assert settings_id(MOR) == settings_id(MOR | {"paper_nll": {"360M": 2.9}})


def test_two_labels_of_one_definition_are_two_rows_of_one_training(variants, snapshot):
    planned = plan(variants({"a": MOR, "b": MOR}), snapshot)
    first, second = planned.cells
    assert first.evaluate_segment == second.evaluate_segment
    assert first.cell_id != second.cell_id
    assert len(planned.segments) == 3


@pytest.mark.parametrize(("study", "preset"), [(s, name) for s in ("isoflop", "ablation") for name in preset_names(s)])
def test_a_shipped_sweep_survives_its_own_json_and_means_the_same(study, preset):
    spec = load_spec(preset, study=study)
    again = SweepSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.members == spec.members


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"routing.alfa": 1.0}, "small.toml: routing.alfa is no known key: did you mean alpha?"),
        ({"routing": {"choice": "token", "balance": 1}}, "routing.balance is no known key: did you mean"),
        ({"routing.choice": "both"}, "found \"both\", expected 'expert', 'token'"),
        ({"routing.alpha": 0}, "alpha 0.0: expected a number above 0"),
        ({"routing.router": "conv"}, "found \"conv\", expected 'linear', 'mlp', 'wide-mlp' or 'random'"),
        ({"routing.activation": "softmax"}, "found \"softmax\", expected 'sigmoid', 'tanh' or 'none'"),
        (
            {"routing.capacities": ["1", "1/3", "2/3"]},
            "capacities 1, 1/3, 2/3: expected numbers above 0 that do not grow",
        ),
        ({"routing.capacities": ["2/3", "1/3"]}, "capacities 2/3, 1/3: the first recursion takes every token"),
        ({"routing.capacities": ["1", "1/0"]}, "'1/0' is no number"),
        ({"routing.capacities": [True]}, 'found True, expected a number or a fraction in quotes, such as "2/3"'),
        ({"variants.a.recursion": 2}, "variants.a.recursion is no known key: did you mean recursions"),
        ({"variants.a.routing": {"alfa": 1.0}}, "variants.a.routing.alfa is no known key: did you mean alpha?"),
        ({"variants.a.architecture": "mor-3"}, "'mor-3' is an arm's label"),
        ({"variants.a.sharing": "sequence"}, "sharing 'sequence' cannot be routed"),
        ({"variants.a.num_layers": "3/2"}, 'a share of the size\'s depth in quotes, such as "1/2"'),
        ({"variants.a.num_layers": 0}, "0: expected a number of layers"),
        ({"variants.a.paper_nll": {"361M": 2.9}}, "size '361M' is unknown: did you mean 360M"),
        ({"variants.a.paper_nll": {"360M": "bad"}}, "'bad': expected the loss that the paper prints, or \"diverged\""),
        ({"variants": {"../a": MOR}}, "'../a' cannot name a folder"),
        ({"variants": {"a": {"architecture": "recursive"}}}, "recursive needs recursions = 2 or more"),
        ({"variants": {"a": {"architecture": "vanilla", "recursions": 2}}}, "shares no layers: leave out recursions"),
        ({"variants": {"a": {"architecture": "vanilla", "kv": "shared"}}}, "shares no layers: leave out kv"),
        (
            {"variants": {"a": {"architecture": "recursive", "recursions": 2, "routing": {}}}},
            "recursive routes no tokens: leave out routing, or use mor",
        ),
        ({"variants": {}}, "no arm is asked for: add [arms] or [variants.LABEL]"),
        ({"variants": {"default": MOR}}, "'default' means something else in per-arm tables"),
        ({"variants": {"vanilla": MOR}}, "'vanilla' means something else in per-arm tables"),
        (
            {"arms": {"architectures": ["mor"], "recursions": [3]}, "variants": {"mor-3": MOR}},
            "two arms are called mor-3",
        ),
        ({"only": ["aa", "a"]}, "only: there is no arm 'aa': did you mean a?"),
        ({"execution.compiled": True}, "execution.compiled is no known key: did you mean compile?"),
        ({"train.decay_on": "norms"}, "found \"norms\", expected 'all-matrices' or 'hidden-matrices'"),
    ],
)
def test_a_mistake_in_an_arm_is_one_sentence(variants, changes, sentence):
    with pytest.raises(SpecError) as refused:
        variants({"a": dict(MOR)}, changes)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        (
            MOR | {"kv": "hybrid", "routing": {"choice": "token"}},
            "kv hybrid refreshes the tokens that a router selects",
        ),
        (MOR | {"routing": {"capacities": ["1", "1/2"]}}, "routing.capacities has 2 numbers: expected 3"),
        (MOR | {"num_layers": 3, "fit_depth": "shrink"}, "3 layers leave nothing to share in 3 recursions"),
    ],
)
def test_arms_that_no_model_can_be_are_named_with_their_label_and_size(variants, variant, sentence):
    with pytest.raises(SpecError) as refused:
        plan(variants({"odd": variant}), None)
    assert str(refused.value).startswith(f"odd 70k: {sentence}")


def test_capacities_are_exact_in_the_plan_and_in_its_json(variants, snapshot):
    from orchestrator.cli.tables.plan import plan_json
    from orchestrator.planning.costs.estimate import estimate
    from orchestrator.planning.costs.machine import assumed_throughput

    planned = plan(variants({"a": MOR | {"routing": {"capacities": [1, "0.7", "1/7"]}}}), snapshot)
    assert planned.cells[0].model.capacities == (1, Fraction(7, 10), Fraction(1, 7))
    cost = estimate(planned, assumed_throughput("cpu", 1), num_evaluation_sequences=8)
    shown = json.loads(json.dumps(plan_json(planned, cost)))["cells"][0]
    assert shown["model"]["routing"]["capacities"] == ["1", "7/10", "1/7"]


def test_execution_is_no_setting_and_no_identity(variants, snapshot):
    changes = {f"execution.{name}": value for name, value in (("compile", True), ("deterministic", False))}
    plain, fast = plan(variants({"a": MOR}), snapshot), plan(variants({"a": MOR}, changes), snapshot)
    assert (plain.settings_id, plain.segments) == (fast.settings_id, fast.segments)


def test_what_weight_decay_acts_on_reaches_the_optimiser_and_is_identity(variants, snapshot):
    hidden, every = (
        plan(variants({"a": MOR}, {"train.decay_on": on}), snapshot) for on in ("hidden-matrices", "all-matrices")
    )
    assert hidden.cells[0].train.decay_on == "hidden-matrices"
    assert hidden.cells[0].trunk_id != every.cells[0].trunk_id
