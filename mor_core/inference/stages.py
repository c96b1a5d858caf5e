"""Decoding and prefill: what the host tells the device of a run, in arrays.

Decoding moves single tokens of many sequences, each at a depth of its own, by the two stages of `forward`. Prefill
takes texts that are there as a whole through the model at once; a trace is that alone, with logits after every token.

Shapes: B sequences, N tokens of one run, E those that leave, M those that enter, A active tokens of prompts, W
sequences, D model width, T tokens of a text, R recursions, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mor_core.config.model import CausalRule, ModelConfig, Precision
from mor_core.flops import token_flops
from mor_core.inference.cuda_graphs import Recorder, Work, cuda_graphs, one_of_few
from mor_core.inference.forward import Forward
from mor_core.inference.kv_cache import Entries, KeyValueCache, num_passes
from mor_core.inference.ragged import HostPart, Part, Prompt, Shape, packed, unpacked
from mor_core.inference.request import RequestError
from mor_core.model.device import Answer, to_device
from mor_core.model.transformer import Transformer

NONE = np.empty(0, np.int64)
"""No numbers."""


def inference_model(model: Transformer, precision: Precision) -> Transformer:
    """A copy for inference, in bf16 if asked; routers and rotary tables keep their precision, as under autocast."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if precision == "bf16":
        for part in (model.embedding, model.layers, model.norm):
            part.bfloat16()
    return model


def check_depth(config: ModelConfig, max_depth: int | None) -> None:
    """Raises RequestError where tokens of a model cannot be kept to `max_depth` recursions."""
    recursion = config.recursion
    if max_depth is not None and not recursion.sharing.endswith("cycle"):
        raise RequestError(
            f"depth {max_depth} under {recursion.sharing} sharing: its block is not a recursion to stop at"
        )
    if max_depth is not None and not 1 <= max_depth <= recursion.count:
        raise RequestError(f"depth {max_depth}: expected 1 to the model's {recursion.count} recursions")


class Prefilled(NamedTuple):
    """What came of prompts."""

    depth_N: np.ndarray
    """Recursions that each token went through."""
    x_ND: Tensor
    """What the head reads."""
    scores: list[tuple[np.ndarray, Tensor]]
    """What routers said, in the order of recursions: tokens and, of each, expert choice's logit that decided or the
    probabilities of all depths."""


