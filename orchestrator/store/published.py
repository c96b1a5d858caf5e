"""A published segment: its files and its result (result.json), with the sums by which both are known again.

    {"schema": ..., "segment_id": ..., "status": ..., ..., "files": {"spec.json": {"sha256": ..., "size": ...}, ...},
     "sha256": the hash of these very bytes with its own 64 digits replaced by zeros}

`files` has the small files of the segment's folder, and where results lie in a bucket those of the checkpoint too. The
checkpoint's manifest.json is among them and names the sums of its weights, so nothing is left without one. Results of
before sums have neither key; keys that are not known here are passed over.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from mor_core.errors import MorSweepError
from mor_core.files import file_sha256, read_json_object
from mor_core.training.manifest import MANIFEST
from orchestrator.planning.canonical import from_jsonable, is_content_id
from orchestrator.planning.identity import Segment

RESULT_SCHEMA = "mor-sweep.result/1"
LARGEST_RESULT_BYTES = 64 * 2**20

SPEC, METRICS, RESULT, CHECKPOINT = "spec.json", "metrics.jsonl", "result.json", "checkpoint"
SEQUENCE_LOSSES = "sequence_losses.npy"
"""What the folder of a published segment holds; `PublishedSegment` says what each is."""

CHECKPOINT_MANIFEST = f"{CHECKPOINT}/{MANIFEST}"
SMALL_FILES = (SPEC, METRICS, SEQUENCE_LOSSES, CHECKPOINT_MANIFEST)
"""The files of a segment beside result.json and what the checkpoint's manifest names."""

_NO_SUM = "0" * 64
_SUM_AT_END = re.compile(rb'"sha256": "([0-9a-f]{64})"\s*\}\s*\Z')
_LONGEST_END = 200
"""Bytes at the end of a result in which its own sum stands."""

