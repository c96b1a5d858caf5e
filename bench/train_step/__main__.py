"""How fast and how large a training step is: ratios between contenders that alternate in one run. See bench/README.md.

python -m bench.train_step [SECTION ...] [--device cpu|cuda] [--rounds N] [--threads N] [--clock wall|cpu] [--force]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bench.train_step.contender import BUSY_LOAD, Contender, Runner, Timing
from mor_core.config.model import ExpertChoice, ModelConfig, Precision, Recursion
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.flops import training_flops_per_token
from mor_core.training.memory import Device, training_memory_bytes

WARM_UP_STEPS = 2
"""Untimed: compilation, the optimiser's state, the allocator's first blocks."""

ARMS: dict[str, tuple[Recursion, ExpertChoice | None]] = {
    # A new arm is one more row. The first is what the others are compared with.
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "mor-2": (Recursion(count=2), ExpertChoice()),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-2 kv shared": (Recursion(count=2, kv="shared"), ExpertChoice()),
    "mor-3 kv shared": (Recursion(count=3, kv="shared"), ExpertChoice()),
}

STEPS_IN_A_ROW = 30
"""Of models whose step takes milliseconds."""

PRESET_RUNGS = ("12k-4L", "35k-4L", "120k-4L")
"""Small, middle and large among what the CPU preset trains."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said."""

    rounds: int
    """Timed steps of each contender."""
    threads: int
    """torch threads, except where a section says one."""
    cpu_clock: bool
    """Compare processor seconds instead of wall seconds: less disturbed by neighbours, blind to waiting."""
    only: str | None
    """The only arm to compare with vanilla; None compares all."""
    device: Device
    """Where contenders train. A GPU gets larger batches: it must have enough to do."""

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def seconds(self, timing: Timing) -> float:
        return timing.cpu if self.cpu_clock else timing.wall


def training(batch_size: int, precision: Precision) -> TrainConfig:
    return TrainConfig(batch_size=batch_size, peak_learning_rate=1e-4, warmup_steps=10, precision=precision)


def race(contenders: Sequence[Contender], options: Options, steps: int = 1) -> list[list[float]]:
    """Seconds of each contender's step; in every round each takes as many as said, one contender after another."""
    runners = [Runner(contender) for contender in contenders]
    rounds: list[list[float]] = []
    try:
        for runner in runners:
            report(f"{runner.contender.name}: {'compiling and ' if runner.contender.compiled else ''}warming up")
            for _ in range(WARM_UP_STEPS):
                runner.step()
        for number in range(1, options.rounds + 1):
            report(f"round {number} of {options.rounds}")
            rounds.append([options.seconds(runner.step(steps)) for runner in runners])
    finally:
        for runner in runners:
            runner.close()
    return [list(times) for times in zip(*rounds, strict=True)]


def report(progress: str) -> None:
    """Say on stderr what is going on: on a slow machine a row takes a minute."""
    print(f"  {progress}", file=sys.stderr, flush=True)


def ratio(times: Sequence[float], base: Sequence[float]) -> str:
    """Median, lowest and highest ratio of the rounds."""
    ratios = [one / other for one, other in zip(times, base, strict=True)]
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def timed_precision(options: Options) -> Precision:
    """bf16, or fp32 where this processor has to emulate bf16: its products are then many times slower, and a step in
    bf16 says nothing about either contender."""
    if options.on_gpu:
        return "bf16"
    fp32_rate, bf16_rate = (matmul_rate(512, options, dtype, repeats=5) for dtype in (torch.float32, torch.bfloat16))
    if bf16_rate > fp32_rate / 2:
        return "bf16"
    report("this processor emulates bf16: fp32 is timed instead")
    return "fp32"


def against_transformers(options: Options) -> None:
    """A vanilla transformer against LlamaForCausalLM of equal shape, batch, precision and optimiser."""
    precision = timed_precision(options)
    model = ModelConfig(
        vocab_size=4096,
        context_length=256,
        num_layers=11,
        d_model=256,
        num_heads=4,
        num_kv_heads=4,
        d_head=64,
        d_ff=688,
    )
    batch_size = 32 if precision == "bf16" else 4
    if options.on_gpu:
        model, batch_size = model_config(SIZES["360M"], vocab_size=49152, context_length=2048), 8
    ours = Contender(
        name="mor-sweep compiled",
        model=model,
        train=training(batch_size, precision),
        threads=options.threads,
        device=options.device,
        compiled=True,
    )
    eager = replace(ours, name="mor-sweep eager", compiled=False)
    theirs = replace(ours, name="transformers compiled", library="transformers")
    theirs_eager = replace(theirs, name="transformers eager", compiled=False)
    print(f"{'':46}{'tokens/s':>18}   speed of the first over the second")
    # Eager first: compilation takes a minute on a slow core, and a first row should not wait for it.
    for first, second in ((eager, theirs_eager), (ours, eager), (ours, theirs_eager), (ours, theirs)):
        ours_seconds, seconds = race([first, second], options)
        speeds = " ".join(
            f"{one.tokens / statistics.median(times):9.0f}" for one, times in ((first, ours_seconds), (second, seconds))
        )
        print(f"{first.name + ' over ' + second.name:46}{speeds:>18}   {ratio(seconds, ours_seconds)}", flush=True)


