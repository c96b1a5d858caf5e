"""What to train on, where prepared data is kept, and the one error for data that cannot be used."""

import os
from dataclasses import dataclass
from pathlib import Path

PYTHON_SOURCES = "python-sources"
"""The name of the default corpus: the Python files of the installed libraries."""

CACHE_VARIABLE = "MOR_SWEEP_CACHE"

SMALLEST_VOCABULARY = 258
"""256 bytes, the end-of-text token, and at least one merge."""


class DataError(ValueError):
    """Text or prepared tokens that cannot be used; the message says what was found and what to do."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The text and the vocabulary of a run, as a user states them."""

    corpus: str = PYTHON_SOURCES
    """`python-sources`, or the path of a text, JSON Lines or Parquet file, or of a folder of such files."""

    vocab_size: int
    """Number of token ids, the end-of-text token included; at least as many as a given tokenizer has."""

    tokenizer: str | None = None
    """Path of a Hugging Face tokenizer.json, or of a folder that holds one; None trains byte-level BPE on the text."""

    max_megabytes: float | None = None
    """Most text to keep, in 10^6 bytes of UTF-8; None keeps everything."""

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

    @property
    def is_python_sources(self) -> bool:
        return self.corpus == PYTHON_SOURCES

    @property
    def max_bytes(self) -> int | None:
        return None if self.max_megabytes is None else round(self.max_megabytes * 1e6)


def cache_folder() -> Path:
    """The folder of prepared data: `MOR_SWEEP_CACHE` where it is set, else the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mor-sweep"))
