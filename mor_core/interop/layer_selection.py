"""Which pretrained layers each unique layer of a recursive transformer starts from. No torch.

Source: Bae et al., arXiv 2507.10524v3, Table 12 (up-training) and the rules of the released code. With P pretrained
layers, L unrolled layers and a shared block of b layers:

1. Fit the depth. Where L differs from P and layers are shared, unrolled layer l stands for a pretrained layer: under a
   middle strategy the first and the last keep the first and the last, and those between are round(linspace(1, P - 2,
   L - 2)); otherwise all are round(linspace(0, P - 1, L)). That is what the released code does to shrink; the same
   rule serves a raised depth, where some layers appear twice. A model that shares nothing picks its L layers straight
   from the P.
2. Pick b of the fitted layers, within the shared part: stepwise round(linspace(first, last, b)), the lower or upper b,
   or b at random in ascending order; average takes the mean over the unrolled layers that are tied.

round is numpy's and Python's, half to even; half-way points are ones of the unrolled depth counted from 0.
"""

import numpy as np

from mor_core.config.model import LayerSelection, ModelConfig
from mor_core.interop.llama_config import PretrainedError


def source_layers(
    model: ModelConfig, num_pretrained: int, selection: LayerSelection, seed: int
) -> tuple[tuple[int, ...], ...]:
    """For each unique layer, the pretrained layers whose mean it starts as, counted from 0.

    One layer each, but under `average`: there one for each unrolled layer that is tied. Only `random` uses the seed.
    Raises PretrainedError where the pretrained model has too few layers.
    """
    edge = model.num_unshared_layers // 2
    if num_pretrained < 2 * edge + 1:
        raise PretrainedError(
            f"{num_pretrained} pretrained layers leave none to share beside the first and the last; "
            "use cycle or sequence sharing."
        )
    if selection == "average":
        fitted = _fitted(num_pretrained, model.num_layers, edge)
        applied = enumerate(model.layer_map)
        tied: list[list[int]] = [[] for _ in range(model.num_unique_layers)]
        for unrolled, unique in applied:
            tied[unique].append(fitted[unrolled])
        return tuple(map(tuple, tied))
    shares = model.recursion.count > 1
    fitted = _fitted(num_pretrained, model.num_layers if shares else max(num_pretrained, model.num_layers), edge)
    inner = _picked(selection, edge, len(fitted) - edge, model.block_depth, seed)
    places = (*range(edge), *inner, *range(len(fitted) - edge, len(fitted)))
    return tuple((fitted[place],) for place in places)


def _fitted(num_pretrained: int, num_layers: int, edge: int) -> list[int]:
    """For each unrolled layer, the pretrained layer it stands for."""
    inner = _spread(edge, num_pretrained - 1 - edge, num_layers - 2 * edge)
    return [*range(edge), *inner, *range(num_pretrained - edge, num_pretrained)]


def _picked(selection: LayerSelection, start: int, stop: int, count: int, seed: int) -> list[int]:
    """`count` of the unrolled layers start..stop-1, ascending."""
    if selection == "stepwise":
        return _spread(start, stop - 1, count)
    if selection == "lower":
        return list(range(start, start + count))
    if selection == "upper":
        return list(range(stop - count, stop))
    chosen = np.random.default_rng(seed).choice(np.arange(start, stop), count, replace=False)
    return sorted(chosen.tolist())


def _spread(first: int, last: int, count: int) -> list[int]:
    return np.linspace(first, last, count).round().astype(int).tolist()
