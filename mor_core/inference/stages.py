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
from mor_core.inference.carried import Carried
from mor_core.inference.judge import Judge
from mor_core.inference.kv_cache import Entries, KeyValueCache
from mor_core.inference.ragged import Run, Tokens, apply_layer, run_of
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
        self.x, self.entry, self.gates, self.noise = (Carried(cache.sequences) for _ in range(4))
        """The residual stream; of token choice, the block's input at recursion 0 and what each application is scaled
        by; of a random router, the logits of all recursions."""
        self.judge = Judge(model, rule, self.max_depth) if isinstance(self.routing, ExpertChoice) else None

    def enter(self, waves: Sequence[Wave]) -> None:
        """Embed the tokens of new waves and bring them to the block, or straight to the exit."""
        tokens = list(chain.from_iterable(wave.prefix[wave.start :] for wave in waves))
        x_ND = F.embedding(torch.tensor(tokens, device=self.device), self.model.embedding.weight)
        if self.first:
            positions = _positions(waves)
            run = self._unshared_run(waves, positions, self.cache.add_unshared(_rows_of_tokens(waves), positions))
            rows_W, x_ND = run.rows_W, self._unshared(x_ND, self.first, run, first_lane=0)
        else:
            rows_W = self._rows_of(waves)
        self.x.begin(waves, rows_W, x_ND)
        for wave in waves:
            wave.active = list(range(wave.num_tokens))
            wave.depth = [0] * wave.num_tokens
            wave.scores = [[] for _ in range(wave.num_tokens)] if self.keep_scores else []
        self._begin(waves, rows_W, x_ND)

    def run_block(self, waves: Sequence[Wave]) -> None:
        """One pass for the active tokens of waves, which may be at different recursions."""
        run = self._block_run(waves)
        x_ND = self.x.active(waves, run.rows_W)
        y_ND = x_ND
        for each in self.block:
            y_ND = apply_layer(each.layer, y_ND, run if each.writes else run.reading, self.cache.block, each.lane)
        x_ND = self._combined(waves, run.rows_W, x_ND, y_ND)
        self.x.put_active(waves, run.rows_W, x_ND)
        for wave in waves:
            for token in wave.active:
                wave.depth[token] += 1
            wave.recursion += 1
        self._go_on(waves, run.rows_W, x_ND)

    def leave(self, waves: Sequence[Wave], *, all_tokens: bool = False) -> Tensor:
        """Logits after the last token of each wave, [waves, V], or after all tokens, [N, V]."""
        if self.last:
            positions = _positions(waves)
            slots = self.cache.unshared_slots(_rows_of_tokens(waves), positions)
            run = self._unshared_run(waves, positions, Entries(slots, [], []))
            x_ND = self._unshared(self.x.all(waves, run.rows_W), self.last, run, first_lane=len(self.first))
        else:
            x_ND = self.x.all(waves, self._rows_of(waves))
        self.forget(waves)
        if not all_tokens and len(x_ND) > len(waves):
            ends = torch.tensor([wave.num_tokens for wave in waves], device=self.device).cumsum(0) - 1
            x_ND = x_ND[ends]
        return F.linear(self.model.norm(x_ND), self.model.embedding.weight)

    def forget(self, waves: Sequence[Wave]) -> None:
        """Let go of what waves carry, which leave or are given up."""
        for each in (self.x, self.entry, self.gates, self.noise):
            each.end(waves)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.embedding.weight.device

    def new_block_slots(self, wave: Wave) -> int:
        """Slots that a wave's next pass takes."""
        return len(wave.active) if self.cache.passes > 1 or wave.recursion == 0 else 0

    def _rows_of(self, waves: Sequence[Wave]) -> Tensor:
        return torch.tensor([wave.row for wave in waves], device=self.device)

    def _unshared_run(self, waves: Sequence[Wave], positions: list[int], new: Entries) -> Run:
        """What layers outside the block need to know of all tokens of waves."""
        tokens = Tokens(
            rows=[wave.row for wave in waves],
            tables=[self.cache.unshared_table(wave.row) for wave in waves],
            counts=[wave.num_tokens for wave in waves],
            positions=positions,
            visible=[position + 1 for position in positions],
        )
        return run_of(self.model, self.cache, tokens, new)

    def _unshared(self, x_ND: Tensor, layers: Sequence[Layer], run: Run, first_lane: int) -> Tensor:
        for lane, layer in enumerate(layers, first_lane):
            x_ND = apply_layer(layer, x_ND, run, self.cache.unshared, lane)
        return x_ND

    def _block_run(self, waves: Sequence[Wave]) -> Run:
        """What the block's layers need to know of the active tokens."""
        rows = [wave.row for wave in waves for _ in wave.active]
        recursions = [wave.recursion for wave in waves for _ in wave.active]
        positions = [wave.start + token for wave in waves for token in wave.active]
        writers, own = None, positions
        if self.cache.passes > 1 or self.passes == 1:
            new, own = self.cache.add_to_block(rows, recursions, positions)
        else:
            writing = [i for i, recursion in enumerate(recursions) if recursion == 0]
            new, _ = self.cache.add_to_block(
                [rows[i] for i in writing], [0] * len(writing), [positions[i] for i in writing]
            )
            writers = writing if len(writing) < len(rows) else None
        tokens = Tokens(
            rows=[wave.row for wave in waves],
            tables=[self.cache.block_table(wave.row, wave.recursion) for wave in waves],
            counts=[len(wave.active) for wave in waves],
            positions=positions,
            visible=[place + 1 for place in (positions if self.cache.by_position else own)],
        )
        return run_of(self.model, self.cache, tokens, new, writers)

    def _begin(self, waves: Sequence[Wave], rows_W: Tensor, x_ND: Tensor) -> None:
        """What routing does at the block's entry."""
        match self.routing:
            case TokenChoice() as routing:
                self._choose_depths(waves, rows_W, x_ND, routing)
            case ExpertChoice(router="random"):
                self.noise.begin(waves, rows_W, self._noise(waves))
        self._go_on(waves, rows_W, x_ND)

    def _choose_depths(self, waves: Sequence[Wave], rows_W: Tensor, x_ND: Tensor, routing: TokenChoice) -> None:
        logits_NR = self._noise(waves) if routing.router == "random" else self.model.routers[0](x_ND[None])[0]
        probabilities_NR = logits_NR.softmax(-1) if routing.activation == "softmax" else logits_NR.sigmoid()
        biased = routing.balancing == "loss-free"
        chosen = (probabilities_NR + self.model.selection_bias_R if biased else probabilities_NR).argmax(-1).tolist()
        self.entry.begin(waves, rows_W, x_ND)
        self.gates.begin(waves, rows_W, (routing.alpha * probabilities_NR).to(x_ND.dtype))
        n = 0
        for wave in waves:
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

    def _combined(self, waves: Sequence[Wave], rows_W: Tensor, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        """The residual stream after a pass, given the block's input and output."""
        match self.routing:
            case ExpertChoice(gating="additive"):
                return x_ND + y_ND
            case ExpertChoice() as routing:
                logits = list(chain.from_iterable(wave.logits for wave in waves))
                logits_N = torch.tensor(logits, dtype=self.model.threshold_R.dtype, device=self.device)
                return torch.addcmul(x_ND, gate(routing, logits_N).unsqueeze(-1).to(y_ND.dtype), y_ND)
            case TokenChoice() as routing:
                return self._stepped(waves, rows_W, y_ND, routing)
            case None:
                return y_ND

    def _stepped(self, waves: Sequence[Wave], rows_W: Tensor, y_ND: Tensor, routing: TokenChoice) -> Tensor:
        """Equation 2.2."""
        gates_NR, entry_ND = self.gates.active(waves, rows_W), self.entry.active(waves, rows_W)
        steps = [(wave.recursion, wave.chosen[token] == wave.recursion) for wave in waves for token in wave.active]
        recursion_N, exits_N = torch.tensor(steps, device=self.device).unbind(1)
        gated_ND = gates_NR.gather(1, recursion_N.unsqueeze(1)) * y_ND
        passed_ND = gated_ND if routing.gating == "per-step" else y_ND
        return torch.where(exits_N.bool().unsqueeze(1), gated_ND + entry_ND, passed_ND)

    def _go_on(self, waves: Sequence[Wave], rows_W: Tensor, x_ND: Tensor) -> None:
        """Decide which of the tokens that x_ND holds, wave after wave, make another pass."""
        if self.judge is not None:
            noise_NR = None if self.judge.routers is not None else self.noise.active(waves, rows_W)
            self.judge.decide(waves, x_ND, noise_NR, self.keep_scores)
            return
        for wave in waves:
            if wave.recursion == self.max_depth:
                wave.active = []
            elif wave.chosen:
                wave.active = [token for token in wave.active if wave.chosen[token] >= wave.recursion]


def _positions(waves: Sequence[Wave]) -> list[int]:
    """Of every token of waves."""
    return [position for wave in waves for position in wave.positions]


def _rows_of_tokens(waves: Sequence[Wave]) -> list[int]:
    """The row of its sequence, for every token of waves."""
    return [wave.row for wave in waves for _ in range(wave.num_tokens)]