def arms_at(options: Options, size: str, context_length: int, vocab_size: int, batch_size: int) -> None:
    """Each arm against vanilla, two at a time: time over what FLOPs predict, and peak bytes of live tensors."""
    precision = timed_precision(options)
    contenders = [
        Contender(
            name=name,
            model=model_config(
                SIZES[size], vocab_size=vocab_size, context_length=context_length, recursion=recursion, routing=routing
            ),
            train=training(batch_size, precision),
            threads=options.threads,
            device=options.device,
            compiled=options.on_gpu,
        )
        for name, (recursion, routing) in ARMS.items()
    ]
    vanilla, *others = contenders
    others = [arm for arm in others if options.only in (None, arm.name)]
    base_flops, base_bytes = training_flops_per_token(vanilla.model, "exact"), peak_bytes(vanilla)
    print(f"{'':20}{'FLOPs':>7}  {'time':22}{'time / FLOPs':>12}{'bytes':>8}", flush=True)
    for arm in others:
        flops = float(training_flops_per_token(arm.model, "exact") / base_flops)
        base, seconds = race([vanilla, arm], options)
        median = statistics.median(one / other for one, other in zip(seconds, base, strict=True))
        memory = peak_bytes(arm) / base_bytes
        print(f"{arm.name:20}{flops:7.3f}  {ratio(seconds, base):22}{median / flops:12.2f}{memory:8.3f}", flush=True)


def peak_bytes(contender: Contender) -> int:
    runner = Runner(contender)
    try:
        return runner.peak_bytes()
    finally:
        runner.close()


def arms_small(options: Options) -> None:
    """Width 256, 14 layers, 256 tokens."""
    arms_at(options, "10M", 256, 4096, 512 if options.on_gpu else 16)


def arms_360m(options: Options) -> None:
    """The paper's 360M shape at 2048 tokens; batch 1, or 16 on a GPU."""
    arms_at(options, "360M", 2048, 49152, 16 if options.on_gpu else 1)


def peak_share(options: Options) -> None:
    """Share of the measured bf16 matrix-product rate that a step reaches, and where its time goes."""
    side = 8192 if options.on_gpu else 2048
    rate = matmul_rate(side, options, torch.bfloat16, repeats=20)
    on = options.device if options.on_gpu else f"{options.threads} threads"
    print(f"bf16 product of {side} x {side} matrices: {rate / 1e9:.0f} GFLOP/s on {on}")
    shapes = (("10M", 256, 16), ("32M", 256, 16), ("135M", 1024, 1))
    if options.on_gpu:
        shapes = (("10M", 256, 512), ("135M", 2048, 32), ("360M", 2048, 16), ("1.7B", 2048, 4))
    for size, context_length, batch_size in shapes:
        model = model_config(SIZES[size], vocab_size=49152 if options.on_gpu else 4096, context_length=context_length)
        contender = Contender(
            name=size,
            model=model,
            train=training(batch_size, "bf16"),
            threads=options.threads,
            device=options.device,
            compiled=options.on_gpu,
        )
        runner = Runner(contender)
        seconds = [options.seconds(runner.step()) for _ in range(WARM_UP_STEPS + options.rounds)][WARM_UP_STEPS:]
        profile = runner.profile()
        runner.close()
        flops = float(training_flops_per_token(model, "exact")) * batch_size * context_length
        parts = ", ".join(
            f"{name.removeprefix('aten::')[:60]} {share:.0%}" for name, share in list(profile.items())[:6]
        )
        print(f"{size:>6}: {flops / statistics.median(seconds) / rate:6.1%} of it; {parts}", flush=True)


