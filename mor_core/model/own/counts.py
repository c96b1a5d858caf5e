"""Parameters, FLOPs and memory of a user's own model, counted on one sequence without computing it.

The module is made on torch's meta device, which knows shapes and holds no numbers; where its code cannot do without
numbers, on the CPU. FLOPs are those of torch.utils.flop_counter over forward and backward: matrix products and
convolutions, a multiply-add as 2. It counts all T^2 query-key pairs of attention, masked ones too.

Shapes: T tokens, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mor_core.config.own_model import OwnModel
from mor_core.model.own.code import OwnModelError
from mor_core.model.own.model import Definition, logits_of, outer_parameters

FEWEST_FLOPS_PER_WEIGHT = 6
"""A token's forward pass multiplies and adds each weight of a matrix once, and the backward pass does so twice."""

FAR_OFF = 1.8
"""Times PyTorch's count, or a part of it: a count of one's own that is further off needs a reason. Two is the usual
slip (a multiply-add as 1, or as 4), and masked attention, which needs half of its pairs, stays within it."""

_PRODUCTS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "convolution", "mv", "addmv", "dot", "_grouped_mm")
    if hasattr(torch.ops.aten, name)
)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One size of an own model, as planning needs it, and what is odd about it."""

    model: OwnModel
    """With its facts."""
    warnings: tuple[str, ...]
    """What a reader of its numbers should know."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one sequence took."""

    forward_flops: int
    training_flops: int
    matrix_params: int
    """Parameters that entered a matrix product in the forward pass, matrices only."""
    calls: dict[int, int]
    """How often each module was called, by its id."""
    activation_bytes: int


def counted(definition: Definition, size: str, *, vocab_size: int, context_length: int) -> Counted:
    """Count one size. Raises OwnModelError where it cannot be built or run, or its own counts cannot be right."""
    settings = {"vocab_size": vocab_size, "context_length": context_length}
    try:
        module, took = _on(torch.device("meta"), definition, size, vocab_size, context_length)
    except Exception:  # Whatever asks for numbers: the CPU has them, and says what else is wrong.
        module, took = _on(torch.device("cpu"), definition, size, vocab_size, context_length)
    outer = {id(parameter) for parameter in outer_parameters(module, vocab_size)}
    total = sum(parameter.numel() for parameter in module.parameters())
    inner = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in outer)
    unique = _own_count(definition, "unique_params", size, settings)
    unrolled = _own_count(definition, "unrolled_params", size, settings)
    training, warnings = took.training_flops, []
    if (per_token := _own_count(definition, "training_flops_per_token", size, settings)) is not None:
        training = round(per_token * context_length)
        _refuse_far_off(definition, size, training, took.training_flops)
    least = FEWEST_FLOPS_PER_WEIGHT * took.matrix_params * context_length
    if training < least:
        warnings.append(
            f"{definition.name} {size}: {training / context_length:,.0f} training FLOPs per token are fewer than "
            f"{least / context_length:,.0f}, 6 for each weight of the matrices that a forward pass touched"
        )
    model = OwnModel(
        object=definition.name,
        version=definition.version,
        size=size,
        settings=definition.settings_text(size),
        vocab_size=vocab_size,
        context_length=context_length,
        unique_params=_within(definition, size, "unique_params", int(inner if unique is None else unique), 1, total),
        unrolled_params=int(_unrolled(module, took.calls, outer) if unrolled is None else unrolled),
        total_params=total,
        training_flops=training,
        forward_flops=took.forward_flops if training == took.training_flops else max(1, round(training / 3)),
        activation_bytes=took.activation_bytes,
        training=definition.training,
    )
    return Counted(model=model, warnings=tuple(warnings))


def _own_count(definition: Definition, method: str, size: str, settings: dict[str, int]) -> Fraction | None:
    """What the object itself counts; None where it leaves that to us. Raises OwnModelError."""
    if not hasattr(definition.target, method):
        return None
    count = definition.call(method, size, **settings)
    if isinstance(count, bool) or not isinstance(count, int | float | Fraction) or not 0 < count < float("inf"):
        raise OwnModelError(f"{definition.name}: {method} of {size} gave {count!r:.60}, expected a positive number")
    return Fraction(count)


