"""Data sets of the Hugging Face hub: `datasets` says which files they are made of, from the hub or a local mirror.

The one door to `datasets`. Parquet and JSON Lines files are then read by mor_core.data.text.file_formats, in ranges;
`datasets` itself streams every other format, a file at a time. A mirror is a folder that holds NAME/ as a clone of the
hub's repository would.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.spec import FINEWEB_EDU, HUB_PREFIX, DataError
from mor_core.data.text.file_formats import TEXT_KEY
from mor_core.errors import first_line

MIRROR_VARIABLE = "MOR_SWEEP_HF_MIRROR"

NAMED = {FINEWEB_EDU: "hf:HuggingFaceTB/smollm-corpus:fineweb-edu-dedup"}
"""Corpora that have a name of their own: what the paper trains on."""

FILTERS = {FINEWEB_EDU: "FineWeb-Edu, deduplicated, as SmolLM was trained on: educational score 3 and above"}
"""What was left out before the text came here, where it is known."""

STREAMED = "datasets:"
"""How the kind of a file begins that `datasets` reads; the format follows."""


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A data set as it is named: `hf:NAME[:CONFIG][@REVISION]`."""

    repository: str
    config: str | None
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """The training files of a data set."""

    kind: str
    """The format that `datasets` found: `parquet`, `json`, `csv`, ..."""
    files: tuple[str, ...]
    """Paths of a mirror, or URLs that name a commit."""
    provenance: dict[str, Any]


def hub_name(corpus: str) -> HubName:
    """The parts of a name; `DataError` where it has no repository."""
    text, _, revision = NAMED.get(corpus, corpus).removeprefix(HUB_PREFIX).partition("@")
    repository, _, config = text.partition(":")
    if not repository.strip("/") or ".." in repository.split("/") or repository.startswith("/"):
        raise DataError(f"{corpus!r} names no data set: expected hf:OWNER/NAME[:CONFIG][@REVISION].")
    return HubName(repository=repository, config=config or None, revision=revision or None)


def mirror_folder() -> Path | None:
    """Where a local mirror of the hub is, if `MOR_SWEEP_HF_MIRROR` names one."""
    chosen = os.environ.get(MIRROR_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else None


def find_files(corpus: str) -> HubFiles:
    """Ask the hub, or the mirror, for the files of a data set's training split. Reads no text.

    Raises `DataError` where `datasets` is not installed, nothing answers, or there is no such data set.
    """
    name = hub_name(corpus)
    datasets = _datasets()
    mirror = mirror_folder()
    address = name.repository if mirror is None else str(mirror / name.repository)
    if mirror is not None and not Path(address).is_dir():
        raise DataError(
            f"The mirror {mirror} ({MIRROR_VARIABLE}) holds no folder {name.repository}; put the data set's "
            "files there, or unset the variable to ask the hub."
        )
    try:
        revision = None if mirror else name.revision
        builder = datasets.load_dataset_builder(address, name.config, revision=revision)
        files = (builder.config.data_files or {}).get("train")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The data set {corpus} cannot be looked up ({first_line(error)}); check its name and the connection, or "
            f"set {MIRROR_VARIABLE} to a folder that holds {name.repository}."
        ) from error
    if not files:
        raise DataError(f"The data set {corpus} has no files for a split named train, which is what is prepared.")
    return HubFiles(
        kind=builder.name,
        files=tuple(map(str, files)),
        provenance={
            "source": NAMED.get(corpus, corpus).partition("@")[0],
            "revision": _commit(files[0]) or _mirrored(name),
            "licence": _licence(address, name.revision if mirror is None else None),
            "filter": FILTERS.get(corpus, "none"),
        },
    )


def stream_documents(file: str, kind: str, skipped: Counter[str]) -> Iterator[str]:
    """The texts of one file of any format that `datasets` reads, streamed by it. Raises `DataError`."""
    datasets = _datasets()
    try:
        rows = datasets.load_dataset(
            kind.removeprefix(STREAMED), data_files={"train": [file]}, split="train", streaming=True
        )
        for row in rows:
            if isinstance(text := row.get(TEXT_KEY), str):
                yield text
            else:
                skipped[f"no string under the key '{TEXT_KEY}'"] += 1
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{file} cannot be read to its end ({first_line(error)}); write or copy it again.") from error


def hub_file(model: str, name: str, beside: Iterable[str] = ()) -> Path:
    """A file of a model on the hub, from the mirror, from the hub's own cache, or downloaded; others that stand
    `beside` it are fetched too where there are any. `DataError` where it cannot be had.
    """
    if (mirror := mirror_folder()) is not None:
        if not (mirror / model / name).is_file():
            raise DataError(f"The mirror {mirror} ({MIRROR_VARIABLE}) holds no {model}/{name}; put it there.")
        return mirror / model / name
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Path(cached)
    for other in beside:
        with suppress(OSError, ValueError):
            hf_hub_download(model, other)
    try:
        return Path(hf_hub_download(model, name))
    except (OSError, ValueError) as error:
        raise DataError(
            f"There is no file or folder {model}, and {name} of such a model cannot be fetched ({first_line(error)}); "
            "give a tokenizer.json or a folder that holds one."
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError("Data sets of the hub need the library `datasets`: pip install 'mor-sweep[hub]'.") from error
    datasets.disable_progress_bars()
    return datasets


def _mirrored(name: HubName) -> str:
    """A mirror is a folder of files: nothing in it says of which revision they are."""
    return f"as mirrored, named {name.revision} and not checked" if name.revision else "as mirrored"


def _commit(url: str) -> str | None:
    """The commit in hf://datasets/OWNER/NAME@COMMIT/path."""
    _, at, rest = url.partition("@")
    return rest.partition("/")[0] if at and url.startswith("hf://") else None


def _licence(address: str, revision: str | None) -> str:
    """The licence field of the data set's card."""
    from huggingface_hub import DatasetCard, hf_hub_download

    card: Any = None
    with suppress(OSError, ValueError):  # no card is no reason to stop
        readme = Path(address, "README.md")
        if not Path(address).is_dir():
            readme = Path(hf_hub_download(address, "README.md", repo_type="dataset", revision=revision))
        card = DatasetCard.load(readme).data.to_dict().get("license")
    return ", ".join(card) if isinstance(card, list) else str(card or "not stated")