def matmul_rate(side: int, options: Options, dtype: torch.dtype, repeats: int) -> float:
    """FLOPs per second of the best of several products of square matrices."""
    torch.set_num_threads(options.threads)
    left, right = (torch.randn(side, side, device=options.device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time() if options.cpu_clock else time.perf_counter()
        torch.mm(left, right)
        if options.on_gpu:
            torch.cuda.synchronize()
        best = min(best, (time.process_time() if options.cpu_clock else time.perf_counter()) - begin)
    return 2 * side**3 / best


def small_models(options: Options) -> None:
    """The CPU preset's rungs, fp32 on one thread: what a step costs whatever its batch, and its arithmetic rate.

    Steps of 1, 2, 4 and 8 sequences lie on a line; where it meets 0 sequences is the fixed cost: calls, Python and the
    optimiser. (Many more than the preset's 8 are computed faster each, and a line through those would count the
    difference as fixed.) Every contender takes several steps in a row, as training does: in turn with others each step
    would begin with their numbers in the caches.
    """
    if options.on_gpu:
        print("of a processor only")
        return
    one = replace(options, threads=1)
    print(f"{'':22}{'ms a step':>10}{'fixed cost':>12}{'GFLOP/s':>10}   compiled: ms, fixed cost, GFLOP/s, over eager")
    batches = (1, 2, 4, 8)
    for size in PRESET_RUNGS:
        for arm in ("vanilla", "mor-2"):
            recursion, routing = ARMS[arm]
            model = model_config(SIZES[size], vocab_size=512, context_length=64, recursion=recursion, routing=routing)
            contenders = [
                Contender(name=size, model=model, train=training(batch, "fp32"), compiled=compiled)
                for compiled in (False, True)
                for batch in batches
            ]
            # A line amplifies what disturbs its ends, so the least disturbed round of each counts.
            seconds = [min(times) for times in race(contenders, one, steps=STEPS_IN_A_ROW)]
            eager, compiled = seconds[: len(batches)], seconds[len(batches) :]
            flops = float(training_flops_per_token(model, "exact")) * contenders[-1].tokens
            print(
                f"{arm + ' ' + size:22}{_small_row(batches, eager, flops)}"
                f"{_small_row(batches, compiled, flops)}{compiled[-1] / eager[-1]:8.2f}",
                flush=True,
            )


def _small_row(batches: Sequence[int], seconds: Sequence[float], flops: float) -> str:
    line = statistics.linear_regression(batches, seconds)
    share = max(0.0, line.intercept) / seconds[-1]
    return f"{seconds[-1] * 1e3:10.2f}{share:12.0%}{flops / seconds[-1] / 1e9:10.1f}"


def memory_table(options: Options) -> None:
    """Peak bytes of live tensors in a step against what a plan says it will need."""
    print(f"{'':28}{'MiB':>9}{'estimate over measured':>26}")
    shapes: tuple[tuple[str, int, int, int, Precision], ...] = (
        ("51k", 64, 512, 8, "fp32"),
        ("1.1M", 256, 4096, 8, "fp32"),
        ("10M", 256, 4096, 8, "bf16"),
        ("135M", 1024, 49152, 1, "bf16"),
        ("360M", 2048, 49152, 1, "bf16"),
    )
    if options.on_gpu:
        shapes = (("10M", 1024, 4096, 64, "bf16"), ("135M", 2048, 49152, 16, "bf16"), ("360M", 2048, 49152, 8, "bf16"))
    for size, context_length, vocab_size, batch_size, precision in shapes:
        for arm, (recursion, routing) in ARMS.items():
            model = model_config(
                SIZES[size], vocab_size=vocab_size, context_length=context_length, recursion=recursion, routing=routing
            )
            train = training(batch_size, precision)
            contender = Contender(name=arm, model=model, train=train, threads=options.threads, device=options.device)
            measured = peak_bytes(contender)
            estimated = training_memory_bytes(model, train, options.device)
            label = f"{arm} {size} {precision}"
            print(f"{label:28}{measured / 2**20:9.1f}{estimated / measured:26.2f}", flush=True)


SECTIONS: dict[str, Callable[[Options], None]] = {
    "transformers": against_transformers,
    "arms": arms_small,
    "arms-360m": arms_360m,
    "peak": peak_share,
    "small": small_models,
    "memory": memory_table,
}


def main() -> None:
    """Run the sections asked for, each printing its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; none given: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default cpu)")
    parser.add_argument("--only", choices=list(ARMS), help="of the arms, compare this one with vanilla")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (default: all)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="seconds compared (default wall)")
    parser.add_argument("--force", action="store_true", help="run although the machine is busy")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY_LOAD and not arguments.force:
        sys.exit(f"load average {load:.2f}: above {BUSY_LOAD} timings mean little; wait, or pass --force")
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        sys.exit(f"section {unknown[0]!r}: expected one of {', '.join(SECTIONS)}")
    options = Options(
        rounds=arguments.rounds,
        threads=arguments.threads,
        cpu_clock=arguments.clock == "cpu",
        only=arguments.only,
        device=arguments.device,
    )
    for name in arguments.sections or SECTIONS:
        print(f"\n{name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        SECTIONS[name](options)
    print(f"\nload average {load:.2f} before, {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    main()
