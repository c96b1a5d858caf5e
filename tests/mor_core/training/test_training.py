"""Schedule, resume, micro-batches and evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.flops import training_flops_per_token
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import Diverged, train_steps
from mor_core.training.manifest import CheckpointError, verify_checkpoint
from mor_core.training.optim import build_optimizer, learning_rate

TRAIN = TrainConfig(batch_size=8, peak_learning_rate=0.01, warmup_steps=4)
ROUTED = model_config(
    SIZES["35k"], vocab_size=64, context_length=16, recursion=Recursion(count=2), routing=ExpertChoice()
)
VANILLA = model_config(SIZES["35k"], vocab_size=64, context_length=16)


def batch_of_step(step: int) -> np.ndarray:
    """Sequences that count upwards from a random start: something that can be learnt."""
    starts = np.random.default_rng(step).integers(0, 64, size=(8, 1))
    return (starts + np.arange(17)) % 64


def trained(config: ModelConfig, stop: int, micro_batch: int | None = None) -> tuple[Transformer, list[float]]:
    torch.set_num_threads(1)
    model = build_model(config, seed=0)
    optimizer = build_optimizer(model, TRAIN)
    steps = train_steps(
        model, optimizer, TRAIN, batch_of_step, steps=range(stop), cooldown=None, micro_batch=micro_batch
    )
    return model, [metrics.to_floats()["loss"] for metrics in steps]


@given(st.integers(1, 50), st.integers(60, 100), st.integers(101, 200))
def test_the_schedule_is_a_trapezoid(warmup, start, stop):
    config = TrainConfig(batch_size=1, peak_learning_rate=2.0, warmup_steps=warmup)
    rates = [learning_rate(step, config, (start, stop)) for step in range(stop)]
    assert rates[warmup - 1 : start + 1] == [2.0] * (start - warmup + 2)
    assert all(rate > 0 for rate in rates)
    assert np.allclose(np.diff(rates[:warmup]), 2.0 / warmup)
    assert np.allclose(np.diff(rates[start:]), -2.0 / (stop - start))
    assert learning_rate(start, config, None) == 2.0


@given(st.integers(0, 20), st.integers(30, 200), st.floats(0, 0.5))
def test_a_cosine_falls_from_the_peak_to_its_floor_and_ignores_cooldowns(warmup, steps, floor):
    config = TrainConfig(
        batch_size=1, peak_learning_rate=2.0, warmup_steps=warmup, cosine_steps=steps, cosine_floor=floor
    )
    rates = [learning_rate(step, config, None) for step in range(warmup, steps + 1)]
    assert rates[0] == 2.0
    assert rates[-1] == pytest.approx(2.0 * floor)
    assert (np.diff(rates) < 0).all()
    middle = learning_rate((warmup + steps) // 2, config, None)
    assert middle == pytest.approx(1.0 + floor, abs=2.0 * 4 / (steps - warmup))


@pytest.mark.parametrize("config", [VANILLA, ROUTED], ids=["vanilla", "mor-2"])
def test_training_learns_to_count(config: ModelConfig):
    _, losses = trained(config, 60)
    assert losses[0] == pytest.approx(np.log(64), abs=0.2)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("config", [VANILLA, ROUTED], ids=["vanilla", "mor-2"])
def test_a_run_resumed_from_its_checkpoint_is_the_undisturbed_run_bit_for_bit(config: ModelConfig, tmp_path: Path):
    undisturbed, losses = trained(config, 12)
    model = build_model(config, seed=0)
    optimizer = build_optimizer(model, TRAIN)
    for metrics in train_steps(model, optimizer, TRAIN, batch_of_step, steps=range(12), cooldown=None):
        if metrics.step == 5:
            save_checkpoint(tmp_path / "at-5", model, optimizer, 5)
            break
    resumed = build_model(config, seed=99)
    resumed_optimizer = build_optimizer(resumed, TRAIN)
    step = load_checkpoint(tmp_path / "at-5", resumed, resumed_optimizer)
    rest = train_steps(resumed, resumed_optimizer, TRAIN, batch_of_step, steps=range(step, 12), cooldown=None)
    assert [metrics.to_floats()["loss"] for metrics in rest] == losses[5:]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_micro_batch_changes_rounding_only():
    whole, losses = trained(ROUTED, 8)
    halves, losses_of_halves = trained(ROUTED, 8, micro_batch=4)
    assert losses == pytest.approx(losses_of_halves, abs=1e-5)
    assert torch.allclose(whole.threshold_R, halves.threshold_R, atol=1e-5)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="micro_batch 3 does not divide the batch of 8"):
        trained(VANILLA, 1, micro_batch=3)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step():
    model = build_model(VANILLA, seed=0)
    model.embedding.weight.data[:] = float("nan")
    steps = train_steps(model, build_optimizer(model, TRAIN), TRAIN, batch_of_step, steps=range(3), cooldown=None)
    with pytest.raises(Diverged, match="nan at step 1"):
        next(steps).to_floats()


def test_a_gradient_that_is_not_finite_ends_the_run_though_the_loss_still_is():
    model = build_model(VANILLA, seed=0)
    model.embedding.weight.register_hook(lambda gradient: gradient * float("inf"))
    steps = train_steps(model, build_optimizer(model, TRAIN), TRAIN, batch_of_step, steps=range(3), cooldown=None)
    first = next(steps)
    assert not first.is_finite()
    with pytest.raises(Diverged, match="gradient norm"):
        first.to_floats()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_never_loaded_and_the_file_is_named(damage: str, tmp_path: Path):
    model = build_model(VANILLA, seed=0)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, build_optimizer(model, TRAIN), 0)
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    elif damage == "truncate":
        weights.write_bytes(data[:-100])
    elif damage == "remove":
        weights.unlink()
    else:
        (folder / "manifest.json").write_text('{"schema": "mor-sweep.checkpoint/1"')
    with pytest.raises(CheckpointError, match=r"manifest\.json|weights\.safetensors"):
        load_checkpoint(folder, model, None)


def test_a_manifest_may_not_point_outside_its_folder(tmp_path: Path):
    model = build_model(VANILLA, seed=0)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, None, 0)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"weights.safetensors"', '"../weights.safetensors"'))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        verify_checkpoint(folder)


def test_weights_kept_without_an_optimiser_evaluate_but_do_not_resume(tmp_path: Path):
    model = build_model(VANILLA, seed=0)
    save_checkpoint(tmp_path / "weights", model, None, 7)
    assert load_checkpoint(tmp_path / "weights", build_model(VANILLA, seed=1), None) == 7
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        load_checkpoint(tmp_path / "weights", model, build_optimizer(model, TRAIN))


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path / "vanilla", build_model(VANILLA, seed=0), None, 1)
    with pytest.raises(CheckpointError, match="not a checkpoint of this model"):
        load_checkpoint(tmp_path / "vanilla", build_model(ROUTED, seed=0), None)


def test_after_training_the_threshold_realises_about_the_planned_capacity_and_both_losses_are_close():
    model, _ = trained(ROUTED, 150)
    batches = [batch_of_step(10_000 + step) for step in range(8)]
    result = evaluate(model, TRAIN, batches, np.full(64, 2))
    assert result.planned_capacity == (1.0, 0.5)
    assert result.realised_capacity[0] == 1.0
    assert 0.3 < result.realised_capacity[1] < 0.7
    assert result.depth_mean == pytest.approx(sum(result.realised_capacity))
    assert abs(result.loss - result.loss_topk) < 0.3
    assert result.tokens == 8 * 8 * 16
    assert result.bits_per_byte == pytest.approx(result.loss / np.log(2) / 2)
    assert len(result.sequence_losses) == 8 * 8
    assert np.mean(result.sequence_losses) == pytest.approx(result.loss, rel=1e-12)
    alone = evaluate(model, TRAIN, [batches[2][3:4]], np.full(64, 2))
    assert alone.sequence_losses == pytest.approx(result.sequence_losses[2 * 8 + 3 : 2 * 8 + 4], rel=1e-4)


def test_a_model_without_routing_has_one_loss_and_its_planned_flops():
    model, _ = trained(VANILLA, 5)
    result = evaluate(model, TRAIN, [batch_of_step(1)], np.full(64, 1))
    assert result.loss == result.loss_topk
    assert result.depth_mean == 1.0
    assert 3 * result.forward_flops_per_token == pytest.approx(float(training_flops_per_token(VANILLA, "exact")))
