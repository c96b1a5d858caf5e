"""What to train on, where prepared data is kept, and the one error for data that cannot be used."""

import os
from dataclasses import dataclass
from pathlib import Path

from mor_core.errors import Fix, UserError

PYTHON_SOURCES = "python-sources"
"""The name of the corpus that needs no network: the Python files of the installed libraries."""

PINNED_PYTHON = "pinned-python"
"""The name of the default corpus, the same on every machine: the Python files of a list of wheels."""

PYTHON_CORPORA = (PINNED_PYTHON, PYTHON_SOURCES)

FINEWEB_EDU = "fineweb-edu"
"""The name of the corpus that the paper trains on."""

HUB_PREFIX = "hf:"
"""How the name of a data set of the Hugging Face hub begins."""

DEDUPLICATE = ("none", "exact", "near")

CACHE_VARIABLE = "MOR_SWEEP_CACHE"

SMALLEST_VOCABULARY = 258
"""256 bytes, the end-of-text token, and at least one merge."""

REFRESH = Fix(verb="data prepare", setting="refresh", words="run {} to freeze the text anew")
"""What helps where prepared data, or the text that was frozen for them, are not as they were left."""


class DataError(UserError):
    """Text or prepared tokens that cannot be used; the message says what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The text and the vocabulary of a run, as a user states them."""

    corpus: str = PINNED_PYTHON
    """`pinned-python`, `python-sources`, `fineweb-edu`, `hf:NAME[:CONFIG][@REVISION]`, or the path of a text, JSON
    Lines or Parquet file, of a folder of such files, a pattern of paths, or several with commas between. A URL names
    data that were prepared and published."""

    vocab_size: int
    """Number of token ids, the end-of-text token included; at least as many as a given tokenizer has."""

    tokenizer: str | None = None
    """Path of a Hugging Face tokenizer.json, of a folder that holds one, or the name of a model on the hub; None trains
    byte-level BPE on the text."""

    max_megabytes: float | None = None
    """Most text to keep, in 10^6 bytes of UTF-8; None keeps everything. A large corpus is taken in whole parts, up to
    the one that reaches this."""

    deduplicate: str = "exact"
    """Which documents are left out as repeated: `none`, `exact` (equal to an earlier one) or `near` (much like one)."""

    quality: bool = False
    """Whether text that nobody wants to measure is left out (`mor_core.data.text.quality`), and validation is drawn
    from many packages or folders alike. For Python files of libraries and a user's files that are frozen as a copy."""

    def __post_init__(self) -> None:
        if self.tokenizer is None and self.vocab_size < SMALLEST_VOCABULARY:
            raise DataError(
                f"The vocabulary size is {self.vocab_size}, but byte-level BPE needs at least "
                f"{SMALLEST_VOCABULARY} ids (256 bytes, end of text, one merge); choose a larger one."
            )
        if self.max_megabytes is not None and not self.max_megabytes > 0:
            raise DataError(
                f"max_megabytes is {self.max_megabytes}, but must be above zero; leave it out for no limit."
            )

        if self.deduplicate not in DEDUPLICATE:
            raise DataError(f"deduplicate is {self.deduplicate!r}, expected {', '.join(DEDUPLICATE)}.")
        if self.is_python and self.deduplicate != "exact":
            raise DataError(
                f"deduplicate is {self.deduplicate!r}, but near duplicates are always left out of {self.corpus}; "
                "leave it out, or give a corpus of your own."
            )
        if self.quality and (self.is_hub or self.is_remote or self.deduplicate != "exact"):
            raise DataError(
                f"quality is true for {self.corpus} with deduplicate = {self.deduplicate!r}, but only Python corpora "
                'and files that are frozen as a copy, under deduplicate = "exact", have these rules; leave quality out.'
            )

    @property
    def is_hub(self) -> bool:
        """Whether the corpus is a data set of the Hugging Face hub."""
        return self.corpus == FINEWEB_EDU or self.corpus.startswith(HUB_PREFIX)

    @property
    def is_files(self) -> bool:
        """Whether the corpus is a user's own files."""
        return not self.is_python and not self.is_hub and not self.is_remote

    @property
    def is_remote(self) -> bool:
        """Whether the corpus is data that was prepared elsewhere and published on object storage."""
        return "://" in self.corpus

    @property
    def is_python(self) -> bool:
        """Whether the corpus is Python files of libraries: the installed ones, or those of the list of wheels."""
        return self.corpus in PYTHON_CORPORA

    @property
    def is_pinned_python(self) -> bool:
        return self.corpus == PINNED_PYTHON

    @property
    def max_bytes(self) -> int | None:
        return None if self.max_megabytes is None else round(self.max_megabytes * 1e6)


def cache_folder() -> Path:
    """The folder of prepared data: `MOR_SWEEP_CACHE` where it is set, else the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mor-sweep"))
