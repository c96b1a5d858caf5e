"""How fast text is generated: our arms against our vanilla, and that against transformers. See bench/README.md.

python -m bench.decode [--size NAME] [--device cpu|cuda] [--batches 1,32] [--budgets 8,32] [--length N] [--rounds N]
                       [--threads N] [--clock wall|cpu] [--profile] [--arms A,B] [--without-transformers]
                       [--host | --split]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.decode import host
from bench.train_step.contender import BUSY_LOAD
from mor_core.config.model import ExpertChoice, ModelConfig, Recursion
from mor_core.config.sizes import SIZES, model_config
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions, EngineTotals
from mor_core.inference.request import FinishedEvent, Request, TokenEvent
from mor_core.inference.stages import trace
from mor_core.interop.hugging_face import export_llama
from mor_core.model.device import keep_freed_memory
from mor_core.model.transformer import Transformer, build_model
from orchestrator.inference.throughput import IN_FLIGHT, served, take_turns
from orchestrator.inference.throughput import lengths as drawn_lengths

VOCABULARY, CONTEXT, PROMPT = 4096, 512, 128

ARMS: dict[str, tuple[Recursion, ExpertChoice | None]] = {
    # A new arm is one more row. The first is what the others are compared with.
    "vanilla": (Recursion(), None),
    "mor-2": (Recursion(count=2), ExpertChoice()),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-4": (Recursion(count=4), ExpertChoice()),
    "mor-3 kv shared": (Recursion(count=3, kv="shared"), ExpertChoice()),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What generating took, in what does not depend on the machine."""

    depth: float
    """Recursions per token."""
    flops: float | None
    """Exact FLOPs per token, by realised depth; None where nothing counted them."""
    runs: str = ""
    """Mean number of tokens in a run of the block and of the exit."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many texts are under way at once."""

    name: str
    """What the table's heading says."""
    places: int
    """Tokens in one run."""
    sequences: int
    """Sequences in memory, for arms of this project."""
    kv_bytes: int | None = None
    """Memory for their keys and values; None is enough for all."""


GROUPS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "nvjet", "gemm", "gemv", "splitK"),
    "attention": ("scaled_dot", "sdpa", "fmha", "flash"),
    "gathering and scattering": ("index_select", "index_copy", "index_put", "gather", "index_elementwise"),
}
"""What is in the names of operations of a CPU and kernels of a GPU -> what they are for."""


class Task(NamedTuple):
    """Generating some texts."""

    parts: Iterator[float]
    """Does it; yields the share that is done."""
    work: Callable[[], Work]
    """What it took, once it is done."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Something that generates."""

    name: str
    """What the table shows."""
    prepare: Callable[[list[int], Room], Task]
    """Takes the memory to generate texts of these lengths in this room. Memory is taken once for a server's life, so
    only the task that it returns is timed."""
    first_token: Callable[[list[int]], None]
    """The first token after a prompt."""
    kv_bytes: float
    """Of keys and values per token, at the planned depth."""


def calibrated(config: ModelConfig, device: str) -> Transformer:
    """A fresh model whose thresholds let the planned share of tokens go on: speed asks for depth, not for sense.

    Fresh models generate texts unlike any others, so thresholds are set by random tokens first, and then by the texts
    that follow. fp32 on a CPU, bf16 on a GPU.
    """
    model = build_model(config, seed=0, device=device).to(torch.float32 if device == "cpu" else torch.bfloat16).eval()
    if config.routing is None:
        return model
    texts = torch.randint(0, VOCABULARY, (8, 128), generator=torch.Generator().manual_seed(0)).tolist()
    _set_thresholds(model, texts)
    for _ in range(2):
        engine = Engine(model, EngineOptions(kv_bytes=_enough_memory(model, 32), max_batch=32))
        events = engine.run(Request(prompt=(1 + i,), max_new_tokens=48) for i in range(32))
        _set_thresholds(model, [list(event.tokens) for event in events if isinstance(event, FinishedEvent)])
    return model


def _set_thresholds(model: Transformer, texts: list[list[int]]) -> None:
    capacities = model.config.capacities
    for recursion in range(1, len(capacities)):
        model.threshold_R[recursion:] = -torch.inf
        token_scores = (scores_R for text in trace(model, texts) for scores_R in text.scores)
        scores = [scores_R[recursion] for scores_R in token_scores if len(scores_R) > recursion]
        share = capacities[recursion] / capacities[recursion - 1]
        model.threshold_R[recursion] = torch.tensor(scores).quantile(1 - float(share))


def _enough_memory(model: Transformer, sequences: int) -> int:
    """Bytes that hold the keys and values of so many whole contexts, every token at its deepest."""
    config, number = model.config, model.embedding.weight.element_size()
    return round(sequences * CONTEXT * kv_bytes_per_token(config, number, config.recursion.count))


