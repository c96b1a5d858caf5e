"""The model cut where tokens part: entry, one pass through the block, exit. Each stage takes tokens of any depth.

The block's weights are the same at every depth, so tokens that are at different recursions share its matrix products.
A model whose layers repeat one by one (sequence sharing) or not at all has one pass of all its layers.

A stage has a part of the host, which says what is to be done and takes note of what came out, and a part of the device,
which is a function of numbers that the host tells it: so a GPU can record it once and repeat it for other numbers.

Shapes: N tokens of one run, A of them active, W waves of one run, D model width, R recursions, V vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.config import CausalRule, ExpertChoice, ModelConfig, Precision, TokenChoice
from mor_core.inference.causal_routing import Judge
from mor_core.inference.cuda_graphs import Recorder, Work, evened
from mor_core.inference.in_flight import Carried, Wave, with_prompts
from mor_core.inference.kv_cache import Entries, KeyValueCache
from mor_core.inference.ragged import Numbers, Run, Shape, Tokens, apply_layer, columns, in_order, numbers_of, run_of
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
            lane_of[index] = sum(each.writes for each in applications)
        layer = cast(Layer, model.layers[index])
        applications.append(Application(layer=layer, lane=lane_of[index], writes=writes))
    return applications


class Stages:
    """Moves waves through a model over one cache. `max_depth` is the deepest recursion that tokens may reach."""

    def __init__(
        self,
        model: Transformer,
        cache: KeyValueCache,
        rule: CausalRule = "threshold",
        max_depth: int | None = None,
        keep_scores: bool = False,
    ) -> None:
        self.model, self.cache, self.keep_scores = model, cache, keep_scores
        self.routing = model.config.routing
        self.passes = num_passes(model.config)
        self.max_depth = self.passes if max_depth is None else max_depth
        edge = model.config.num_unshared_layers // 2
        self.first = [cast(Layer, layer) for layer in model.layers[:edge]]
        self.last = [cast(Layer, layer) for layer in model.layers[len(model.layers) - edge :]]
        self.block = block_applications(model)
        self.x, self.entry, self.routed, self.noise = (Carried(cache.sequences) for _ in range(4))
        """The residual stream; of token choice, the block's input at recursion 0; what routing said of each recursion:
        logits of expert choice, of token choice gates and whether that input is added; a random router's logits."""
        self.judge = Judge(model, rule, self.max_depth) if isinstance(self.routing, ExpertChoice) else None
        self.is_random = self.routing is not None and self.routing.router == "random"
        asks_the_host = self.is_random or (self.judge is not None and not self.judge.is_linear)
        self.recorder = Recorder(self.device) if self.device.type == "cuda" and not asks_the_host else None
        """Records runs of single tokens. None where a stage needs the host half-way, and on a CPU."""

    def enter(self, waves: Sequence[Wave]) -> None:
        """Embed the tokens of new waves and bring them to the block, or straight to the exit."""
        tokens = list(chain.from_iterable(wave.prefix[wave.start :] for wave in waves))
        if self.first:
            positions = _positions(waves)
            new = self.cache.add_unshared(_rows_of_tokens(waves), positions)
            numbers, shape = self._unshared_numbers(waves, positions, new, tokens)
        else:
            numbers, shape = _rows_alone(waves, tokens)
        if self.keep_scores:
            for wave in waves:
                wave.scores = [[] for _ in range(wave.num_tokens)]
        ragged = with_prompts(waves)
        if self.is_random:
            rows_W = torch.tensor(numbers.rows, device=self.device)
            self.noise.begin(rows_W, self._noise(waves), ragged)
        routed_NR = self._done(self._enter, numbers, shape, ragged)
        # Every token makes the first recursion: what an expert choice says of it is not waited for.
        if self.keep_scores or not isinstance(self.routing, ExpertChoice):
            self._take_note(waves, _answer(routed_NR))

    def begin_block(self, waves: Sequence[Wave]) -> Answer | None:
        """Ask for one pass of the active tokens of waves, which may be at different recursions."""
        numbers, shape = self._block_numbers(waves)
        return _answer(self._done(self._pass, numbers, shape, with_prompts(waves)))

    def end_block(self, waves: Sequence[Wave], scores_AR: Answer | None) -> None:
        """Take note of a pass that was asked for: its answer decides which of the tokens make another."""
        for wave in waves:
            for token in wave.active:
                wave.depth[token] += 1
            wave.recursion += 1
        self._take_note(waves, scores_AR)

    def leave(self, waves: Sequence[Wave], *, all_tokens: bool = False) -> Tensor:
        """Logits after the last token of each wave, [waves, V], or after all tokens, [N, V]. They are good until the
        next run."""
        if self.last:
            positions = _positions(waves)
            slots = self.cache.unshared_slots(_rows_of_tokens(waves), positions)
            numbers, shape = self._unshared_numbers(waves, positions, Entries(slots, [], []))
        else:
            numbers, shape = _rows_alone(waves)
        ragged = with_prompts(waves)
        work = self._leave_with_all if all_tokens and ragged else self._leave
        logits = self._done(work, numbers, shape, ragged)
        assert logits is not None
        self.forget(waves)
        return logits if ragged else logits[: len(waves)]

    def forget(self, waves: Sequence[Wave]) -> None:
        """Let go of what waves carry, which leave or are given up."""
        for each in (self.x, self.entry, self.routed, self.noise):
            each.end(waves)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.embedding.weight.device

    def new_block_slots(self, wave: Wave) -> int:
        """Slots that a wave's next pass takes."""
        return len(wave.active) if self.cache.passes > 1 or wave.recursion == 0 else 0

    # What the host says of a run.

    def _unshared_numbers(
        self, waves: Sequence[Wave], positions: Sequence[int], new: Entries, told: Sequence[int] = ()
    ) -> tuple[Numbers[Sequence[int]], Shape]:
        """For layers outside the block, which see all tokens of waves."""
        tokens = Tokens(
            rows=[wave.row for wave in waves],
            tables=[self.cache.unshared_table(wave.row) for wave in waves],
            counts=[wave.num_tokens for wave in waves],
            positions=positions,
            visible=[position + 1 for position in positions],
        )
        return numbers_of(self.cache.context_length, tokens, new, told=told)

    def _block_numbers(self, waves: Sequence[Wave]) -> tuple[Numbers[Sequence[int]], Shape]:
        """For the block's layers, which see the active tokens. They are told at which recursion each is."""
        whose = [wave for wave in waves for _ in wave.active]
        rows, recursions = [wave.row for wave in whose], [wave.recursion for wave in whose]
        positions = [wave.start + token for wave in waves for token in wave.active]
        writers, own = (), positions
        if self.cache.passes > 1 or self.passes == 1:
            new, own = self.cache.add_to_block(rows, recursions, positions)
        else:
            writing = [i for i, recursion in enumerate(recursions) if recursion == 0]
            new, _ = self.cache.add_to_block(
                [rows[i] for i in writing], [0] * len(writing), [positions[i] for i in writing]
            )
            writers = writing if len(writing) < len(rows) else ()
        tokens = Tokens(
            rows=[wave.row for wave in waves],
            tables=[self.cache.block_table(wave.row, wave.recursion) for wave in waves],
            counts=[len(wave.active) for wave in waves],
            positions=positions,
            visible=[place + 1 for place in own],
        )
        return numbers_of(self.cache.context_length, tokens, new, writers, recursions)

    def _done(self, work: Work, numbers: Numbers[Sequence[int]], shape: Shape, ragged: Sequence[Wave]) -> Tensor | None:
        """The device's part of a stage."""
        if ragged or self.recorder is None:
            return work(columns(to_device(in_order(numbers), np.int64, self.device), shape), shape, ragged)
        numbers, shape = evened(numbers, shape, self.cache.context_length)
        return self.recorder(work, on_host(in_order(numbers), np.int64, self.device), shape)

    def _take_note(self, waves: Sequence[Wave], routed_NR: Answer | None) -> None:
        """Decide which of the active tokens make another pass, by what routing said of them on the device."""
        if self.judge is not None:
            assert routed_NR is not None
            self.judge.decide(waves, routed_NR.wait(), self.keep_scores)
            return
        if routed_NR is not None:
            self._note_depths(waves, routed_NR.wait())
        for wave in waves:
            if wave.recursion == self.max_depth:
                wave.active = []
            elif wave.chosen:
                wave.active = [token for token in wave.active if wave.chosen[token] >= wave.recursion]

    def _note_depths(self, waves: Sequence[Wave], routed: Sequence[Sequence[float]]) -> None:
        """Token choice: each token's last recursion, and after it the probabilities of all."""
        n = 0
        for wave in waves:
            own = routed[n : n + wave.num_tokens]
            wave.chosen = [int(last) for last, *_ in own]
            if self.keep_scores:
                wave.scores = [probabilities for _, *probabilities in own]
            n += wave.num_tokens

    # What the device does. `ragged` are the waves where there are prompts among them, else nothing.

    def _enter(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor | None:
        """Embedding and first layers; returns what routing says."""
        x_ND = F.embedding(numbers.told, self.model.embedding.weight)
        if self.first:
            x_ND = self._unshared(x_ND, self.first, run_of(self.model, self.cache, numbers, shape), first_lane=0)
        self.x.begin(numbers.rows, x_ND, ragged)
        match self.routing:
            case TokenChoice() as routing:
                return self._choose_depths(numbers.rows, x_ND, routing, ragged)
            case ExpertChoice() as routing:
                scores_NR = self._scores(numbers.rows, x_ND, None, ragged)
                if routing.gating == "weighted":
                    self.routed.begin(numbers.rows, scores_NR, ragged)
                return scores_NR
            case None:
                return None

    def _pass(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor | None:
        """One pass through the block; returns what routers say of the next."""
        rows_W, run = numbers.rows, run_of(self.model, self.cache, numbers, shape)
        x_AD = self.x.active(rows_W, ragged)
        y_AD = x_AD
        for each in self.block:
            y_AD = apply_layer(each.layer, y_AD, run if each.writes else run.reading, self.cache.block, each.lane)
        x_AD = self._combined(numbers, x_AD, y_AD, ragged)
        self.x.put_active(rows_W, x_AD, ragged)
        if not isinstance(self.routing, ExpertChoice):
            return None
        scores_AR = self._scores(rows_W, x_AD, numbers.told, ragged)
        if self.routing.gating == "weighted":
            self.routed.put_active(rows_W, scores_AR, ragged)
        return scores_AR

    def _leave(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor:
        """Last layers, and the head at the last token of each wave."""
        x_ND = self._last(numbers, shape, ragged)
        if ragged:
            ends = torch.tensor([wave.num_tokens for wave in ragged], device=self.device).cumsum(0) - 1
            x_ND = x_ND[ends]
        return self._head(x_ND)

    def _leave_with_all(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor:
        """Last layers, and the head at every token."""
        return self._head(self._last(numbers, shape, ragged))

    def _last(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor:
        x_ND = self.x.all(numbers.rows, ragged)
        if not self.last:
            return x_ND
        run = run_of(self.model, self.cache, numbers, shape)
        return self._unshared(x_ND, self.last, run, first_lane=len(self.first))

    def _unshared(self, x_ND: Tensor, layers: Sequence[Layer], run: Run, first_lane: int) -> Tensor:
        for lane, layer in enumerate(layers, first_lane):
            x_ND = apply_layer(layer, x_ND, run, self.cache.unshared, lane)
        return x_ND

    def _head(self, x_ND: Tensor) -> Tensor:
        return F.linear(self.model.norm(x_ND), self.model.embedding.weight)

    def _scores(self, rows_W: Tensor, x_AD: Tensor, recursion_A: Tensor | None, ragged: Sequence[Wave]) -> Tensor:
        """What routers say of the active tokens, which have made recursions, or none so far."""
        if self.is_random:
            return self.noise.active(rows_W, ragged)
        assert self.judge is not None
        return self.judge.scores(x_AD, recursion_A)

    def _choose_depths(self, rows_W: Tensor, x_ND: Tensor, routing: TokenChoice, ragged: Sequence[Wave]) -> Tensor:
        """Token choice: [N, 1 + R], each token's last recursion and the probabilities of all."""
        logits_NR = self.noise.all(rows_W, ragged) if self.is_random else self.model.routers[0](x_ND[None])[0]
        probabilities_NR = logits_NR.softmax(-1) if routing.activation == "softmax" else logits_NR.sigmoid()
        biased = routing.balancing == "loss-free"
        chosen_N1 = (probabilities_NR + self.model.selection_bias_R if biased else probabilities_NR).argmax(-1, True)
        last_N1 = chosen_N1.clamp(max=self.max_depth - 1)
        is_last_NR = last_N1 == torch.arange(self.passes, device=self.device)
        gates_NR = routing.alpha * probabilities_NR
        if routing.gating == "exit":
            gates_NR = gates_NR.where(is_last_NR, 1.0)
        self.entry.begin(rows_W, x_ND, ragged)
        self.routed.begin(rows_W, torch.cat((gates_NR, is_last_NR), dim=1).to(x_ND.dtype), ragged)
        return torch.cat((last_N1, probabilities_NR), dim=1)

    def _noise(self, waves: Sequence[Wave]) -> Tensor:
        """Random routers' logits of all tokens, [N, R]: a function of each token's prefix."""
        longest = max(len(wave.prefix) for wave in waves)
        padded = [wave.prefix + [0] * (longest - len(wave.prefix)) for wave in waves]
        logits_BTR = random_logits(torch.tensor(padded, device=self.device), self.model.config.recursion.count)
        return torch.cat([own[wave.start : len(wave.prefix)] for wave, own in zip(waves, logits_BTR, strict=True)])

    def _combined(self, numbers: Numbers[Tensor], x_AD: Tensor, y_AD: Tensor, ragged: Sequence[Wave]) -> Tensor:
        """The residual stream after a pass, given the block's input and output."""
        match self.routing:
            case None:
                return y_AD
            case ExpertChoice(gating="additive"):
                return x_AD + y_AD
            case ExpertChoice() as routing:
                logits_A1 = self.routed.entry_of_active(numbers.rows, numbers.told, ragged)
                return torch.addcmul(x_AD, activated(routing, logits_A1).to(y_AD.dtype), y_AD, value=routing.alpha)
            case TokenChoice():
                # Equation 2.2.
                gates_A1 = self.routed.entry_of_active(numbers.rows, numbers.told, ragged)
                is_last_A1 = self.routed.entry_of_active(numbers.rows, numbers.told + self.passes, ragged)
                entry_AD = self.entry.active(numbers.rows, ragged)
                return torch.addcmul(gates_A1 * y_AD, is_last_A1, entry_AD)


def _answer(result: Tensor | None) -> Answer | None:
    return None if result is None else Answer(result)


def _rows_alone(waves: Sequence[Wave], told: Sequence[int] = ()) -> tuple[Numbers[Sequence[int]], Shape]:
    """For a stage without layers."""
    return numbers_of(0, Tokens([wave.row for wave in waves], (), (), (), ()), told=told)


def _positions(waves: Sequence[Wave]) -> list[int]:
    """Of every token of waves."""
    return [position for wave in waves for position in wave.positions]


def _rows_of_tokens(waves: Sequence[Wave]) -> list[int]:
    """The row of its sequence, for every token of waves."""
    return [wave.row for wave in waves for _ in range(wave.num_tokens)]
