"""`check_model` finds what would go wrong with a user's own model, in a sentence each, and nothing in a right one."""

from pathlib import Path
from typing import Any

import pytest

from examples.llama_of_transformers import llama
from examples.ngram_mlp import ngram
from mor_core.config.sizes import SIZES, model_config
from mor_core.flops import total_params, training_flops_per_token, unique_params, unrolled_params
from mor_core.model.own.code import OwnImportError, OwnModelError
from mor_core.model.own.counts import counted
from mor_core.model.own.model import definition_of, load_definition
from orchestrator.planning.own_models.check import check_model
from tests.helpers import own_models as samples


@pytest.mark.parametrize(
    "target",
    [
        samples.right,
        samples.of(samples.Tied),
        samples.Reasoned(),
        samples.momentum,
        samples.whole_runs,
        samples.stateless,
    ],
)
def test_a_model_that_is_right_has_no_problem(target: Any) -> None:
    found = check_model(target, vocab_size=64, context_length=16)
    assert found.problems == ()
    assert [model.size for model in found.models] == ["small", "large"], "smallest first"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (samples.of(samples.LooksAhead), "expected a causal model"),
        (samples.of(samples.Unused), "no gradient reaches module.spare"),
        (samples.of(samples.NotANumber), "nan at step 1"),
        (samples.of(samples.Forgets), "keep all state in parameters and buffers"),
        (samples.of(samples.OtherShape), "weights do not load back: weights.safetensors: not a checkpoint of this"),
        (samples.of(samples.WrongLogits), "expected logits [1, 16, 64]"),
        (samples.Halved(), "0.5 times what PyTorch's counter says"),
        (samples.NoVersion(), "version is missing"),
        (samples.CountsVersions(), "version is 2, expected a text"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(target: Any, sentence: str) -> None:
    found = check_model(target, vocab_size=64, context_length=16)
    assert [problem for problem in found.problems if sentence in problem], found.problems
    assert not any("\n" in problem or "Traceback" in problem for problem in found.problems)
    assert not found.passed


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (samples.SeesNoRate(), "supports_cooldown is True, and a falling rate ends with the weights of a constant one"),
        (samples.Idle(), "4 training steps leave every weight as it was"),
        (samples.LossIsNotANumber(), "loss nan at step 1"),
        (samples.WeightsAreNotNumbers(), "weight norm nan at step 1"),
        (samples.GivesNoLoss(), "training_step gave NoneType, expected the loss before the step"),
        (samples.LosesItsState(), "keep all state in parameters, buffers and state_tensors"),
        (samples.SavesNoState(), "keep all state in parameters, buffers and state_tensors"),
        (samples.StateIsNoTensors(), "state_tensors gave dict for 'momentum', expected a tensor"),
        (samples.CannotLoad(), "load_state failed: KeyError: 'momentum'"),
        (samples.TakesNoRate(), "it could not be trained: TypeError"),
        (samples.NamesNaN(), "named_losses gave [nan, nan] for last"),
        (samples.NamesAMean(), "named_losses gave [] for last, expected [2]"),
        (samples.NamesAPath(), "named_losses called a loss '../last'"),
        (samples.MaybeCools(), "supports_cooldown is 'yes': expected True or False"),
        (samples.CoolsAlone(), "training_step is missing, which supports_cooldown needs"),
        (samples.StepIsNoMethod(), "training_step is no method"),
    ],
)
def test_what_is_wrong_with_training_steps_of_its_own_is_said_in_one_sentence(target: Any, sentence: str) -> None:
    (problem,) = check_model(target, vocab_size=64, context_length=16).problems
    assert sentence in problem
    assert "\n" not in problem


def test_each_method_that_a_state_needs_is_named() -> None:
    problems = check_model(samples.StateAlone()).problems
    assert [problem.split()[1] for problem in problems] == ["training_step", "state_tensors", "load_state"]


