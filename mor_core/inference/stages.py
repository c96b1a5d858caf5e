"""The model cut into stages at the places where tokens may leave. Each stage takes tokens of any depth.

Single tokens know two stages: a pass through the block, and what lies between a token's last pass and the next token's
first: last layers, head, choosing the next token, its embedding and first layers. The block's weights are the same at
every depth, so tokens that are at different recursions share its matrix products. A model whose layers repeat one by
one (sequence sharing) or not at all has one pass of all its layers, and both stages are one run there.

Texts that are there as a whole (prompts) are read at once, every recursion by the tokens that reach it.

A stage has a part of the host, which says in arrays what is to be done with a run's tokens, and a part of the device,
which is a function of these numbers: so a GPU can record it once and repeat it for other numbers.

Shapes: N tokens of one run, E those that leave, M those that enter, A active tokens of prompts, W sequences, Q rows of
what tokens carry, D model width, R recursions, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.config import CausalRule, ExpertChoice, ModelConfig, Precision, TokenChoice
from mor_core.inference.causal_routing import ExpertRouters, chosen_depths
from mor_core.inference.cuda_graphs import Recorder, Result, Work, cuda_graphs, few_entries, few_tokens
from mor_core.inference.kv_cache import NONE, Entries, KeyValueCache
from mor_core.inference.ragged import Part, Prompt, Shape, Tokens, apply_layer, in_order, on_device, run_of
from mor_core.inference.sampling import choose
from mor_core.model.device import Answer, on_host, to_device
from mor_core.model.layers import Layer
from mor_core.model.router import random_logits
from mor_core.model.transformer import Transformer, activated


@dataclass(frozen=True, kw_only=True)
class Application:
    """One layer of a pass."""

    layer: Layer
    lane: int
    """Which of the pool's layers holds its keys and values."""
    writes: bool
    """False where an earlier application of the same layer in the same pass left them."""


def inference_model(model: Transformer, precision: Precision) -> Transformer:
    """A copy for inference, in bf16 if asked; routers and rotary tables keep their precision, as under autocast."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if precision == "bf16":
        for part in (model.embedding, model.layers, model.norm):
            part.bfloat16()
    return model


def num_passes(config: ModelConfig) -> int:
    """Passes through the block that a token can make, one a recursion where the block repeats as a whole."""
    return config.recursion.count if config.recursion.sharing.endswith("cycle") else 1


def block_applications(model: Transformer) -> list[Application]:
    """The layers of one pass, in order."""
    config = model.config
    edge, passes = config.num_unshared_layers // 2, num_passes(config)
    indices = config.layer_map[edge : len(config.layer_map) - edge]
    applications: list[Application] = []
    lane_of: dict[int, int] = {}
    for index in indices[: len(indices) // passes]:
        writes = index not in lane_of or config.recursion.kv != "shared"
        if writes:
            lane_of[index] = sum(application.writes for application in applications)
        layer = cast(Layer, model.layers[index])
        applications.append(Application(layer=layer, lane=lane_of[index], writes=writes))
    return applications


class Carried(NamedTuple):
    """What tokens take from stage to stage, a row for each."""

    x_QD: Tensor
    """The residual stream."""
    entry_QD: Tensor
    """Token choice: the block's input at recursion 0."""
    routed: Tensor
    """What routing said of each recursion: logits of expert choice [Q, R], of token choice gates and whether the
    block's first input is added [Q, 2 R]."""


class Reading(NamedTuple):
    """What came of prompts."""

    depth_N: np.ndarray
    """Recursions that each token went through."""
    logits_NV: Tensor | None
    """After each token, where that was asked for."""
    scores: list[tuple[np.ndarray, Tensor]]
    """What routers said, in the order of recursions: tokens and, of each, expert choice's logit that decided or the
    probabilities of all depths."""