_LONGEST_VALUE = 40
"""Characters of a wrong value that a message shows."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Shares = Annotated[tuple[float, ...], Field(min_length=1)]
Numerics = dict[str, str | int | float | bool | None]
"""How a segment was computed: device, torch, precision, micro_batch, ..., by name."""

# Strict: "1" is no number and true is no 1. From JSON, an array still becomes a tuple.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class InFolder:
    """A file or folder by its name in the folder of whatever has this attribute; its path, when it is asked for."""

    name: str
    """Within that folder."""

    def __get__(self, owner: Any, kind: type) -> Path:
        return owner.folder / self.name


@dataclass(frozen=True, kw_only=True)
class PublishedSegment:
    """The files of a published segment, or of one that is about to be."""

    folder: Path
    """Where they lie."""

    spec = InFolder(SPEC)
    """What was computed: a Segment."""

    metrics = InFolder(METRICS)
    """Its curve; an evaluation by validation loss has none."""

    sequence_losses = InFolder(SEQUENCE_LOSSES)
    """What each validation sequence lost, of an evaluation by validation loss: see `read_sequence_losses`. Those
    that were published before this was kept have none."""

    checkpoint = InFolder(CHECKPOINT)
    """The folder of its last state, where it finished and nothing took it away."""

    result = InFolder(RESULT)
    """What came of it: a SegmentResult. With it the segment is done."""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class PublishedEvaluation:
    """What the weights of a cell measured; see `mor_core.training.evaluate.Evaluation` for each."""

    loss: float
    """Nats per token under causal routing."""
    loss_topk: float
    """Nats per token under top-k routing."""
    depth_mean: float
    """Recursions a token."""
    realised_capacity: Shares
    """Share of tokens that each recursion computed."""
    planned_capacity: Shares
    """Share of tokens that each recursion was to compute."""
    loss_half: float | None = None
    """Nats per token under a sigmoid of 0.5; None without expert choice."""
    bits_per_byte: float | None = None
    """`loss` in bits per byte of text."""
    tokens: Count | None = None
    """Predicted tokens."""
    depth_histogram: Shares | None = None
    """Share of tokens that went through exactly 1..Nr recursions."""
    realised_capacity_half: Shares | None = None
    """As realised_capacity, under the rule of `loss_half`."""
    forward_flops_per_token: float | None = None
    """Exact forward FLOPs."""
    own_losses: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")], float] | None = None
    """What a user's own model names, nats per token."""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """What the weights of a cell scored on a task; see `mor_core.interop.task_scores.TaskScore` for each."""

    task: str
    """Its name."""
    metric: str
    """Which share `score` is."""
    score: float
    """Share from 0 to 1."""
    standard_error: float | None
    """Of `score`; None for a single item."""
    items: Count
    """Questions."""
    chance: float
    """What picking at random would get."""
    longest: float | None
    """What picking the longest choice would get; None without choices."""
    cut: Count
    """Items for which the context was too short."""
    fingerprint: str
    """sha256 of the items."""
    limit: Count | None
    """Items that were asked for; None for all."""
    rule: str
    """Causal routing rule."""
    accuracy: float | None = None
    """Share of items whose right choice has the highest log-likelihood."""
    accuracy_per_character: float | None = None
    """The same with each log-likelihood divided by the choice's characters; None without choices."""
    nats_per_answer: float | None = None
    """Mean negative log-likelihood of the right choice."""
    bits_per_byte: float | None = None
    """What the right choice takes, in bits per byte of its text; None in evaluations of old."""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class PublishedTextLoss:
    """What the weights of a cell lose on a text."""

    text_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its token ids."""
    rule: str
    """Causal routing rule."""
    loss: float
    """Mean cross-entropy of its tokens but the first, nats per token."""
    standard_error: float | None
    """Of `loss`, over windows; None for a single window."""
    bits_per_byte: float | None
    """`loss` in bits per byte of text; None for tokens that stand for no bytes."""
    tokens: Count
    """Predicted tokens."""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class FileSum:
    """By what one file is known again."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its bytes, as 64 hexadecimal digits."""
    size: Count
    """Bytes."""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """One result.json."""

    schema: Literal["mor-sweep.result/1"]
    """Its layout."""
    segment_id: str
    """Whose result it is."""
    status: Literal["finished", "diverged"]
    """Whether the segment reached its end, or its loss ceased to be a finite number."""
    kind: Literal["stable", "decay", "evaluate"]
    """stable, decay or evaluate."""
    step: Count
    """The step at which it ended, from the start of the trunk."""
    reason: str = ""
    """Why it diverged, in one sentence."""
    evaluation: PublishedEvaluation | None = None
    """Of a finished evaluation by validation loss."""
    task: PublishedScore | None = None
    """Of a finished evaluation on a task."""
    text: PublishedTextLoss | None = None
    """Of a finished evaluation on a text."""
    batches: Count = 0
    """Of an evaluation on a task."""
    batches_executed: Count = 0
    """Of these, what the attempt which finished took itself."""
    steps_executed: Count = 0
    """Steps that the attempt which finished took itself."""
    train_seconds: Seconds = 0.0
    """Seconds of those steps."""
    wall_seconds: Seconds = 0.0
    """Seconds of that attempt."""
    attempts: Count = 0
    """Tries."""
    numerics: Annotated[tuple[Numerics, ...], Field(min_length=1)] = ()
    """The distinct ways in which its attempts were computed, the last one last."""
    notes: tuple[str, ...] = ()
    """What was found damaged on the way and done without."""
    loss_spikes: tuple[Count, ...] = ()
    """Steps whose logged loss was ten times the one before."""
    peak_memory_bytes: Count | None = None
    """Largest memory of the process, or of its GPU's allocator."""
    hostname: str = ""
    """Where it ran."""
    last_good_step: Count | None = None
    """Of a divergence: the last step of which a checkpoint was kept."""
    files: dict[str, FileSum] = field(default_factory=dict)
    """Path in the segment's folder -> its sum; empty in results of before sums."""
    sha256: str = ""
    """Of the bytes of result.json, these digits as zeros; empty in results of before sums."""

    @property
    def is_finished(self) -> bool:
        """Whether the segment reached its end."""
        return self.status == "finished"

    @property
    def last_numerics(self) -> Numerics:
        """How the attempt that finished was computed; empty where the result does not say."""
        return self.numerics[-1] if self.numerics else {}


class StoreError(MorSweepError):
    """Something in the results folder is not what this program wrote; the message names the file and what to do."""


class ResultError(ValueError):
    """The bytes of a result.json are not a result; the message says why, without the file's name."""


