"""A model of your own: what its object must have, and how a plain torch module is trained like one of our family.

    class Ladder:
        version = "1"                                              # raise it when losses change
        sizes = {"small": {"width": 64}, "large": {"width": 128}}  # name -> keyword arguments of build

        def build(self, *, vocab_size, context_length, width):     # a torch.nn.Module: token ids [B, T] -> logits
            return MyModel(vocab_size, width)

    ladder = Ladder()

    [arms.mine]                                                    # in the sweep file
    model = "my_model:ladder"

That is all that is needed: logits are a tensor [B, T, V] or anything with such a tensor as `logits`. The rest is given:
AdamW, schedule, trunks, accumulation, evaluation, checkpoints, FLOPs by PyTorch's counter. An object may say more:

    files = ["layers.py"]              other files that losses depend on, from the module's folder
    unique_params(**size)              N; else every parameter outside nn.Embedding and the head
    unrolled_params(**size)            each parameter once per application; else by counting calls of modules
    training_flops_per_token(**size)   exact; else PyTorch's counter over forward and backward
    flops_reason = "why"               why its count is far from PyTorch's
    training_step(...) and others      how it is trained and evaluated: see OptionalParts

The three functions take what `build` takes. Weights are drawn by `build`, under a seed that we set: they are a pure
function of (settings, seed). So is a step, dropout included: the seed is set anew before each.

Identity is the object's import path, its version and the settings of a size (`mor_core.config.own_model.OwnModel`).
Our family goes the same way: `build` gives a `LanguageModel` of either kind, and nothing behind it asks which.

Shapes: B sequences, T tokens, V vocabulary.
"""

import contextlib
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mor_core.config.model import ModelConfig
from mor_core.config.own_model import Model, OwnModel, OwnTraining
from mor_core.config.training import TrainConfig
from mor_core.files import is_folder_name
from mor_core.model.language_model import LanguageModel, Routed, RoutingRule
from mor_core.model.own.code import CodeFingerprint, OwnImportError, OwnModelError, fingerprint, parts_of_name
from mor_core.model.transformer import build_model


class OwnModelObject(Protocol):
    """The least that the object of an own model has (see the module's text for what else it may have)."""

    version: str
    """Raised by its author when losses change."""
    sizes: Mapping[str, Mapping[str, Any]]
    """The ladder: name of a size -> keyword arguments of `build`, plain values."""
    build: Callable[..., nn.Module]
    """build(vocab_size=..., context_length=..., **size): a module from token ids [B, T] to logits [B, T, V]."""


class OptionalParts(Protocol):
    """What an object may have where the defaults do not fit. Each is found by its name.

    `module` is what `build` made. `tokens_BT` are token ids [B, T + 1], int64: the inputs [:, :-1] and, one later, the
    targets [:, 1:]. `train` is the sweep's TrainConfig (mor_core.config.training), to follow as far as the model can.
    """

    supports_cooldown: bool
    """Whether training steps follow any `learning_rate`: a constant one, then a linear fall to 0. Budgets can then
    share a trunk. Without it each run is trained as a whole: `train.cosine_steps` says how many steps it has, and the
    rates are a cosine over them."""

    def training_step(
        self,
        module: nn.Module,
        state: Any,
        tokens_BT: Tensor,
        *,
        step: int,
        learning_rate: float,
        train: TrainConfig,
    ) -> Tensor:
        """Take one optimiser step (`step` counts from 0) on the whole batch, which the seed and the step decide, and
        change `module` and `state` in place. In place of AdamW, clipping, accumulation and mixed precision.

        Returns the mean cross-entropy of the batch before the step, nats/token, a scalar. torch's generator is seeded
        anew before each step.
        """
        ...

    def training_state(self, module: nn.Module, train: TrainConfig) -> Any:
        """What steps keep beside the weights, such as an optimiser, as it is before the first step. Without this method
        `state` is None, and a step needs nothing but the weights."""
        ...

    def state_tensors(self, state: Any) -> dict[str, Tensor]:
        """All of the state by name, for a safetensors file. No two tensors share memory."""
        ...

    def load_state(self, state: Any, tensors: dict[str, Tensor]) -> None:
        """Put back, in place and bit for bit, what `state_tensors` gave; `state` is new, `tensors` are on the module's
        device."""
        ...

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Losses that an evaluation measures beside the cross-entropy: name -> mean of each sequence, [B], nats/token,
        above 0, less is better. The module is in evaluation mode and gradients are off. The mean over all validation
        sequences becomes the column own:NAME of the run table."""
        ...


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An own model's object, checked."""

    name: str
    """package.module:object."""
    target: Any
    """The object."""
    version: str
    """See OwnModelObject."""
    sizes: Mapping[str, Mapping[str, Any]]
    """See OwnModelObject."""
    file: Path
    """Of its module."""
    files: tuple[Path, ...]
    """That it names."""

    @property
    def training(self) -> OwnTraining:
        """How it is trained."""
        if not hasattr(self.target, "training_step"):
            return "adamw"
        return "steps" if getattr(self.target, "supports_cooldown", False) else "whole-runs"

    def build(self, size: str, *, vocab_size: int, context_length: int) -> nn.Module:
        """A module of a size, as the object makes it. Raises OwnModelError."""
        module = self.call("build", size, vocab_size=vocab_size, context_length=context_length)
        if not isinstance(module, nn.Module):
            raise OwnModelError(f"{self.name}: build gave {type(module).__name__} for {size}, expected torch.nn.Module")
        return module

    def call(self, method: str, size: str, **settings: int) -> Any:
        """What a method of the object says of a size. Raises OwnModelError with what the object raised."""
        try:
            return getattr(self.target, method)(**settings, **self.sizes[size])
        except Exception as error:  # Whatever it is, it is the user's to mend.
            raise OwnModelError(f"{self.name}: {method} of {size} failed: {one_line(error)}") from error

    def settings_text(self, size: str) -> str:
        """The keyword arguments of a size, as an id holds them."""
        return json.dumps(self.sizes[size], sort_keys=True, separators=(",", ":"), allow_nan=False)

    def code(self) -> CodeFingerprint:
        """What its losses depend on beside its settings."""
        return fingerprint(self.file, self.files)


