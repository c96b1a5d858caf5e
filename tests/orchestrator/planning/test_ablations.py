"""The shipped ablations: the arms, parameters and steps of the paper's tables, and twins that a CPU finishes.

Source: Bae et al., Mixture-of-Recursions, arXiv 2507.10524v3, Tables 10, 13, 14 and 15: every row trains on 10 billion
tokens, in steps of 2,097,152.
"""

import pytest

from mor_core.config.model import ExpertChoice, TokenChoice
from mor_core.flops import router_params
from orchestrator.planning.costs.estimate import estimate
from orchestrator.planning.costs.machine import assumed_throughput
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import preset_names
from orchestrator.planning.spec.sweep_spec import load_spec

STUDIES = ("sharing", "expert_router", "token_router", "kv")

# label: (millions of unique non-embedding parameters, unrolled layers) at 135M and 360M; paper, Tables 3, 7, 9 and 10
SHARING = {
    "full": ((106, 30), (315, 32)),
    "half": ((53, 15), (157, 16)),
    "third": ((35, 10), (98, 10)),
    "cyc-2": ((53, 30), (157, 32)),
    "seq-2": ((53, 30), (157, 32)),
    "m-cyc-2": ((57, 30), (167, 32)),
    "m-seq-2": ((57, 30), (167, 32)),
    "cyc-3": ((35, 30), (98, 30)),
    "seq-3": ((35, 30), (98, 30)),
    "m-cyc-3": ((39, 29), (118, 32)),
    "m-seq-3": ((39, 29), (118, 32)),
}


@pytest.fixture(scope="module")
def planned():
    """The plan of each shipped ablation, by the name of its file."""
    return {name: plan(load_spec(name, study="ablation"), None) for name in preset_names("ablation")}


def by_arm(plan):
    return {cell.arm: cell for cell in plan.cells}


def test_every_ablation_has_a_twin_for_the_cpu(planned):
    assert set(planned) == {*STUDIES, *(f"{study}_cpu" for study in STUDIES)}
    assert all(each.dropped == () for each in planned.values())


@pytest.mark.parametrize("study", STUDIES)
def test_every_cell_is_trained_as_in_the_paper(planned, study):
    for cell in planned[study].cells:
        assert cell.steps == round(10e9 / 2_097_152) == 4768
        assert cell.tokens_per_step == 2_097_152
        train = cell.train
        assert (train.batch_size, train.peak_learning_rate, train.precision) == (1024, 3e-3, "bf16")
        assert (train.cosine_steps, train.cosine_floor, cell.decay_steps) == (4768, 0.0, 0)
        assert train.warmup_steps == 238
        assert load_spec(study, study="ablation").evaluation.num_sequences == 500


def test_the_sharing_strategies_have_the_parameters_of_table_10(planned):
    found = {(cell.arm, cell.size): cell for cell in planned["sharing"].cells}
    assert len(found) == len(planned["sharing"].cells) == 2 * len(SHARING)
    for label, expected in SHARING.items():
        for size, (millions, layers) in zip(("135M", "360M"), expected, strict=True):
            cell = found[label, size]
            assert round(cell.unique_params / 1e6) == millions, label
            assert cell.model.num_layers == layers, label


@pytest.mark.parametrize(("study", "rows"), [("expert_router", 18), ("token_router", 12), ("kv", 19)])
def test_the_other_ablations_have_every_row_at_360m(planned, study, rows):
    cells = planned[study].cells
    assert len(cells) == len(by_arm(planned[study])) == rows
    assert {cell.size for cell in cells} == {"360M"}
    for cell in cells:
        if cell.architecture == "mor":
            assert round((cell.unique_params - router_params(cell.model)) / 1e6) == 118
            assert (cell.recursions, cell.model.recursion.sharing) == (3, "middle-cycle")


def test_the_expert_routers_differ_from_the_final_recipe_only_where_table_13_says(planned):
    arms = {label: cell.model.routing for label, cell in by_arm(planned["expert_router"]).items()}
    assert arms["linear"] == ExpertChoice()
    assert arms["loss-1e-2-tanh-a1"] == ExpertChoice(router="mlp", activation="tanh", alpha=1.0, aux_loss_weight=0.01)
    assert arms["router-sig"] == ExpertChoice(router="mlp", auxiliary="router")
    assert arms["linear-warmup"] == ExpertChoice(capacity_warmup_steps=238)
    assert arms["linear-z"] == ExpertChoice(z_loss_weight=0.001)
    assert len(set(arms.values())) == len(arms)


def test_the_token_routers_differ_from_the_final_recipe_only_where_table_14_says(planned):
    arms = {label: cell.model.routing for label, cell in by_arm(planned["token_router"]).items()}
    assert arms["linear"] == TokenChoice()
    assert arms["loss-1e-1-linear-z"] == TokenChoice(z_loss_weight=0.001)
    assert arms["free-1e-2-sig"] == TokenChoice(
        router="mlp", activation="sigmoid", alpha=0.1, balancing="loss-free", bias_update_rate=0.01, z_loss_weight=0.001
    )
    assert len(set(arms.values())) == len(arms)


def test_table_15_has_shared_and_hybrid_keys_for_recursive_and_routed_models(planned):
    arms = {label: cell.model for label, cell in by_arm(planned["kv"]).items()}
    kinds = [(label, model.architecture, model.recursion.kv) for label, model in arms.items()]
    assert [kind.count("shared") for kind in kinds].count(1) == 8
    assert arms["expert-hybrid"].recursion.kv == "hybrid"
    assert isinstance(arms["token-share"].routing, TokenChoice)
    assert arms["token"].routing == TokenChoice()
    assert arms["expert"].routing == ExpertChoice()
    for label in ("m-cyc-3", "seq-2", "expert", "token"):
        own, shared = arms[label], arms[f"{label}-share"]
        assert own.layer_map == shared.layer_map


@pytest.mark.parametrize("study", STUDIES)
def test_every_printed_loss_stands_at_a_size_that_is_trained(study):
    spec = load_spec(study, study="ablation")
    for label, variant in spec.variants.items():
        assert set(variant.paper_nll or {}) == set(spec.sizes.names or ()), label


@pytest.mark.parametrize("study", STUDIES)
def test_a_twin_has_the_same_variants(study):
    def variants(name):
        spec = load_spec(name, study="ablation")
        found = {label: each.model_dump(mode="json") for label, each in spec.variants.items()}
        if "linear-warmup" in found:
            del found["linear-warmup"]["routing"]["capacity_warmup_steps"]
        return found, spec.routing

    assert variants(study) == variants(f"{study}_cpu")


def test_capacities_warm_up_as_long_as_the_rate_does(planned):
    for name in ("expert_router", "expert_router_cpu"):
        cell = by_arm(planned[name])["linear-warmup"]
        assert cell.model.capacity_warmup_steps == cell.train.warmup_steps
        assert cell.flops["exact"] > by_arm(planned[name])["linear"].flops["exact"]


@pytest.mark.parametrize("study", STUDIES)
def test_a_twin_takes_minutes_on_two_cores(planned, study):
    name = f"{study}_cpu"
    sequences = load_spec(name, study="ablation").evaluation.num_sequences
    cost = estimate(planned[name], assumed_throughput("cpu", 2), num_evaluation_sequences=sequences)
    assert 120 <= (cost.flops + cost.flops_evaluation) / (2 * cost.throughput.flops_per_second) <= 240
    assert all(cell.steps >= 200 for cell in planned[name].cells)
