"""What holds on a CPU holds on a GPU: the same numbers, the same bits twice, and no more memory than planned."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mor_core.config.model import ExpertChoice, Precision, Recursion, Routing
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Request, TokenEvent
from mor_core.inference.stages import trace
from mor_core.model.attention import prefix_attention, prefix_of
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import train_steps
from mor_core.training.memory import training_memory_bytes
from mor_core.training.optim import build_optimizer
from tests.helpers.models.variants import EXPERT, VARIANTS, loss_and_gradients, spread_routers, variant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

COMPILED = ["vanilla", "recursive-2", "mor-3", "mor-shared-kv", "mor-hybrid-kv", "token-3"]
ARMS: dict[str, tuple[Recursion, Routing | None]] = {
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-2-shared-kv": (Recursion(count=2, kv="shared"), ExpertChoice()),
}


@pytest.fixture(autouse=True)
def fixed_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a worker trains by default."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random_tokens(seed: int, *shape: int, vocab_size: int = 64) -> Tensor:
    return torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def training(precision: Precision = "bf16") -> TrainConfig:
    return TrainConfig(batch_size=8, peak_learning_rate=0.01, warmup_steps=2, precision=precision)


def patterned_batch(step: int) -> np.ndarray:
    """Arithmetic sequences: something to learn, another batch for each step."""
    generator = np.random.default_rng(step)
    starts, strides = generator.integers(0, 64, (8, 1)), generator.integers(1, 4, (8, 1))
    return (starts + strides * np.arange(25)) % 64


def losses(model: Transformer, train: TrainConfig, *, steps: int) -> list[float]:
    optimizer = build_optimizer(model, train)
    taken = train_steps(model, optimizer, train, patterned_batch, steps=range(steps), cooldown=None)
    return [float(metrics.loss) for metrics in taken]


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_gradients_are_those_of_a_cpu(name: str):
    results = []
    for device in ("cpu", "cuda"):
        model = spread_routers(build_model(variant(name), 0).double()).to(device)
        tokens_BT = random_tokens(1, 4, 24).to(device)
        output = model(tokens_BT)
        (output.logits_BTV.square().mean() + (output.routed.loss if output.routed else 0.0)).backward()
        gradients = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
        results.append((output.logits_BTV.detach().cpu(), gradients))
    (logits, gradients), (cuda_logits, cuda_gradients) = results
    # The control's logits are rounded to fp32 after a logarithm, whose last bits are the device's own.
    tolerance = 1e-6 if name.endswith("random") else 1e-9
    assert torch.allclose(logits, cuda_logits, atol=tolerance)
    assert gradients.keys() == cuda_gradients.keys()
    for parameter, gradient in gradients.items():
        assert torch.allclose(gradient, cuda_gradients[parameter], atol=tolerance), parameter


@pytest.mark.parametrize("name", VARIANTS)
def test_training_in_bf16_learns_and_gives_the_same_bits_twice(name: str):
    train = training()
    first, second = (losses(build_model(variant(name), 3, torch.device("cuda")), train, steps=60) for _ in range(2))
    assert first == second
    assert np.mean(first[-5:]) < np.mean(first[:5]) - 0.5


@pytest.mark.parametrize("name", COMPILED)
def test_shapes_of_many_attention_blocks_give_the_same_bits_twice_too(name: str):
    recursion, routing = VARIANTS[name]
    shape = model_config(SIZES["135M"], vocab_size=1024, context_length=1024, recursion=recursion, routing=routing)
    batch = random_tokens(0, 8, 1025, vocab_size=1024).numpy()

    def taken() -> list[Tensor]:
        model = build_model(shape, 0, torch.device("cuda"))
        optimizer = build_optimizer(model, training())
        list(train_steps(model, optimizer, training(), lambda _: batch, steps=range(3), cooldown=None))
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(taken(), taken(), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_was_interrupted_has_the_bits_of_one_that_was_not(name: str, tmp_path: Path):
    train, device = training(), torch.device("cuda")

    def run(model: Transformer, optimizer: torch.optim.AdamW, start: int, stop: int) -> None:
        list(train_steps(model, optimizer, train, patterned_batch, steps=range(start, stop), cooldown=None))

    whole = build_model(variant(name), 0, device)
    run(whole, build_optimizer(whole, train), 0, 8)
    half = build_model(variant(name), 0, device)
    optimizer = build_optimizer(half, train)
    run(half, optimizer, 0, 4)
    save_checkpoint(tmp_path / "half", half, optimizer, 4)
    resumed = build_model(variant(name), 1, device)
    optimizer = build_optimizer(resumed, train)
    load_checkpoint(tmp_path / "half", resumed, optimizer)
    run(resumed, optimizer, 4, 8)
    for (key, value), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_agrees_with_a_cpu(name: str):
    batches, bytes_of_token = [random_tokens(5, 4, 25).numpy()], np.ones(64, dtype=np.int64)
    model = spread_routers(build_model(variant(name), 2))
    on_cpu = evaluate(model, training("fp32"), batches, bytes_of_token)
    on_gpu = evaluate(model.to("cuda"), training("fp32"), batches, bytes_of_token)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, abs=2e-3)
    assert on_gpu.depth_mean == pytest.approx(on_cpu.depth_mean, abs=0.05)
    in_bf16 = evaluate(model, training("bf16"), batches, bytes_of_token)
    assert in_bf16.loss == pytest.approx(on_cpu.loss, abs=5e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_generation_computes_what_the_full_forward_pass_computes(name: str):
    model = spread_routers(build_model(variant(name), 0).double()).to("cuda").eval()
    tokens_BT = random_tokens(1, 3, 24).to("cuda")
    for rule in ("threshold", "half") if name in EXPERT else ("threshold",):
        logits_BTV = model(tokens_BT, rule).logits_BTV
        for each, logits_TV in zip(trace(model, tokens_BT.tolist(), rule), logits_BTV, strict=True):
            assert torch.allclose(each.logits_TV.to("cuda"), logits_TV, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_recorded_runs_generate_what_runs_asked_for_one_by_one_do(name: str):
    model = spread_routers(build_model(variant(name), 0).double()).to("cuda").eval()
    asked = [
        Request(prompt=tuple(random_tokens(i, 1 + i % 5).tolist()), max_new_tokens=1 + i % 12, keep_logits=True)
        for i in range(40)
    ]
    plain, recorded = (Engine(model, EngineOptions(kv_bytes=10**7, max_batch=7, max_sequences=13)) for _ in range(2))
    plain.stages.recorder = None
    for one, other in zip(plain.run(asked), recorded.run(asked), strict=True):
        assert one.request_id == other.request_id
        if isinstance(one, TokenEvent):
            assert isinstance(other, TokenEvent)
            assert one.token == other.token
            assert torch.allclose(one.logits_V, other.logits_V, atol=1e-9)
    assert plain.totals == recorded.totals
    assert recorded.stages.recorder is not None


@pytest.mark.parametrize(("queries", "length"), [(1, 5), (100, 300), (128, 256), (683, 1024), (1000, 1000)])
def test_packed_queries_see_the_keys_up_to_their_own_position_in_half_precision(queries: int, length: int):
    generator = torch.Generator().manual_seed(queries)
    positions_BK = torch.rand(2, length, generator=generator).argsort(dim=1)[:, :queries].sort(dim=1).values.cuda()
    shapes = [(2, 6, queries, 64), (2, 2, length, 64), (2, 2, length, 64)]
    exact = [torch.randn(shape, generator=generator).cuda().bfloat16().double().requires_grad_() for shape in shapes]
    rounded = [each.detach().bfloat16().requires_grad_() for each in exact]
    expected = prefix_attention(*exact, prefix_of(positions_BK, length, 64, torch.float64))
    found = prefix_attention(*rounded, prefix_of(positions_BK, length, 64, torch.bfloat16))
    direction = torch.randn(expected.shape, generator=generator).cuda()
    gradients = torch.autograd.grad(expected, exact, direction.double())
    rounded_gradients = torch.autograd.grad(found, rounded, direction.bfloat16())
    for one, other in zip((expected, *gradients), (found, *rounded_gradients), strict=True):
        assert (one - other.double()).norm() < 0.01 * one.norm()


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layers_train_to_the_same_losses(name: str):
    train = training("fp32")
    eager = losses(build_model(variant(name), 0, torch.device("cuda")), train, steps=10)
    compiled = build_model(variant(name), 0, torch.device("cuda"))
    compiled.compile_for_training()
    assert losses(compiled, train, steps=10) == pytest.approx(eager, abs=2e-3)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layers_give_the_same_losses_and_gradients(name: str):
    eager, compiled = (spread_routers(build_model(variant(name), 0, torch.device("cuda"))) for _ in range(2))
    compiled.compile_for_training()
    for seed in range(3):
        tokens_BT = random_tokens(seed, 8, 24).to("cuda")
        (loss, expected), (found_loss, found) = (loss_and_gradients(model, tokens_BT) for model in (eager, compiled))
        assert found_loss == pytest.approx(loss, rel=1e-5)
        for parameter, gradient in expected.items():
            assert (gradient - found[parameter]).norm() <= 1e-4 * gradient.norm() + 1e-9, parameter


@pytest.mark.parametrize("name", [each for each in VARIANTS if "token" not in each and "kv" not in each])
def test_the_host_never_waits_for_the_device_within_a_step(name: str):
    """Token choice and keys of the whole sequence need the number of tokens, or their positions, on the host."""
    train = training()
    model = build_model(variant(name), 0, torch.device("cuda"))
    optimizer = build_optimizer(model, train)
    steps = train_steps(model, optimizer, train, patterned_batch, steps=range(6), cooldown=None)
    for _ in range(3):
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("checkpoint_activations", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arm", ARMS)
def test_the_allocators_peak_is_within_15_percent_of_the_estimate(
    arm: str, precision: Precision, checkpoint_activations: bool
):
    recursion, routing = ARMS[arm]
    shape = model_config(SIZES["135M"], vocab_size=49152, context_length=1024, recursion=recursion, routing=routing)
    train = training(precision)
    model = build_model(shape, 0, torch.device("cuda"))
    model.checkpoint_activations = checkpoint_activations
    optimizer = build_optimizer(model, train)
    batch = random_tokens(0, 8, 1025, vocab_size=49152).numpy()
    steps = train_steps(model, optimizer, train, lambda _: batch, steps=range(2), cooldown=None)
    next(steps)  # makes the optimiser's state
    torch.cuda.reset_peak_memory_stats()
    next(steps)
    estimated = training_memory_bytes(shape, train, "cuda", checkpoint_activations=checkpoint_activations)
    assert estimated == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