@lru_cache(maxsize=16)
def load_definition(name: str) -> Definition:
    """Import the object of an own model. Raises OwnModelError."""
    module_name, place = parts_of_name(name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise OwnModelError(f"model {name}: there is no module {error.name} on Python's path") from None
        lacking = f"there is no module {error.name}, install the package that has it" if error.name else one_line(error)
        raise OwnImportError(f"model {name}: its import failed: {lacking}") from error
    except Exception as error:  # Code of the user's runs here.
        raise OwnImportError(f"model {name}: its import failed: {one_line(error)}") from error
    try:
        target = reduce(getattr, place.split("."), module)
    except AttributeError:
        raise OwnModelError(f"model {name}: {module_name} has no {place}: name what it defines") from None
    return definition_of(target, name)


def definition_of(target: Any, name: str | None = None) -> Definition:
    """An object that may be an own model's, checked. Raises OwnModelError with a sentence for each thing missing."""
    kind = target if isinstance(target, type) else type(target)
    name = name or f"{kind.__module__}:{kind.__name__}"
    target = target() if isinstance(target, type) else target
    if missing := _missing(target):
        raise OwnModelError("\n".join(f"{name}: {sentence}" for sentence in missing))
    file = _file_of(target, name)
    return Definition(
        name=name,
        target=target,
        version=target.version,
        sizes={size: dict(settings) for size, settings in target.sizes.items()},
        file=file,
        files=tuple((file.parent / path).resolve() for path in getattr(target, "files", ())),
    )


def _missing(target: Any) -> list[str]:
    """A sentence for each part that an object lacks."""
    sentences = []
    version = getattr(target, "version", None)
    if not isinstance(version, str) or not version:
        state = f"{version!r:.60}, expected a text" if version else "missing"
        sentences.append(f'version is {state}: add version = "1", and raise it when losses change')
    if not callable(getattr(target, "build", None)):
        sentences.append("build is missing: add build(self, *, vocab_size, context_length, ...) that returns a module")
    sentences += _missing_methods(target)
    sizes = getattr(target, "sizes", None)
    if not isinstance(sizes, Mapping) or not sizes:
        sentences.append('sizes is missing: add sizes = {"small": {...}, ...}, the keyword arguments of build')
        return sentences
    for size, settings in sizes.items():
        if not isinstance(size, str) or not size.isprintable() or not 0 < len(size) <= 40 or "/" in size:
            sentences.append(f"size {size!r:.60}: expected a short name without a slash")
        try:
            json.dumps(dict(settings), allow_nan=False)
        except (TypeError, ValueError):
            sentences.append(f"size {size!r:.60} has settings that are not plain numbers, texts and lists")
    return sentences


SIGNATURES = {
    "training_step": "training_step(self, module, state, tokens_BT, *, step, learning_rate, train) -> loss",
    "training_state": "training_state(self, module, train) -> state",
    "state_tensors": "state_tensors(self, state) -> {name: tensor}",
    "load_state": "load_state(self, state, tensors)",
    "named_losses": "named_losses(self, module, tokens_BT) -> {name: losses_B}",
}
"""Of OptionalParts, as sentences name them."""

NEEDED_BY = {
    "training_state": ("training_step", "state_tensors", "load_state"),
    "state_tensors": ("training_state",),
    "load_state": ("training_state",),
    "supports_cooldown": ("training_step",),
}
"""By part, the methods without which it is of no use."""


def _missing_methods(target: Any) -> list[str]:
    """A sentence for each optional part that is no method, or lacks another."""
    sentences = [
        f"{method} is no method: write {signature}"
        for method, signature in SIGNATURES.items()
        if hasattr(target, method) and not callable(getattr(target, method))
    ]
    needed = {method: part for part, methods in NEEDED_BY.items() if hasattr(target, part) for method in methods}
    sentences += [
        f"{method} is missing, which {part} needs: add {SIGNATURES[method]}"
        for method, part in needed.items()
        if not hasattr(target, method)
    ]
    supports_cooldown = getattr(target, "supports_cooldown", False)
    if not isinstance(supports_cooldown, bool):
        sentences.append(f"supports_cooldown is {supports_cooldown!r:.40}: expected True or False")
    return sentences


def _file_of(target: Any, name: str) -> Path:
    """The file that the object is named by; of one that is not named, that of its class."""
    module = inspect.getmodule(target if inspect.ismodule(target) else type(target))
    if ":" in name:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    if file is None:
        raise OwnModelError(f"{name}: its module has no file: write it into one")
    return Path(file)


def one_line(error: BaseException) -> str:
    """An exception of the user's code: its kind, and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class PlainModel(LanguageModel[OwnModel]):
    """Any module from token ids [B, T] to logits [B, T, V] as a model that can be trained here."""

    def __init__(self, config: OwnModel, definition: Definition, module: nn.Module, seed: int) -> None:
        super().__init__()
        self.config, self.definition, self.module, self.seed = config, definition, module, seed
        outer = {id(parameter) for parameter in outer_parameters(module, config.vocab_size)}
        self._outer = {name for name, parameter in self.named_parameters() if id(parameter) in outer}

    def encode(
        self, tokens_BT: Tensor, rule: RoutingRule = "top-k", step: int | None = None
    ) -> tuple[Tensor, Routed | None]:
        """Logits, [B, T, V]. Raises OwnModelError where they are not."""
        return logits_of(self.module, tokens_BT, self.config), None

    def is_hidden(self, name: str) -> bool:
        """Outside embeddings and the head."""
        return name not in self._outer

    def before_step(self, step: int, rank: int) -> None:
        """Seed what the module draws in this step, such as dropout."""
        digest = hashlib.sha256(f"{self.seed} {step} {rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def named_losses(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Those of the object. Raises OwnModelError where they are no named losses of sequences."""
        if not hasattr(self.definition.target, "named_losses"):
            return {}
        losses = self.definition.target.named_losses(self.module, tokens_BT)
        if not isinstance(losses, Mapping):
            raise OwnModelError(
                f"{self.config.object}: named_losses gave {type(losses).__name__}, expected {{name: losses_B}}"
            )
        for name, losses_B in losses.items():
            if not isinstance(name, str) or not is_folder_name(name):
                raise OwnModelError(
                    f"{self.config.object}: named_losses called a loss {name!r:.110}: expected up to 100 letters, "
                    "digits, dots, dashes and underscores"
                )
            if not isinstance(losses_B, Tensor) or tuple(losses_B.shape) != (len(tokens_BT),):
                shape = list(losses_B.shape) if isinstance(losses_B, Tensor) else type(losses_B).__name__
                raise OwnModelError(
                    f"{self.config.object}: named_losses gave {shape} for {name}, expected [{len(tokens_BT)}], the "
                    "mean of each sequence"
                )
        return dict(losses)

    def compile_for_training(self) -> None:
        """See LanguageModel."""
        self.module.compile()


def logits_of(module: nn.Module, tokens_BT: Tensor, config: OwnModel) -> Tensor:
    """What a module gives for token ids, [B, T, V]. Raises OwnModelError where that is something else."""
    output = module(tokens_BT)
    logits_BTV = getattr(output, "logits", output)
    expected = (*tokens_BT.shape, config.vocab_size)
    if not isinstance(logits_BTV, Tensor) or tuple(logits_BTV.shape) != expected:
        shape = list(logits_BTV.shape) if isinstance(logits_BTV, Tensor) else type(logits_BTV).__name__
        raise OwnModelError(f"{config.object} {config.size}: forward gave {shape}, expected logits {list(expected)}")
    return logits_BTV


def outer_parameters(module: nn.Module, vocab_size: int) -> list[nn.Parameter]:
    """Those of embeddings and of the head: the last linear layer with an output for each token id."""
    embeddings = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    heads = [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == vocab_size]
    return [parameter for part in (*embeddings, *heads[-1:]) for parameter in part.parameters(recurse=False)]


def build(config: Model, seed: int, device: torch.device | str = "cpu") -> LanguageModel:
    """A new model of our family or a user's own, whose weights are a pure function of (config, seed).

    Raises OwnModelError where an own one's object is not what was planned.
    """
    if isinstance(config, ModelConfig):
        return build_model(config, seed, device)
    definition = load_definition(config.object)
    settings = definition.settings_text(config.size) if config.size in definition.sizes else None
    if (definition.version, settings, definition.training) != (config.version, config.settings, config.training):
        raise OwnModelError(
            f"{config.object} is no longer what was planned (version {config.version}, size {config.size} with "
            f"{config.settings}, training {config.training}): run the same command again to plan anew"
        )
    return build_own(definition, config, seed, device)


def build_own(definition: Definition, config: OwnModel, seed: int, device: torch.device | str = "cpu") -> PlainModel:
    """The same of an object at hand. Weights are drawn on the CPU, so that a seed means one model on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = definition.build(config.size, vocab_size=config.vocab_size, context_length=config.context_length)
    return PlainModel(config, definition, module.float(), seed).to(device)
