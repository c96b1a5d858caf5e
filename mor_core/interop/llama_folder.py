"""A folder of Hugging Face Llama weights: its shape, whether it is whole, and a name for its content. No torch.

Only config.json and safetensors are read. Pickled weights are refused: unpickling a file runs what it says. Nothing
outside the folder is opened, with one exception: the hub's cache keeps a snapshot's files as links into a `blobs`
folder two levels up.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mor_core.config.model import ModelConfig, Recursion, Routing
from mor_core.config.sizes import DepthFit, fitted_depth
from mor_core.interop.llama_config import CONFIG, PretrainedError, read_config, read_object
from mor_core.interop.llama_names import EMBEDDING, HEAD, OLD_BUFFER, tensor_shapes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOATS = ("F64", "F32", "F16", "BF16")

SHAPE = ("vocab_size", "d_model", "num_heads", "num_kv_heads", "d_head", "d_ff", "rope_theta", "norm_eps")
"""What a model must have in common with weights that fill it; depth and context may differ."""


@dataclass(frozen=True, kw_only=True)
class PretrainedLlama:
    """Checked weights that can fill a model; the tensors stay on disk until they are asked for."""

    folder: Path
    """Where they are."""
    config: ModelConfig
    """The vanilla transformer they are of; its context is the longest they were trained for, in tokens."""
    files: dict[str, Path]
    """The file that holds each tensor, by the tensor's Hugging Face name."""
    fingerprint: str
    """sha256 over the shape and the sha256 of every file of weights."""

    def arm(
        self,
        *,
        context_length: int,
        num_layers: int | None = None,
        recursion: Recursion | None = None,
        routing: Routing | None = None,
        fit_depth: DepthFit = "raise",
    ) -> ModelConfig:
        """A model that these weights can fill: their shape, with layers shared and routed.

        `num_layers` unrolled layers (default: as many as the weights have) are raised or shrunk until they divide.
        """
        recursion = recursion or Recursion()
        depth = fitted_depth(num_layers or self.config.num_layers, recursion, fit_depth)
        arm = replace(
            self.config, context_length=context_length, num_layers=depth, recursion=recursion, routing=routing
        )
        self.check_fits(arm)
        return arm

    def check_fits(self, model: ModelConfig) -> None:
        """Raise PretrainedError, with both values, where a model has another shape than these weights."""
        for name in SHAPE:
            size, stored = getattr(model, name), getattr(self.config, name)
            if size != stored:
                mend = "use the tokenizer they were trained with" if name == "vocab_size" else f"set {name} to {stored}"
                raise PretrainedError(
                    f"The model has {name} {size}, but the weights in {self.folder} have {stored}; {mend}."
                )
        if model.context_length > self.config.context_length:
            raise PretrainedError(
                f"The model has sequences of {model.context_length} tokens, but the weights in {self.folder} were "
                f"trained for at most {self.config.context_length}; set a shorter context_length."
            )


def read_llama(folder: Path | str) -> PretrainedLlama:
    """The Llama weights in a folder, with every name, shape and type checked and every file hashed.

    Raises PretrainedError, a sentence, for anything that is missing, damaged, outside the folder or of another
    architecture than this project's (tied embeddings, no biases, unscaled rotary positions).
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise PretrainedError(f"There is no folder {folder} to take pretrained weights from; give an existing one.")
    config = read_config(_inside(folder, CONFIG))
    files = _tensor_files(folder)
    _check_tensors(folder, config, files)
    return PretrainedLlama(folder=folder, config=config, files=files, fingerprint=_fingerprint(config, files.values()))


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor, from the one file of weights or from the index of several."""
    if (folder / WEIGHTS).exists():
        path = _inside(folder, WEIGHTS)
        return dict.fromkeys(_described(path), path)
    if (folder / INDEX).exists():
        return _indexed(folder)
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise PretrainedError(
            f"{folder} holds its weights as {', '.join(pickled)}: pickled files can run any code when they are read, "
            "so only safetensors are; convert them, for example with transformers' save_pretrained."
        )
    raise PretrainedError(f"{folder} holds neither {WEIGHTS} nor {INDEX}; give a folder of safetensors weights.")


def _indexed(folder: Path) -> dict[str, Path]:
    path = _inside(folder, INDEX)
    names = read_object(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise PretrainedError(f"{path} has no weight_map of tensors to file names; copy the folder again.")
    shards = {name: _inside(folder, name) for name in sorted(set(names.values()))}
    tensors_by_shard = {name: _described(shard) for name, shard in shards.items()}
    for tensor, name in names.items():
        if tensor not in tensors_by_shard[name]:
            raise PretrainedError(
                f"{shards[name]} lacks the tensor {tensor} that {INDEX} says is in it; copy it again."
            )
    return {tensor: shards[name] for tensor, name in names.items()}


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder, by a plain name that does not lead out of it."""
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise PretrainedError(f"{folder}: {name!r} is not the plain name of a file in the folder; it is not opened.")
    path = folder / name
    target, roots = path.resolve(), [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append((folder.parent.parent / "blobs").resolve())
    if not any(target.is_relative_to(root) for root in roots):
        raise PretrainedError(
            f"{path} is a link to {target}, outside the folder; it is not opened: copy the file there."
        )
    if not path.is_file():
        raise PretrainedError(f"{path} is missing; copy the whole folder.")
    return path


def _described(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a safetensors file. Only the header is read; its length is checked."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            slices = {name: file.get_slice(name) for name in names}
            return {
                name: (tensor_slice.get_dtype(), tuple(tensor_slice.get_shape()))
                for name, tensor_slice in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise PretrainedError(f"{path} is not a whole safetensors file ({error}); copy it again.") from error


def _check_tensors(folder: Path, config: ModelConfig, files: dict[str, Path]) -> None:
    stored = {name: entry for path in set(files.values()) for name, entry in _described(path).items()}
    expected = tensor_shapes(config)
    for name in files:
        if name not in expected and name != HEAD and not OLD_BUFFER.fullmatch(name):
            raise PretrainedError(f"{folder} holds a tensor {name}, which a plain Llama of its config.json has not.")
    # A tied head may be stored again under its own name.
    optional = {HEAD: expected[EMBEDDING]} if HEAD in files else {}
    for name, shape in (expected | optional).items():
        if name not in files:
            raise PretrainedError(f"{folder} lacks the tensor {name} that its config.json calls for; copy it again.")
        dtype, stored_shape = stored[name]
        if stored_shape != shape:
            raise PretrainedError(
                f"{files[name]}: {name} is {list(stored_shape)}, but config.json calls for {list(shape)}."
            )
        if dtype not in FLOATS:
            raise PretrainedError(f"{files[name]}: {name} is stored as {dtype}; expected one of {', '.join(FLOATS)}.")


def _fingerprint(config: ModelConfig, files: Iterable[Path]) -> str:
    shape = {name: getattr(config, name) for name in ("num_layers", *SHAPE)}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for path in sorted(set(files)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