@pytest.mark.parametrize(
    ("target", "training", "verdict"),
    [
        (samples.right, "adamw", "it can be trained"),
        (samples.momentum, "steps", "it can be trained by its own steps, on trunks that budgets share"),
        (samples.stateless, "whole-runs", "it can be trained by its own steps, each run as a whole"),
    ],
)
def test_the_verdict_says_how_it_is_trained(target: Any, training: str, verdict: str) -> None:
    check = check_model(target, vocab_size=64, context_length=16)
    assert {model.training for model in check.models} == {training}
    assert str(check).splitlines()[-1] == verdict


def test_every_part_that_is_missing_has_its_own_sentence() -> None:
    assert len(check_model(samples.NoVersion()).problems) == 2, "version and build"


def test_parameters_flops_and_memory_are_those_of_the_module() -> None:
    model = counted(definition_of(samples.right), "large", vocab_size=64, context_length=16).model
    assert model.unique_params == model.unrolled_params == 16 * 16 + 16
    assert model.total_params == model.unique_params + 2 * 64 * 16, "embedding and head are no part of N"
    assert model.training_flops == 16 * 6 * (16 * 16 + 64 * 16)
    assert 3 * model.forward_flops == model.training_flops


def test_a_count_below_six_flops_a_weight_is_a_warning_with_both_numbers() -> None:
    (warning,) = counted(definition_of(samples.Reasoned()), "large", vocab_size=64, context_length=16).warnings
    assert f"{3 * (16 * 16 + 16 * 64):,} training" in warning
    assert f"{6 * (16 * 16 + 16 * 64):,}, 6 for each" in warning


class CountedLlama:
    """The Llama without a count of its own, so that its FLOPs are those of PyTorch's counter."""

    version = "1"
    sizes = llama.sizes
    build = staticmethod(llama.build)


@pytest.mark.parametrize("size", llama.sizes)
def test_the_llama_of_transformers_counts_as_our_vanilla_of_the_same_shape(size: str) -> None:
    ours = model_config(SIZES[f"{size}-4L"], vocab_size=64, context_length=16)
    theirs = counted(definition_of(llama), size, vocab_size=64, context_length=16).model
    assert (theirs.unique_params, theirs.unrolled_params) == (unique_params(ours), unrolled_params(ours))
    assert theirs.total_params == total_params(ours)
    assert training_flops_per_token(theirs, "exact") == training_flops_per_token(ours, "exact")
    counter = counted(definition_of(CountedLlama()), size, vocab_size=64, context_length=16).model
    masked_pairs = 16 * 15 // 2
    flops_of_pair = 3 * 2 * 2 * ours.d_model  # Forward and twice that backward; scores and values, a multiply-add as 2.
    assert counter.training_flops - theirs.training_flops == ours.num_layers * flops_of_pair * masked_pairs


@pytest.mark.parametrize("size", ngram.sizes)
def test_the_ngram_counts_its_flops_as_pytorchs_counter_does(size: str) -> None:
    """Also where its hidden layer is as wide as the vocabulary: the head is the last of two such layers."""
    width = ngram.sizes[size]["width"]
    found = counted(definition_of(ngram), size, vocab_size=64, context_length=16)
    assert found.model.unique_params == 8 * width * 4 * width + 4 * width
    assert 3 * found.model.forward_flops == found.model.training_flops
    assert found.warnings == ()


@pytest.mark.parametrize("count", [0, -1, "many", float("nan"), True])
def test_a_count_that_is_no_positive_number_is_refused(count: Any) -> None:
    ladder = samples.of(samples.Bigram)
    ladder.unique_params = lambda **_: count
    with pytest.raises(OwnModelError, match="expected a positive number"):
        counted(definition_of(ladder), "small", vocab_size=64, context_length=16)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("from transformers_of_nobody.models import Llama")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OwnImportError, match="no module transformers_of_nobody, install the package that has it"):
        load_definition("needs_more:llama")