def _refuse_far_off(definition: Definition, size: str, own: int, counter: int) -> None:
    ratio = own / counter if counter else float("inf")
    if 1 / FAR_OFF <= ratio <= FAR_OFF or getattr(definition.target, "flops_reason", ""):
        return
    raise OwnModelError(
        f"{definition.name}: training_flops_per_token of {size} is {ratio:.2g} times what PyTorch's counter says "
        f"({own:,} and {counter:,} for a sequence): mend it (a multiply-add is 2 FLOPs, and the backward pass counts), "
        'or say why in flops_reason = "..."'
    )


def _within(definition: Definition, size: str, what: str, count: int, least: int, most: int) -> int:
    if not least <= count <= most:
        raise OwnModelError(
            f"{definition.name}: {what} of {size} is {count:,}, expected {least} to {most:,}, which it has in all: "
            f"give {what}(...) that counts what is no look-up table"
        )
    return count


def _unrolled(module: nn.Module, calls: dict[int, int], outer: Iterable[int]) -> int:
    """Parameters outside embeddings and head, each as often as its module was called, once at least."""
    outer, total, met = set(outer), 0, set()
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if id(parameter) in outer:
                continue
            again = max(1, calls.get(id(part), 0)) if id(parameter) not in met else calls.get(id(part), 0)
            met.add(id(parameter))
            total += parameter.numel() * again
    return total


def _on(
    device: torch.device, definition: Definition, size: str, vocab_size: int, context_length: int
) -> tuple[nn.Module, _Pass]:
    """Build and run one sequence on a device."""
    with torch.random.fork_rng(devices=[]), device:
        module = definition.build(size, vocab_size=vocab_size, context_length=context_length)
        config = _shape(definition, size, vocab_size, context_length)
        return module, _run(module.to(device).train(), config, device)


def _shape(definition: Definition, size: str, vocab_size: int, context_length: int) -> OwnModel:
    """A size of which nothing is counted yet."""
    return OwnModel(
        object=definition.name,
        version=definition.version,
        size=size,
        settings=definition.settings_text(size),
        vocab_size=vocab_size,
        context_length=context_length,
        unique_params=1,
        unrolled_params=1,
        total_params=1,
        training_flops=1,
        forward_flops=1,
        activation_bytes=0,
        training=definition.training,
    )


def _run(module: nn.Module, config: OwnModel, device: torch.device) -> _Pass:
    tokens_BT = torch.zeros((1, config.context_length), dtype=torch.int64, device=device)
    parameters = {_storage(parameter): parameter for parameter in module.parameters()}
    calls: dict[int, int] = {}
    kept: dict[int, Tensor] = {}

    def on_call(part: nn.Module, _arguments: Any, _output: Any) -> None:
        calls[id(part)] = calls.get(id(part), 0) + 1

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in parameters:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    hooks = [part.register_forward_hook(on_call) for part in module.modules()]
    touched = _Touched()
    # PyTorch's counter knows no flash attention on a CPU; the plain one is matrix products.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            with touched:
                logits_BTV = logits_of(module, tokens_BT, config)
            forward = counter.get_total_flops()
            loss = F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT.flatten())
            loss.backward()
        training = counter.get_total_flops()
    for hook in hooks:
        hook.remove()
    return _Pass(
        forward_flops=forward,
        training_flops=training,
        matrix_params=sum(
            parameters[place].numel() for place in touched.storages & parameters.keys() if parameters[place].dim() >= 2
        ),
        calls=calls,
        activation_bytes=sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    )


class _Touched(TorchDispatchMode):
    """Remembers the storages of what enters matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            self.storages |= {_storage(value) for value in args if isinstance(value, Tensor)}
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    """Equal for tensors that share their memory, on the meta device too."""
    return tensor.untyped_storage()._cdata