def read_spec(path: Path) -> Segment:
    """The segment that a spec.json describes, with needs that lead to nothing but segments.

    Raises StoreError, or OtherVersion for one of another version.
    """
    try:
        segment = from_jsonable(Segment, read_json_object(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise StoreError(f"{path} is not a readable spec ({error})") from error
    # Hints are written below what a spec needs, so that an id must not be a path.
    if not all(map(is_content_id, (segment.id, *segment.needs))):
        raise StoreError(f"{path} is not a readable spec (it has an id that is not 64 hexadecimal digits)")
    if segment.kind != "stable" and len(segment.needs) != 1:
        raise StoreError(f"{path} is not a readable spec (a {segment.kind} needs one segment)")
    return segment


_RESULT = TypeAdapter(SegmentResult)


def parse_result(content: bytes, segment_id: str) -> SegmentResult:
    """The result of a segment. Raises ResultError where the content is not one, or its bytes have another sum."""
    try:
        result = _RESULT.validate_json(content)
    except ValidationError as error:
        raise ResultError(_sentence(error)) from error
    if result.segment_id != segment_id:
        raise ResultError(f"it is not the result of its segment in schema {RESULT_SCHEMA}")
    if result.sha256 and _own_sum(content) != result.sha256:
        raise ResultError("it was changed after it was published: its bytes do not have the sha256 at its end")
    if contradiction := _contradiction(result):
        raise ResultError(contradiction)
    return result


def result_content(document: Mapping[str, Any]) -> bytes:
    """The bytes of a result.json, which end with their own sum. Raises ResultError where they are not a result."""
    content = summed_content(document)
    parse_result(content, document["segment_id"])
    return content


def summed_content(document: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """A JSON object as text that ends with its own sum, whatever else it says. Raises ValueError for a number that is
    not finite."""
    others = {key: document[key] for key in sorted(document) if key != "sha256"}
    content = json.dumps({**others, "sha256": _NO_SUM}, indent=indent, allow_nan=False).encode()
    digits = hashlib.sha256(content).hexdigest().encode()
    start = content.rindex(_NO_SUM.encode())
    return content[:start] + digits + content[start + len(digits) :]


def ends_with_its_sum(content: bytes) -> bool:
    """Whether bytes are as `summed_content` made them."""
    match = _sum_at_end(content)
    return match is not None and match[1].decode() == _own_sum(content)


def named_sums(content: bytes) -> dict[str, str]:
    """Path -> sha256 of the files that a result.json names, whatever else it says: empty sums where they are none.

    Raises ResultError where it is no JSON at all.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"is not JSON ({error})") from error
    files = document.get("files") if isinstance(document, dict) else None
    parts = files if isinstance(files, dict) else {}
    return {path: str(part.get("sha256")) if isinstance(part, dict) else "" for path, part in parts.items()}


def file_sum(path: Path) -> FileSum:
    """The sum of a file as it is."""
    return FileSum(sha256=file_sha256(path), size=path.stat().st_size)


def small_file_sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Path -> sum of the small files of a segment's folder, as result.json has them."""
    return {name: vars(file_sum(folder / name)) for name in SMALL_FILES if (folder / name).is_file()}


def wrong_files(result: SegmentResult, folder: Path) -> Iterator[tuple[Path, str]]:
    """The small files of a published segment that are not as its result says, each with what is wrong with it."""
    if not result.sha256:
        return
    for name in SMALL_FILES:
        expected, path = result.files.get(name), folder / name
        if not path.is_file():
            # gc may remove a checkpoint, and a bundle may come without: pruned.json accounts for it.
            if expected is not None and name != CHECKPOINT_MANIFEST:
                yield path, "is missing, though its segment was published with it"
        elif expected is None:
            yield path, "was added after its segment was published"
        elif file_sum(path) != expected:
            yield path, "was changed after its segment was published: its sha256 is not the one in result.json"


def _sum_at_end(content: bytes) -> re.Match[bytes] | None:
    return _SUM_AT_END.search(content, max(0, len(content) - _LONGEST_END))


def _own_sum(content: bytes) -> str:
    """sha256 of a result with the digits of its sum as zeros; empty where it does not end with a sum."""
    match = _sum_at_end(content)
    if match is None:
        return ""
    start, end = match.span(1)
    return hashlib.sha256(content[:start] + _NO_SUM.encode() + content[end:]).hexdigest()


def _contradiction(result: SegmentResult) -> str:
    """What a result of right shapes says that cannot be; empty for nothing."""
    evaluation = result.evaluation
    if result.kind == "evaluate" and result.is_finished and not (evaluation or result.task or result.text):
        return "it is a finished evaluation without a loss or a score"
    if evaluation is not None and len(evaluation.realised_capacity) != len(evaluation.planned_capacity):
        return "its realised_capacity and planned_capacity are of different lengths"
    return ""


def _sentence(error: ValidationError) -> str:
    """What is wrong first, that it is another schema before all else."""
    errors = error.errors(include_url=False, include_context=False)
    if any(wrong["loc"] == ("schema",) for wrong in errors):
        return f"it is not the result of its segment in schema {RESULT_SCHEMA}"
    first = errors[0]
    message = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return message
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place} is missing"
    value = repr(first["input"])
    shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    return f"{place}: {message}, not {shown}"


def move_away(folder: Path) -> str:
    """What to do about a segment whose files make no sense."""
    return f"move {folder} away and run the same command again; only this segment is computed anew"