def ours(name: str, model: Transformer) -> Contender:
    """An arm in this project's engine. Prompts of one token, so that only decoding is timed."""

    def prepare(lengths: list[int], room: Room) -> Task:
        memory = _enough_memory(model, room.sequences) if room.kv_bytes is None else room.kv_bytes
        engine = Engine(model, EngineOptions(kv_bytes=memory, max_batch=room.places, max_sequences=room.sequences))
        requests = [
            Request(prompt=(1 + i % (VOCABULARY - 1),), max_new_tokens=length, stream=False)
            for i, length in enumerate(lengths)
        ]
        engine.warm_up(requests)
        totals = engine.totals  # What is asked for later must not hold the engine's memory.
        return Task(parts=served(engine, requests), work=lambda: _work(totals))

    def first_token(prompt: list[int]) -> None:
        engine = Engine(model, EngineOptions(kv_bytes=_enough_memory(model, 1), max_batch=1))
        next(event for event in engine.run([Request(prompt=tuple(prompt), max_new_tokens=2)]) if _is_token(event))

    kv_bytes = kv_bytes_per_token(model.config, model.embedding.weight.element_size())
    return Contender(name=name, prepare=prepare, first_token=first_token, kv_bytes=kv_bytes)


def _work(totals: EngineTotals) -> Work:
    return Work(
        depth=totals.mean_depth,
        flops=totals.forward_flops / totals.computed_tokens,
        runs=f"{totals.block_passes / totals.block_runs:.0f}, {totals.computed_tokens / totals.exit_runs:.0f}",
    )


def _is_token(event: object) -> bool:
    return isinstance(event, TokenEvent)


def theirs(model: Transformer) -> Contender:
    """transformers' generate on the same weights: batches one after another, each until its longest text is done."""
    from transformers import AutoModelForCausalLM

    weight = model.embedding.weight
    with tempfile.TemporaryDirectory() as folder:
        export_llama(model, Path(folder) / "model")
        llama: Any = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=weight.dtype).eval()
    llama = llama.to(weight.device)

    def run(prompts: list[list[int]], new: int) -> None:
        llama.generate(
            torch.tensor(prompts, device=weight.device),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.int64, device=weight.device),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    def generate(lengths: list[int], places: int) -> Iterator[float]:
        for start in range(0, len(lengths), places):
            batch = lengths[start : start + places]
            run([[1 + start + i] for i in range(len(batch))], max(batch))
            yield (start + len(batch)) / len(lengths)

    return Contender(
        name="transformers",
        prepare=lambda lengths, room: Task(
            parts=generate(lengths, room.places), work=lambda: Work(depth=1.0, flops=None)
        ),
        first_token=lambda prompt: run([prompt], 1),
        kv_bytes=kv_bytes_per_token(model.config, weight.element_size()),
    )


def ratio(times: Sequence[float], base: Sequence[float]) -> str:
    """Median, lowest and highest speed over the base's, round by round."""
    ratios = [other / one for one, other in zip(times, base, strict=True)]
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def race(contenders: Sequence[Contender], lengths: list[int], room: Room, options: argparse.Namespace) -> None:
    """Every contender generates the same texts in every round, taking turns."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    prompt = [1 + i for i in range(PROMPT)]
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    firsts: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    work: dict[str, Work] = {}
    for number in range(options.rounds + 1):
        round_lengths = lengths if number else lengths[: room.places]
        tasks = [contender.prepare(round_lengths, room) for contender in contenders]
        took = take_turns([task.parts for task in tasks], clock)
        for contender, task_seconds, task in zip(contenders, took, tasks, strict=True):
            started = clock()
            contender.first_token(prompt)
            if number:  # The first round warms up.
                seconds[contender.name].append(task_seconds)
                firsts[contender.name].append(clock() - started)
            work[contender.name] = task.work()
    base = contenders[0]
    print(f"\n{room.name}: {len(lengths)} texts, {sum(lengths)} tokens")
    print(
        f"{'':18}{'tokens/s':>10}{'depth':>7}{'a run':>10}{'KV B/token':>12}{'first token':>13}   "
        f"speed over {base.name:14}{'by FLOPs':>10}{'reached':>9}"
    )
    for contender in contenders:
        name, spent = contender.name, work[contender.name]
        rate = sum(lengths) / statistics.median(seconds[name])
        first = 1000 * statistics.median(firsts[name])
        print(
            f"{name:18}{rate:10.0f}{spent.depth:7.2f}{spent.runs:>10}{contender.kv_bytes:12.0f}"
            f"{first:10.1f} ms   {ratio(seconds[name], seconds[base.name]):25}"
            f"{_against_flops(contender, base, work, seconds)}"
        )
    if options.profile:
        print("shares of the time of half a round more, recorded; without an operation Python runs, or a GPU waits")
        for contender in contenders:
            task = contender.prepare(lengths[: len(lengths) // 2], room)
            print(f"{contender.name:18}{_shares(task, options.device)}", flush=True)


def _shares(task: Task, device: str) -> str:
    """Where a device's time goes. Recording makes every operation of a CPU some 2 us longer, so that small ones look
    larger."""
    activity = torch.profiler.ProfilerActivity.CUDA if device == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as recorded:
        started = time.perf_counter()
        deque(task.parts, maxlen=0)
        total = time.perf_counter() - started
    seconds, count = dict.fromkeys([*GROUPS, "other operations"], 0.0), 0
    for event in recorded.key_averages():
        group = next((name for name, parts in GROUPS.items() if any(part in event.key for part in parts)), None)
        microseconds = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        seconds[group or "other operations"] += microseconds / 1e6
        count += event.count
    seconds["no operation"] = max(0.0, total - sum(seconds.values()))
    return ", ".join(f"{name} {spent / total:.0%}" for name, spent in seconds.items()) + f"; {count} operations"


def _against_flops(
    contender: Contender, base: Contender, work: dict[str, Work], seconds: dict[str, list[float]]
) -> str:
    """The speed over the base's that FLOPs per token alone predict, and the share of it that is reached."""
    flops, base_flops = work[contender.name].flops, work[base.name].flops
    if flops is None or base_flops is None:
        return ""
    reached = statistics.median(b / a for a, b in zip(seconds[contender.name], seconds[base.name], strict=True))
    return f"{base_flops / flops:10.2f}{reached / (base_flops / flops):9.0%}"