class Stages:
    """Moves tokens through a model over one cache."""

    def __init__(
        self,
        model: Transformer,
        cache: KeyValueCache,
        rule: CausalRule = "threshold",
        max_depth: int | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """`max_depth` is the deepest recursion that tokens may reach; `prompt_tokens` are at most in one prefill."""
        self.cache, self.device = cache, model.embedding.weight.device
        self.max_depth = num_passes(model.config) if max_depth is None else max_depth
        self.forward = Forward(model, cache, rule, self.max_depth, cache.sequences + prompt_tokens)
        self.forward_flops, self._flops = 0, token_flops(model.config)
        """Exact, of all runs so far; and of what they are made of."""
        self._block_token_R = np.array(self._flops.block_token)
        self.recorder = Recorder(self.device, cuda_graphs()) if self.device.type == "cuda" else None
        """Records runs of single tokens. None on a CPU."""

    def begin_pass(
        self, rows_N: np.ndarray, recursions_N: np.ndarray, positions_N: np.ndarray
    ) -> Callable[[], np.ndarray | None]:
        """Ask for a pass of single tokens through the block. The answer says which of them routers let go on, [N or
        more]; None where that is known without them."""
        wait, _ = self._begin(self.forward.pass_block, [self._block_part(rows_N, recursions_N, positions_N)])
        return wait

    def begin_next_tokens(
        self,
        leaving: tuple[np.ndarray, np.ndarray],
        draws_4E: np.ndarray,
        entering: tuple[np.ndarray, np.ndarray],
        given_M: np.ndarray,
    ) -> tuple[Callable[[], np.ndarray | None], Tensor | None]:
        """Ask for the next tokens of rows that leave and bring tokens of rows that enter to the block.

        Args:
            leaving: rows and positions of tokens that have made their last pass.
            draws_4E: how the next ones are drawn; empty where each is the most likely one.
            entering: rows and positions of tokens that enter. Others than those that leave may be among them.
            given_M: the ids of these; below 0 where it is the one that was just chosen for the row.

        Returns:
            What waits for the tokens chosen, and the logits that they were chosen from, good until the next run; [E or
            more] and [E or more, V]. None where no token leaves.
        """
        (rows_E, positions_E), (rows_M, positions_M) = leaving, entering
        entries_E = self.cache.unshared_entries(rows_E, positions_E) if self.forward.last else None
        entries_M = self.cache.add_unshared(rows_M, positions_M)
        self.forward_flops += self._flops.head * len(rows_E) + self._entry_flops(positions_M)
        parts = [
            self._part(rows_E, positions_E, entries_E, draws_4E),
            self._part(rows_M, positions_M, entries_M, (given_M,)),
        ]
        return self._begin(self.forward.next_tokens, parts)

    def prefill(self, rows_W: np.ndarray, counts_W: np.ndarray, tokens_N: np.ndarray) -> Prefilled:
        """Take new sequences' first tokens through the model, one sequence after another, each from its first."""
        forward, every_N = self.forward, np.arange(len(tokens_N))
        rows_N, starts_N = np.repeat(rows_W, counts_W), np.repeat(np.cumsum(counts_W) - counts_W, counts_W)
        positions_N, places_N = every_N - starts_N, self.cache.sequences + every_N
        if forward.is_random:
            where = [to_device(numbers, np.int64, self.device) for numbers in (rows_N, positions_N)]
            forward.tokens_QT.index_put_(tuple(where), to_device(tokens_N, np.int64, self.device))
        entries = self.cache.add_unshared(rows_N, positions_N)
        part = self._on_device([self._part(rows_N, positions_N, entries, (tokens_N,), places_N)])[0]
        details = forward.enter(part, part.notes[0])
        scores = [] if details is None else [(every_N, details)]
        depth_N = np.zeros(len(tokens_N), np.int64) if forward.block else np.ones(len(tokens_N), np.int64)
        active_A = every_N if forward.block else NONE
        while len(active_A):
            columns = (numbers_N[active_A] for numbers_N in (rows_N, depth_N, positions_N, places_N))
            answer, details = forward.pass_block(self._on_device([self._block_part(*columns)]))
            depth_N[active_A] += 1
            goes_on_A = depth_N[active_A] < self.max_depth
            if answer is not None and goes_on_A.any():
                scores += [] if details is None else [(active_A, details)]
                goes_on_A &= Answer(answer).wait()
            active_A = active_A[goes_on_A]
        entries = self.cache.unshared_entries(rows_N, positions_N)
        part = self._on_device([self._part(rows_N, positions_N, entries, (), places_N)])[0]
        self.forward_flops += self._entry_flops(positions_N)
        return Prefilled(depth_N, forward.leave(part), scores)

    def _part(
        self,
        rows_N: np.ndarray,
        positions_N: np.ndarray,
        entries: Entries | None,
        notes: Sequence[np.ndarray] | np.ndarray,
        places_N: np.ndarray | None = None,
        *,
        writes: bool = True,
    ) -> HostPart:
        """Tokens that go through layers which read and write these entries, if any. Those of prompts have places of
        their own among what tokens carry; single tokens have their sequences' rows."""
        count, context_length = len(rows_N), self.cache.context_length
        tables_N, at_N, slots_N, named_N = entries or [positions_N] * 4
        carried_N = rows_N if places_N is None else places_N
        columns = (carried_N, positions_N, (context_length - 1) - at_N, tables_N, slots_N, named_N, *notes)
        if places_N is not None:
            prompts = _prompts(rows_N, tables_N, at_N)
            return HostPart(columns, Shape(count, len(notes), writes=writes, prompts=prompts))
        # (numpy finds where the largest number is in a sixth of the time that it takes for the number.)
        longest = int(at_N[at_N.argmax()]) + 1 if entries and count else 0
        shape = Shape(count, len(notes), longest, writes)
        return HostPart(columns, shape if self.recorder is None or not count else one_of_few(shape, context_length))

    def _block_part(
        self,
        rows_N: np.ndarray,
        recursions_N: np.ndarray,
        positions_N: np.ndarray,
        places_N: np.ndarray | None = None,
    ) -> HostPart:
        """Tokens in a pass through the block."""
        ranks_N = 0 if places_N is None else _ranks(rows_N)
        entries = self.cache.add_to_block(rows_N, recursions_N, positions_N, ranks_N)
        pairs = len(rows_N) + int(np.add.reduce(entries.at))
        self.forward_flops += int(np.add.reduce(self._block_token_R[recursions_N])) + self._flops.block_pair * pairs
        writes = bool(self.cache.passes > 1 or np.count_nonzero(recursions_N) < len(recursions_N))
        return self._part(rows_N, positions_N, entries, (recursions_N,), places_N, writes=writes)

    def _entry_flops(self, positions_N: np.ndarray) -> int:
        """Of tokens at the unshared layers."""
        pairs = len(positions_N) + int(np.add.reduce(positions_N))
        return self._flops.unshared_token * len(positions_N) + self._flops.unshared_pair * pairs

    def _numbers(self, parts: Sequence[HostPart]) -> Tensor:
        """Where the device can fetch them from when it gets there."""
        numbers = torch.from_numpy(packed(parts))
        return numbers.pin_memory() if self.device.type == "cuda" else numbers

    def _on_device(self, parts: Sequence[HostPart]) -> list[Part]:
        numbers = self._numbers(parts).to(self.device, non_blocking=True)
        return unpacked(numbers, [part.shape for part in parts])

    def _begin(self, work: Work, parts: Sequence[HostPart]) -> tuple[Callable[[], np.ndarray | None], Tensor | None]:
        """Ask for the device's part of a stage, for single tokens: what waits for its answer, and the details."""
        answer, details = (
            work(self._on_device(parts))
            if self.recorder is None
            else self.recorder(work, self._numbers(parts), tuple([part.shape for part in parts]))
        )
        return (lambda: None) if answer is None else Answer(answer).wait, details


def _ranks(rows_N: np.ndarray) -> np.ndarray:
    """For each token, how many of the same row are before it; those of a row stand together."""
    starts = _starts(rows_N)
    return np.arange(len(rows_N)) - np.repeat(starts, np.diff(np.append(starts, len(rows_N))))


def _starts(rows_N: np.ndarray) -> np.ndarray:
    """The first token of each row."""
    return np.append(True, rows_N[1:] != rows_N[:-1]).nonzero()[0]


def _prompts(rows_N: np.ndarray, tables_N: np.ndarray, at_N: np.ndarray) -> tuple[Prompt, ...]:
    """Of tokens that stand together by row."""
    starts = _starts(rows_N)
    stops = np.append(starts[1:], len(rows_N))
    fields = (starts, stops, tables_N[starts], at_N[stops - 1] + 1)
    return tuple(Prompt(*numbers) for numbers in np.stack(fields, axis=1).tolist())


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What happened to one text."""

    logits_TV: Tensor
    """Next-token logits after each token."""
    depth: tuple[int, ...]
    """Recursions that each token went through."""
    scores: tuple[tuple[float, ...], ...]
    """Expert choice: per token the logits that decided, one for each recursion it was judged for, the first included
    (which takes every token). Token choice: the probability of each depth. Empty without routing."""


@torch.inference_mode()
def trace(
    model: Transformer, texts: Sequence[Sequence[int]], rule: CausalRule = "threshold", max_depth: int | None = None
) -> list[Trace]:
    """Run texts of token ids, each as one prompt. Raises RequestError where one is empty or exceeds the context, or
    where `max_depth` is not a depth of the model."""
    check_depth(model.config, max_depth)
    for text in texts:
        if not 0 < len(text) <= model.config.context_length:
            raise RequestError(f"a text of {len(text)} tokens: expected 1 to {model.config.context_length}")
    counts = np.array([len(text) for text in texts], np.int64)
    length = int(counts.sum())
    sizes = (length, length * model.config.recursion.count)
    weight = model.embedding.weight
    cache = KeyValueCache(model.config, sizes, len(texts), weight.dtype, weight.device)
    rows = np.array([cache.open() for _ in texts], np.int64)
    tokens_N = np.array([token for text in texts for token in text], np.int64)
    stages = Stages(model, cache, rule, max_depth, length)
    prefilled = stages.prefill(rows, counts, tokens_N)
    scores: list[list[float]] = [[] for _ in range(length)]
    for tokens, details in prefilled.scores:
        for token, numbers in zip(tokens.tolist(), details.tolist(), strict=True):
            scores[token] += numbers
    logits_NV = stages.forward.head(prefilled.x_ND)
    ends = counts.cumsum().tolist()
    return [
        Trace(
            logits_TV=logits_TV,
            depth=tuple(prefilled.depth_N[end - len(logits_TV) : end].tolist()),
            scores=tuple(map(tuple, scores[end - len(logits_TV) : end])),
        )
        for logits_TV, end in zip(logits_NV.split(counts.tolist()), ends, strict=True)
    ]
