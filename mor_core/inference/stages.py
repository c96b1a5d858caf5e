"""The model cut where tokens part: entry, one pass through the block, exit. Each stage takes tokens of any depth.

The block's weights are the same at every depth, so tokens that are at different recursions share its matrix products.
A model whose layers repeat one by one (sequence sharing) or not at all has one pass of all its layers.

Shapes: N tokens of one run, D model width, R recursions, V vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.config import CausalRule, ExpertChoice, ModelConfig, Precision, TokenChoice
from mor_core.inference.judge import Judge
from mor_core.inference.kv_cache import KeyValueCache, SlotPool
from mor_core.inference.ragged import Run, Segment, apply_layer, groups_of
from mor_core.inference.wave import Wave
from mor_core.model.layers import Layer
from mor_core.model.router import random_logits
from mor_core.model.transformer import Transformer, gate


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
        self.judge = Judge(model, rule) if isinstance(self.routing, ExpertChoice) else None

    def enter(self, waves: Sequence[Wave]) -> None:
        """Embed the tokens of new waves and bring them to the block, or straight to the exit."""
        tokens = list(chain.from_iterable(wave.prefix[wave.start :] for wave in waves))
        x_ND = F.embedding(torch.tensor(tokens, device=self.device), self.model.embedding.weight)
        if self.first:
            rows = [wave.row for wave in waves for _ in range(wave.num_tokens)]
            positions = list(chain.from_iterable(wave.positions for wave in waves))
            x_ND = self._unshared(waves, x_ND, self.first, self.cache.add_unshared(rows, positions), first_lane=0)
        for wave, rows_ND in zip(waves, x_ND.split([wave.num_tokens for wave in waves]), strict=True):
            # A prompt's rows change in place while its tokens part; a single token's are replaced.
            wave.x_ND = rows_ND.clone() if wave.num_tokens > 1 else rows_ND
            wave.active = list(range(wave.num_tokens))
            wave.depth = [0] * wave.num_tokens
            wave.scores = [[] for _ in range(wave.num_tokens)] if self.keep_scores else []
        self._begin(waves, x_ND)

    def run_block(self, waves: Sequence[Wave]) -> None:
        """One pass for the active tokens of waves, which may be at different recursions."""
        counts = [len(wave.active) for wave in waves]
        x_ND = torch.cat([wave.active_rows(wave.x_ND) for wave in waves])
        x_ND = self._combined(waves, x_ND, self._block(waves, x_ND))
        for wave, rows_AD in zip(waves, x_ND.split(counts), strict=True):
            wave.put_active_rows(rows_AD)
            for token in wave.active:
                wave.depth[token] += 1
            wave.recursion += 1
        self._go_on(waves, x_ND)

    def leave(self, waves: Sequence[Wave], *, all_tokens: bool = False) -> Tensor:
        """Logits after the last token of each wave, [waves, V], or after all tokens, [N, V]."""
        x_ND = torch.cat([wave.x_ND for wave in waves])
        if self.last:
            rows = [wave.row for wave in waves for _ in range(wave.num_tokens)]
            positions = list(chain.from_iterable(wave.positions for wave in waves))
            slots_N = self.cache.slots_of(rows, positions)
            x_ND = self._unshared(waves, x_ND, self.last, slots_N, first_lane=len(self.first))
        if not all_tokens and len(x_ND) > len(waves):
            ends = torch.tensor([wave.num_tokens for wave in waves], device=self.device).cumsum(0) - 1
            x_ND = x_ND[ends]
        return F.linear(self.model.norm(x_ND), self.model.embedding.weight)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.embedding.weight.device

    def new_block_slots(self, wave: Wave) -> int:
        """Slots that a wave's next pass takes."""
        return len(wave.active) if self.cache.passes > 1 or wave.recursion == 0 else 0

    def _unshared(
        self, waves: Sequence[Wave], x_ND: Tensor, layers: Sequence[Layer], slots_N: Tensor, first_lane: int
    ) -> Tensor:
        positions = list(chain.from_iterable(wave.positions for wave in waves))
        segments = [
            Segment(row=wave.row, table=0, visible=range(wave.start + 1, wave.start + wave.num_tokens + 1))
            for wave in waves
        ]
        run = self._run(positions, segments, None, slots_N)
        for lane, layer in enumerate(layers, first_lane):
            x_ND = apply_layer(layer, x_ND, run, self.cache.unshared, lane)
        return x_ND

    def _block(self, waves: Sequence[Wave], x_ND: Tensor) -> Tensor:
        """f of equations 2.1 and 2.2 for all active tokens."""
        positions = [wave.start + token for wave in waves for token in wave.active]
        writers, slots, places = self._take_slots(waves, positions)
        seen = [position + 1 for position in (positions if self.cache.by_position else places)]
        segments, n = [], 0
        for wave in waves:
            table = 1 + (wave.recursion if self.cache.passes > 1 else 0)
            segments.append(Segment(row=wave.row, table=table, visible=seen[n : n + len(wave.active)]))
            n += len(wave.active)
        run = self._run(positions, segments, writers, slots)
        reader = Run(rotary=run.rotary, groups=run.groups, writers=slots[:0], slots=slots[:0])
        pool: SlotPool = self.cache.block
        for each in self.block:
            x_ND = apply_layer(each.layer, x_ND, run if each.writes else reader, pool, each.lane)
        return x_ND

    def _take_slots(self, waves: Sequence[Wave], positions: list[int]) -> tuple[Tensor | None, Tensor, list[int]]:
        """Which active tokens write keys (None for all), their slots, and their places in the table that they read."""
        rows = [wave.row for wave in waves for _ in wave.active]
        passes = [wave.recursion for wave in waves for _ in wave.active]
        if self.cache.passes > 1 or self.passes == 1:
            slots, places = self.cache.add_to_block(rows, passes, positions)
            return None, slots, places
        new = [i for i, recursion in enumerate(passes) if recursion == 0]
        slots, _ = self.cache.add_to_block([rows[i] for i in new], [0] * len(new), [positions[i] for i in new])
        writers = None if len(new) == len(rows) else torch.tensor(new, dtype=torch.int64, device=self.device)
        return writers, slots, positions

    def _run(self, positions: list[int], segments: list[Segment], writers: Tensor | None, slots: Tensor) -> Run:
        config, dtype = self.model.config, self.model.embedding.weight.dtype
        positions_N = torch.tensor(positions, device=self.device)
        groups = groups_of(self.cache.tables_QPT, segments, config.num_heads // config.num_kv_heads, dtype)
        return Run(rotary=self.model.rotary_at(positions_N[None]), groups=groups, writers=writers, slots=slots)

    def _begin(self, waves: Sequence[Wave], x_ND: Tensor) -> None:
        """What routing does at the block's entry."""
        counts = [wave.num_tokens for wave in waves]
        match self.routing:
            case TokenChoice() as routing:
                self._choose_depths(waves, x_ND, routing, counts)
            case ExpertChoice(router="random"):
                for wave, noise_NR in zip(waves, self._noise(waves).split(counts), strict=True):
                    wave.noise_NR = noise_NR
        self._go_on(waves, x_ND)

    def _choose_depths(self, waves: Sequence[Wave], x_ND: Tensor, routing: TokenChoice, counts: list[int]) -> None:
        logits_NR = self._noise(waves) if routing.router == "random" else self.model.routers[0](x_ND[None])[0]
        probabilities_NR = logits_NR.softmax(-1) if routing.activation == "softmax" else logits_NR.sigmoid()
        biased = routing.balancing == "loss-free"
        chosen = (probabilities_NR + self.model.selection_bias_R if biased else probabilities_NR).argmax(-1).tolist()
        gate_NR = (routing.alpha * probabilities_NR).to(x_ND.dtype)
        n = 0
        for wave, own_gate_NR in zip(waves, gate_NR.split(counts), strict=True):
            wave.entry_ND, wave.gate_NR = wave.x_ND.clone(), own_gate_NR
            wave.chosen = [min(depth, self.max_depth - 1) for depth in chosen[n : n + wave.num_tokens]]
            if self.keep_scores:
                wave.scores = probabilities_NR[n : n + wave.num_tokens].tolist()
            n += wave.num_tokens

    def _noise(self, waves: Sequence[Wave]) -> Tensor:
        """Random routers' logits of all tokens, [N, R]: a function of each token's prefix."""
        longest = max(len(wave.prefix) for wave in waves)
        padded = [wave.prefix + [0] * (longest - len(wave.prefix)) for wave in waves]
        logits_BTR = random_logits(torch.tensor(padded, device=self.device), self.model.config.recursion.count)
        return torch.cat([own[wave.start : len(wave.prefix)] for wave, own in zip(waves, logits_BTR, strict=True)])

    def _combined(self, waves: Sequence[Wave], x_ND: Tensor, y_ND: Tensor) -> Tensor:
        """The residual stream after a pass, given the block's input and output."""
        match self.routing:
            case ExpertChoice(gating="additive"):
                return x_ND + y_ND
            case ExpertChoice() as routing:
                logits = list(chain.from_iterable(wave.logits for wave in waves))
                logits_N = torch.tensor(logits, dtype=self.model.threshold_R.dtype, device=self.device)
                return x_ND + gate(routing, logits_N).unsqueeze(-1).to(y_ND.dtype) * y_ND
            case TokenChoice() as routing:
                return self._stepped(waves, y_ND, routing)
            case None:
                return y_ND

    def _stepped(self, waves: Sequence[Wave], y_ND: Tensor, routing: TokenChoice) -> Tensor:
        """Equation 2.2."""
        gates_NR = torch.cat([wave.active_rows(wave.gate_NR) for wave in waves if wave.gate_NR is not None])
        entry_ND = torch.cat([wave.active_rows(wave.entry_ND) for wave in waves if wave.entry_ND is not None])
        steps = [(wave.recursion, wave.chosen[token] == wave.recursion) for wave in waves for token in wave.active]
        recursion_N, exits_N = torch.tensor(steps, device=self.device).unbind(1)
        gated_ND = gates_NR.gather(1, recursion_N.unsqueeze(1)) * y_ND
        passed_ND = gated_ND if routing.gating == "per-step" else y_ND
        return torch.where(exits_N.bool().unsqueeze(1), gated_ND + entry_ND, passed_ND)

    def _go_on(self, waves: Sequence[Wave], x_ND: Tensor) -> None:
        """Decide which of the tokens that x_ND holds, wave after wave, make another pass."""
        if self.judge is not None:
            self.judge.decide(waves, x_ND, self.max_depth, self.keep_scores)
            return
        for wave in waves:
            if wave.recursion == self.max_depth:
                wave.active = []
            elif wave.chosen:
                wave.active = [token for token in wave.active if wave.chosen[token] >= wave.recursion]