class Stages:
    """Moves tokens through a model over one cache. `max_depth` is the deepest recursion that tokens may reach."""

    def __init__(
        self, model: Transformer, cache: KeyValueCache, rule: CausalRule = "threshold", max_depth: int | None = None
    ) -> None:
        self.model, self.cache, self.device = model, cache, model.embedding.weight.device
        self.routing = model.config.routing
        self.passes = num_passes(model.config)
        self.max_depth = self.passes if max_depth is None else max_depth
        edge = model.config.num_unshared_layers // 2
        self.first = [cast(Layer, layer) for layer in model.layers[:edge]]
        self.last = [cast(Layer, layer) for layer in model.layers[len(model.layers) - edge :]]
        self.block = block_applications(model)
        self.experts = ExpertRouters(model, rule) if isinstance(self.routing, ExpertChoice) else None
        self.is_random = self.routing is not None and self.routing.router == "random"
        self.carried = self._carried(cache.sequences)
        self.token_Q = torch.zeros(cache.sequences, dtype=torch.int64, device=self.device)
        """The token of each row that was chosen last."""
        context = cache.context_length if self.is_random else 0
        self.tokens_QT = torch.zeros((cache.sequences, context), dtype=torch.int64, device=self.device)
        """All of them: a random router's logits are a function of each token's prefix."""
        self.recorder = Recorder(self.device, cuda_graphs()) if self.device.type == "cuda" else None
        """Records runs of single tokens. None on a CPU."""

    # What the host says of a run.

    def begin_pass(
        self, rows_N: np.ndarray, recursions_N: np.ndarray, positions_N: np.ndarray
    ) -> Callable[[], np.ndarray | None]:
        """Ask for a pass of single tokens through the block. The answer says which of them routers let go on; None
        where that is known without them."""
        count, fill = len(rows_N), self._fill(len(rows_N))
        part = self._block_part(rows_N[fill], recursions_N[fill], positions_N[fill], count)
        answer = self._done(self._pass, [part]).answer
        if answer is None:
            return lambda: None
        answer = Answer(answer)
        return lambda: answer.wait()[:count]

    def begin_next_tokens(
        self,
        leaving: tuple[np.ndarray, np.ndarray],
        draws_E4: np.ndarray,
        entering: tuple[np.ndarray, np.ndarray],
        given_M: np.ndarray,
    ) -> tuple[Callable[[], tuple[np.ndarray, np.ndarray | None]], Tensor | None]:
        """Ask for the next tokens of rows that leave and bring tokens of rows that enter to the block.

        Args:
            leaving: rows and positions of tokens that have made their last pass.
            draws_E4: how the next ones are drawn; empty where each is the most likely one.
            entering: rows and positions of tokens that enter. Others than those that leave may be among them.
            given_M: the ids of these; below 0 where it is the one that was just chosen for the row.

        Returns:
            What waits for the tokens chosen [E] and, of token choice, the last recursion of those that enter [M]; and
            the logits that tokens were chosen from [E or more, V], good until the next run.
        """
        (rows_E, positions_E), (rows_M, positions_M) = leaving, entering
        num_leaving, num_entering = len(rows_E), len(rows_M)
        if num_leaving:
            fill = self._fill(num_leaving)
            rows_E, positions_E, draws_E4 = rows_E[fill], positions_E[fill], draws_E4[fill] if len(draws_E4) else NONE
        entries = self.cache.unshared_entries(rows_E, positions_E) if self.last else None
        parts = [self._part(rows_E, positions_E, entries, draws_E4.view(np.int64))]
        if num_entering:
            fill = self._fill(num_entering)
            rows_M, positions_M, given_M = rows_M[fill], positions_M[fill], given_M[fill]
            entries = self.cache.add_unshared(rows_M, positions_M, num_entering) if self.first else None
            parts.append(self._part(rows_M, positions_M, entries, given_M))
            if self.passes == 1:
                parts.append(self._block_part(rows_M, np.zeros_like(rows_M), positions_M, num_entering))
        result = self._done(self._next_tokens, parts)
        answer = None if result.answer is None else Answer(result.answer)

        def wait() -> tuple[np.ndarray, np.ndarray | None]:
            numbers = NONE if answer is None else answer.wait()
            last_M = numbers[len(rows_E) :][:num_entering] if isinstance(self.routing, TokenChoice) else None
            return numbers[:num_leaving], last_M

        return wait, result.details

    def read(self, rows_W: np.ndarray, counts_W: np.ndarray, tokens_N: np.ndarray, *, logits: bool = False) -> Reading:
        """Take new sequences' first tokens through the model, one sequence after another, each from its first."""
        rows_N, starts_N = np.repeat(rows_W, counts_W), np.repeat(np.cumsum(counts_W) - counts_W, counts_W)
        active_A = every_N = np.arange(len(tokens_N))
        positions_N, carried = every_N - starts_N, self._carried(len(tokens_N))
        if self.is_random:
            where = [to_device(numbers, np.int64, self.device) for numbers in (rows_N, positions_N)]
            self.tokens_QT.index_put_(tuple(where), to_device(tokens_N, np.int64, self.device))
        new = self.cache.add_unshared(rows_N, positions_N, len(rows_N)) if self.first else None
        begun = self._done(self._enter, [self._part(every_N, positions_N, new, tokens_N, rows_N)], carried)
        last_N = np.full(len(tokens_N), self.max_depth - 1) if begun.answer is None else Answer(begun.answer).wait()
        scores = [] if begun.details is None else [(active_A, begun.details)]
        depth_N = np.zeros(len(tokens_N), np.int64)
        while len(active_A):
            part = self._block_part(rows_N[active_A], depth_N[active_A], positions_N[active_A], len(active_A), active_A)
            passed = self._done(self._pass, [part], carried)
            depth_N[active_A] += 1
            goes_on_A = depth_N[active_A] <= last_N[active_A]
            if passed.answer is not None and passed.details is not None and goes_on_A.any():
                scores.append((active_A, passed.details))
                goes_on_A &= Answer(passed.answer).wait()
            active_A = active_A[goes_on_A]
        entries = self.cache.unshared_entries(rows_N, positions_N) if self.last else None
        part = self._part(every_N, positions_N, entries, NONE, rows_N)
        logits_NV = self._done(self._leave_with_logits if logits else self._leave, [part], carried).details
        return Reading(depth_N=depth_N, logits_NV=logits_NV, scores=scores)

    def _part(
        self,
        rows_N: np.ndarray,
        positions_N: np.ndarray,
        entries: Entries | None,
        notes_N: np.ndarray = NONE,
        prompt_rows_N: np.ndarray | None = None,
        writers: np.ndarray = NONE,
    ) -> Part[np.ndarray]:
        """Tokens that go through layers which read and write these entries, if any. Prompts are known by the row of
        each token's sequence."""
        tables_N, at_N, slots, places = entries or (NONE, positions_N, NONE, NONE)
        tokens = Tokens(
            rows=rows_N,
            positions=positions_N,
            hidden=(self.cache.context_length - 1) - at_N,
            tables=tables_N,
            slots=slots,
            places=places,
            writers=writers,
            notes=notes_N,
        )
        lengths = tuple([column.size for column in tokens])
        if prompt_rows_N is not None:
            return Part(tokens, Shape(lengths, 0, True, _prompts(prompt_rows_N, tables_N, at_N)))
        longest = int(at_N.max()) + 1 if len(at_N) else 0
        if self.recorder is not None:
            return Part(tokens, Shape(lengths, few_entries(longest, self.cache.context_length), True))
        return Part(tokens, Shape(lengths, longest, bool(len(at_N)) and bool(at_N.min() + 1 < longest)))

    def _block_part(
        self,
        rows_N: np.ndarray,
        recursions_N: np.ndarray,
        positions_N: np.ndarray,
        count: int,
        prompts_N: np.ndarray | None = None,
    ) -> Part[np.ndarray]:
        """Tokens in a pass through the block, `count` of them different; where they are of prompts, their rows in what
        these carry."""
        where, prompt_rows_N = (rows_N, None) if prompts_N is None else (prompts_N, rows_N)
        ranks_N = 0 if prompts_N is None else _ranks(rows_N)
        if self.cache.passes > 1 or self.passes == 1:
            new = self.cache.add_to_block(rows_N, recursions_N, positions_N, count, ranks_N)
            return self._part(where, positions_N, new, recursions_N, prompt_rows_N)
        # Keys of the first pass alone.
        first = (recursions_N[:count] == 0).nonzero()[0]
        writers = first if prompts_N is not None or not len(first) else first[self._fill(len(first))]
        new = self.cache.add_to_block(rows_N[writers], recursions_N[writers], positions_N[writers], len(first), 0)
        new = new._replace(tables=self.cache.tables_of(rows_N, 0), at=positions_N)
        writers = writers if len(first) < count else NONE
        return self._part(where, positions_N, new, recursions_N, prompt_rows_N, writers)

    def _fill(self, count: int) -> np.ndarray | slice:
        """What repeats the last of so many tokens, until a run has one of few shapes, where runs are recorded."""
        if self.recorder is None or (size := few_tokens(count)) == count:
            return slice(None)
        return np.minimum(np.arange(size), count - 1)

    def _done(self, work: Work, parts: Sequence[Part[np.ndarray]], carried: Carried | None = None) -> Result:
        """The device's part of a stage, for rows of single tokens or for what prompts carry."""
        numbers, shapes = on_host(in_order(parts), np.int64, self.device), tuple([part.shape for part in parts])
        if carried is None and self.recorder is not None:
            return self.recorder(work, numbers, shapes)
        return work(on_device(numbers.to(self.device, non_blocking=True), shapes), carried)

    def _carried(self, count: int) -> Carried:
        """Room for what so many tokens take along."""
        weight, config = self.model.embedding.weight, self.model.config
        entries, recursions = (count if isinstance(self.routing, TokenChoice) else 0), config.recursion.count
        width, dtype = 0, weight.dtype
        if self.experts is not None:
            width, dtype = recursions, torch.float32 if self.is_random else self.experts.threshold_R.dtype
        elif entries:
            width = 2 * recursions
        return Carried(
            x_QD=torch.zeros((count, config.d_model), dtype=weight.dtype, device=self.device),
            entry_QD=torch.zeros((entries, config.d_model), dtype=weight.dtype, device=self.device),
            routed=torch.zeros((count, width), dtype=dtype, device=self.device),
        )

    # What the device does.

    def _next_tokens(self, parts: Sequence[Part[Tensor]], carried: Carried | None = None) -> Result:
        """Tokens' exit and the entry of the next; tells which were chosen, and what token choice says of these."""
        carried = carried or self.carried
        leaving, *others = parts
        answers: list[Tensor] = []
        logits_EV = None
        if len(leaving.tokens.rows):
            notes = leaving.tokens.notes
            logits_EV = self._head(self._last(leaving, carried))
            tokens_E = choose(logits_EV, notes.view(torch.float64).view(-1, 4) if len(notes) else None)
            self.token_Q.index_copy_(0, leaving.tokens.rows, tokens_E)
            answers.append(tokens_E)
        if others:
            tokens = others[0].tokens
            tokens_M = torch.where(tokens.notes < 0, self.token_Q.index_select(0, tokens.rows), tokens.notes)
            last_M = self._entered(tokens_M, others[0], carried).answer
            answers += [] if last_M is None else [last_M]
        for part in others[1:]:
            self._pass([part], carried)
        return Result(torch.cat(answers) if answers else None, logits_EV)

    def _enter(self, parts: Sequence[Part[Tensor]], carried: Carried | None = None) -> Result:
        """Prompts' way to the block; tells what `_entered` does."""
        return self._entered(parts[0].tokens.notes, parts[0], carried or self.carried)

    def _entered(self, tokens_N: Tensor, part: Part[Tensor], carried: Carried) -> Result:
        """Embedding and first layers; tells the last recursions that token choice has chosen."""
        x_ND, rows_N = F.embedding(tokens_N, self.model.embedding.weight), part.tokens.rows
        if self.first:
            x_ND = self._unshared(x_ND, self.first, part, first_lane=0)
        carried.x_QD.index_copy_(0, rows_N, x_ND)
        if self.routing is None:
            return Result(None, None)
        logits_NR = self._noise(tokens_N, part) if self.is_random else None
        if isinstance(self.routing, TokenChoice):
            logits_NR = self.model.routers[0](x_ND[None])[0] if logits_NR is None else logits_NR
            last_N, routed_N2R, probabilities_NR = chosen_depths(self.model, self.routing, logits_NR, self.max_depth)
            carried.entry_QD.index_copy_(0, rows_N, x_ND)
            carried.routed.index_copy_(0, rows_N, routed_N2R.to(x_ND.dtype))
            return Result(last_N, probabilities_NR)
        assert self.experts is not None
        logits_NR = self.experts.logits(x_ND) if logits_NR is None else logits_NR
        carried.routed.index_copy_(0, rows_N, logits_NR)
        if not part.shape.prompts:
            # Every token makes the first recursion, whatever is said of it.
            return Result(None, None)
        return Result(None, self.experts.decide(x_ND, logits_NR, torch.zeros_like(rows_N))[1])

    def _pass(self, parts: Sequence[Part[Tensor]], carried: Carried | None = None) -> Result:
        """One pass through the block; tells whom expert choice lets go on."""
        carried = carried or self.carried
        part, rows_N, recursion_N = parts[0], parts[0].tokens.rows, parts[0].tokens.notes
        run = run_of(self.model, self.cache, part)
        x_ND = carried.x_QD.index_select(0, rows_N)
        y_ND = x_ND
        for application in self.block:
            y_ND = apply_layer(
                application.layer, y_ND, run if application.writes else run.reading, self.cache.block, application.lane
            )
        x_ND = self._combined(x_ND, y_ND, rows_N, recursion_N, carried)
        carried.x_QD.index_copy_(0, rows_N, x_ND)
        if self.experts is None:
            return Result(None, None)
        if self.is_random:
            logits_NR = carried.routed.index_select(0, rows_N)
        else:
            logits_NR = self.experts.logits(x_ND)
            carried.routed.index_copy_(0, rows_N, logits_NR)
        return Result(*self.experts.decide(x_ND, logits_NR, recursion_N + 1))

    def _leave(self, parts: Sequence[Part[Tensor]], carried: Carried | None = None) -> Result:
        """Last layers."""
        self._last(parts[0], carried or self.carried)
        return Result(None, None)

    def _leave_with_logits(self, parts: Sequence[Part[Tensor]], carried: Carried | None = None) -> Result:
        """Last layers and head."""
        return Result(None, self._head(self._last(parts[0], carried or self.carried)))

    def _last(self, part: Part[Tensor], carried: Carried) -> Tensor:
        x_ND = carried.x_QD.index_select(0, part.tokens.rows)
        return self._unshared(x_ND, self.last, part, first_lane=len(self.first)) if self.last else x_ND

    def _unshared(self, x_ND: Tensor, layers: Sequence[Layer], part: Part[Tensor], first_lane: int) -> Tensor:
        run = run_of(self.model, self.cache, part)
        for lane, layer in enumerate(layers, first_lane):
            x_ND = apply_layer(layer, x_ND, run, self.cache.unshared, lane)
        return x_ND

    def _head(self, x_ND: Tensor) -> Tensor:
        return F.linear(self.model.norm(x_ND), self.model.embedding.weight)

    def _noise(self, tokens_N: Tensor, part: Part[Tensor]) -> Tensor:
        """A random router's logits, [N, R]: a function of each token's prefix."""
        count = self.model.config.recursion.count
        if part.shape.prompts:
            texts = [tokens_N[None, prompt.start : prompt.stop] for prompt in part.shape.prompts]
            return torch.cat([random_logits(text, count)[0] for text in texts])
        rows_N, positions_N = part.tokens.rows, part.tokens.positions
        self.tokens_QT.index_put_((rows_N, positions_N), tokens_N)
        prefixes = self.tokens_QT[:, : part.shape.longest].index_select(0, rows_N)
        return random_logits(prefixes, count)[torch.arange(len(rows_N), device=self.device), positions_N]

    def _combined(self, x_ND: Tensor, y_ND: Tensor, rows_N: Tensor, recursion_N: Tensor, carried: Carried) -> Tensor:
        """The residual stream after a pass, given the block's input and output."""
        match self.routing:
            case None:
                return y_ND
            case ExpertChoice(gating="additive"):
                return x_ND + y_ND
            case ExpertChoice() as routing:
                logits_N1 = carried.routed[rows_N, recursion_N].unsqueeze(1)
                return torch.addcmul(x_ND, activated(routing, logits_N1).to(y_ND.dtype), y_ND, value=routing.alpha)
            case TokenChoice():
                # Equation 2.2.
                gates_N1 = carried.routed[rows_N, recursion_N].unsqueeze(1)
                is_last_N1 = carried.routed[rows_N, recursion_N + self.passes].unsqueeze(1)
                return torch.addcmul(gates_N1 * y_ND, is_last_N1, carried.entry_QD.index_select(0, rows_N))


def _ranks(rows_N: np.ndarray) -> np.ndarray:
    """For each token, how many of the same row are before it; those of a row stand together."""
    is_first_N = np.append(True, rows_N[1:] != rows_N[:-1])
    starts = is_first_N.nonzero()[0]
    return np.arange(len(rows_N)) - np.repeat(starts, np.diff(np.append(starts, len(rows_N))))


def _prompts(rows_N: np.ndarray, tables_N: np.ndarray, at_N: np.ndarray) -> tuple[Prompt, ...]:
    """Of tokens that stand together by row."""
    starts = np.append(True, rows_N[1:] != rows_N[:-1]).nonzero()[0].tolist()
    stops = [*starts[1:], len(rows_N)]
    tables = tables_N[starts].tolist() if len(tables_N) else [0] * len(starts)
    longest = (at_N[np.array(stops) - 1] + 1).tolist()
    return tuple(Prompt(*fields) for fields in zip(starts, stops, tables, longest, strict=True))
