"""The token ids of a text in a file, as a model that was trained with a tokenizer reads them. N tokens."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mor_core.data.spec import DataError
from mor_core.data.text.user_files import whole_documents
from mor_core.data.tokens.encoding import encoded
from mor_core.data.tokens.tokenizer import load_tokenizer, read_tokenizer

TOKEN_FILE = ".npy"


def read_tokens(path: Path, tokenizer_file: Path, vocab_size: int) -> NDArray[np.int64]:
    """The N ids of a file: a .npy array of them as it is; of text, documents that each end as in training, after the
    end of one before. Raises DataError where there is nothing to predict."""
    if path.suffix == TOKEN_FILE:
        tokens_N = _token_array(path, vocab_size)
    else:
        end = np.array([read_tokenizer(tokenizer_file).end_of_text_id], dtype=np.int64)
        texts = (document.text for document in whole_documents(str(path)))
        ids = encoded(load_tokenizer(tokenizer_file), texts)
        tokens_N = np.concatenate(
            [end, *(part for document_ids in ids for part in (document_ids.astype(np.int64), end))]
        )
    if len(tokens_N) < 2:
        raise DataError(f"{path} holds {len(tokens_N)} tokens: expected at least 2, one to predict from the other")
    return tokens_N


def _token_array(path: Path, vocab_size: int) -> NDArray[np.int64]:
    try:
        ids_N = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path} of token ids; correct it.") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no array of numbers ({error}): save token ids with numpy.save") from error
    if not isinstance(ids_N, np.ndarray) or ids_N.ndim != 1 or not np.issubdtype(ids_N.dtype, np.integer):
        raise DataError(f"{path}: expected one dimension of whole numbers, token ids, as numpy.save writes them")
    if len(ids_N) and not (ids_N.min() >= 0 and int(ids_N.max()) < vocab_size):
        raise DataError(
            f"{path} has token ids from {ids_N.min()} to {ids_N.max()}: the cell's vocabulary is 0 to "
            f"{vocab_size - 1}; encode the text with the cell's own tokenizer"
        )
    return ids_N.astype(np.int64)


def tokens_sha256(tokens_N: NDArray[np.int64]) -> str:
    """By what a text is known again, whatever its file is called: the hash of its ids."""
    return hashlib.sha256(tokens_N.astype("<i8").tobytes()).hexdigest()