def main() -> None:
    """Race the arms and transformers at every batch asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description="How fast text is generated.")
    parser.add_argument("--size", default="10M", choices=list(SIZES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--budgets", default="", help="and with memory for so many of vanilla's texts, any batch")
    parser.add_argument("--length", type=int, default=128, help="mean tokens of a text")
    parser.add_argument("--texts", type=int, default=8, help="texts per place in a batch")
    parser.add_argument("--in-flight", type=float, help="sequences in memory per place in a batch; 2, and 3 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    parser.add_argument("--arms", default=",".join(list(ARMS)[1:]), help="of this project, beside vanilla")
    parser.add_argument("--without-transformers", action="store_true", help="leave transformers out")
    parser.add_argument("--host", action="store_true", help="time the host alone: tables answer for the device")
    parser.add_argument("--split", action="store_true", help="split a CPU's time into host, dispatch and arithmetic")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    options = parser.parse_args()
    if os.getloadavg()[0] > BUSY_LOAD and not options.force:
        sys.exit(f"the load is {os.getloadavg()[0]:.1f}: timings would mean little (--force measures all the same)")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    arms = ["vanilla", *(arm.strip() for arm in options.arms.split(",") if arm)]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"no arm {unknown[0]!r}: expected some of {', '.join(ARMS)}")
    configs = {name: _config(options.size, *ARMS[name]) for name in arms}

    def texts_of(places: int) -> list[int]:
        return drawn_lengths(options.texts * places, options.length, CONTEXT)

    if options.host:
        fresh = {name: build_model(config, seed=0).eval() for name, config in configs.items()}
        host.report(fresh, _numbers(options.batches), texts_of, options)
        return
    models = {name: calibrated(config, options.device) for name, config in configs.items()}
    if options.split:
        pairs = {name: (model, calibrated(host.narrow(model.config), options.device)) for name, model in models.items()}
        for batch in _numbers(options.batches):
            host.report_split(pairs, batch, texts_of(batch), options)
        return
    contenders = [ours(name, model) for name, model in models.items()]
    vanilla = contenders[0]
    if batches := _numbers(options.batches):
        everyone = [*contenders] if options.without_transformers else [*contenders, theirs(models["vanilla"])]
        for batch in batches:
            in_flight = options.in_flight or IN_FLIGHT[options.device]
            room = Room(name=f"batch {batch}", places=batch, sequences=round(batch * in_flight))
            race(everyone, texts_of(batch), room, options)
    for texts in _numbers(options.budgets):
        memory = round(texts * options.length * vanilla.kv_bytes)
        most = 4 * texts  # More than fit of any arm: the memory alone says how many are under way.
        name = f"memory for {texts} texts of vanilla, {memory / 1e6:.1f} MB"
        room = Room(name=name, places=most, sequences=most, kv_bytes=memory)
        race(contenders, texts_of(texts), room, options)


def _config(size: str, recursion: Recursion, routing: ExpertChoice | None) -> ModelConfig:
    return model_config(
        SIZES[size], vocab_size=VOCABULARY, context_length=CONTEXT, recursion=recursion, routing=routing
    )


def _numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",") if number]


if __name__ == "__main__":
    main()
