"""Tokenizers: byte-level BPE trained on the training part, or a Hugging Face tokenizer.json that the user gives.

Bits per byte need the number of bytes that each token stands for, so a tokenizer that loses or adds text is refused.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.spec import DataError
from mor_core.data.text.hub import hub_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
"""In a tokenizer that is trained here; a given one has its own."""

OTHER_END_OF_TEXT = "</s>"
TOKENIZER_JSON = "tokenizer.json"
CONFIGURED_ENDS = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that may name the token that ends a document, beside tokenizer.json."""

HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""A model of the hub: OWNER/NAME."""


SAMPLE_BYTES = 10_000_000
"""Bytes of text that merges are counted on. Documents come in hash order, so the first are a fair sample."""

SPACE_MARK = "▁"
"""How tokenizers of SentencePiece's kind spell a space."""

BYTE_SPELLING = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, kw_only=True)
class GivenTokenizer:
    """A Hugging Face tokenizer that the user brings, read but not built."""

    file: Path
    """Its tokenizer.json."""
    fingerprint: str
    """sha256 of the file's bytes."""
    num_ids: int
    """The largest token id and 1: the least vocabulary of a model that reads its tokens."""
    end_of_text: str
    """The special token that ends a document."""
    end_of_text_id: int
    """Its id."""


def read_tokenizer(path: Path | str) -> GivenTokenizer:
    """What is known about a tokenizer.json, or the one in a folder. Quick: the tokenizer library is not loaded.

    A document ends with `<|endoftext|>` where that is a special token, else with the eos_token of the
    tokenizer_config.json or special_tokens_map.json beside the file, else with `</s>`. Raises `DataError` for a file
    that is missing or no tokenizer, has no such token, or does not keep text byte for byte.
    """
    file = _tokenizer_file(path)
    raw = file.read_bytes()
    described = _described(file, raw)
    _check_lossless(file, described)
    special = {added["content"]: added["id"] for added in described["added_tokens"] if added["special"]}
    candidates = (END_OF_TEXT, *_configured_ends(file.parent), OTHER_END_OF_TEXT)
    end_of_text = next((token for token in candidates if token in special), None)
    if end_of_text is None:
        raise DataError(
            f"{file} has no special token that ends a document ({', '.join(dict.fromkeys(candidates))}); name it as "
            "eos_token in a tokenizer_config.json beside the file, and make it a special token of the tokenizer."
        )
    return GivenTokenizer(
        file=file,
        fingerprint=hashlib.sha256(raw).hexdigest(),
        num_ids=1 + max(token for _, token in _spellings(described)),
        end_of_text=end_of_text,
        end_of_text_id=special[end_of_text],
    )


def check_vocabulary(tokenizer: GivenTokenizer, vocab_size: int) -> None:
    """`DataError` where a model of this vocabulary could not read the tokenizer's tokens."""
    if vocab_size < tokenizer.num_ids:
        raise DataError(
            f"The vocabulary size is {vocab_size}, but the tokenizer {tokenizer.file} has token ids up to "
            f"{tokenizer.num_ids - 1}; set vocab_size to {tokenizer.num_ids} or more."
        )


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Learn byte-level BPE from the first `SAMPLE_BYTES` of `documents`.

    Every byte has an id, so any text can be encoded. A text too small for `vocab_size` ids gives a tokenizer
    with fewer; the ids above then never occur.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents, SAMPLE_BYTES), trainer)
    return _plain(tokenizer)


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a tokenizer.json; text that spells a special token is encoded as ordinary text.

    Raises `DataError` where the file is no tokenizer.
    """
    from tokenizers import Tokenizer

    raw = path.read_bytes()
    try:
        return _plain(Tokenizer.from_buffer(raw))
    except ValueError as error:
        raise DataError(
            f"{path} is no tokenizer ({error}); give the tokenizer.json of a Hugging Face model."
        ) from error


def token_bytes(tokenizer_file: Path, vocab_size: int) -> NDArray[np.int64]:
    """How many bytes of text each id stands for; [vocab_size], 0 for special tokens and for unused ids.

    Bits per byte of a text are its summed loss in nats / ln 2 / the sum of this over its tokens. Byte-level
    tokenizers spell a token with one character a byte, so the length of the spelling is the number of bytes; those of
    SentencePiece's kind spell it in UTF-8 with a mark for a space, and bytes beyond their alphabet as <0xNN>.
    """
    described = _described(tokenizer_file, tokenizer_file.read_bytes())
    length = _spelling_length(tokenizer_file, described)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for spelling, token in _model_spellings(described):
        counts[token] = length(spelling)
    for added in described["added_tokens"]:
        counts[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return counts


def _plain(tokenizer: "Tokenizer") -> "Tokenizer":
    # else a document that spells the special token would end there, and its bytes would not be counted
    tokenizer.encode_special_tokens = True
    # settings that a tokenizer.json may carry from its last use: they would cut documents or fill them up
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    return tokenizer


def _tokenizer_file(path: Path | str) -> Path:
    location = Path(path).expanduser().absolute()
    file = location / TOKENIZER_JSON if location.is_dir() else location
    if not location.exists() and HUB_MODEL.fullmatch(str(path)):
        return hub_file(str(path), TOKENIZER_JSON, beside=CONFIGURED_ENDS)
    if not file.is_file():
        raise DataError(f"There is no tokenizer {file}; give a tokenizer.json, or a folder that holds one.")
    return file


def _described(file: Path, raw: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json, with the parts that are read later in place."""
    try:
        described = json.loads(raw)
        added = [(token["content"] + "", token["id"] + 0, token["special"]) for token in described["added_tokens"]]
        spelled = [(spelling + "", token + 0) for spelling, token in _model_spellings(described)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} is no tokenizer.json of the tokenizers library ({error!r}); give one, or leave the tokenizer out."
        ) from error
    if not spelled:
        raise DataError(
            f"{file} has an empty vocabulary, so no text can be encoded; give the tokenizer.json of a model."
        )
    if any(token < 0 for _, token, *_ in (*added, *spelled)):
        raise DataError(f"{file} has tokens with ids below 0; give the tokenizer.json of a model.")
    return described


def _model_spellings(described: dict[str, Any]) -> Iterator[tuple[str, int]]:
    vocabulary = described["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:  # Unigram: pieces with their scores, in the order of their ids
        yield from ((piece, token) for token, (piece, _) in enumerate(vocabulary))


def _spellings(described: dict[str, Any]) -> Iterator[tuple[str, int]]:
    yield from _model_spellings(described)
    yield from ((added["content"], added["id"]) for added in described["added_tokens"])


def _configured_ends(folder: Path) -> Iterator[str]:
    """The eos_token of the files that stand beside a tokenizer.json."""
    for name in CONFIGURED_ENDS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            end = json.loads(path.read_bytes())["eos_token"]
        except KeyError:
            continue
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}); mend or remove it.") from error
        content = end.get("content") if isinstance(end, dict) else end
        if isinstance(content, str):
            yield content


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normaliser, pre-tokenizer or decoder, out of the sequences they may be in."""
    if not isinstance(node, dict):
        return
    nested = next((node[key] for key in ("normalizers", "pretokenizers", "decoders") if key in node), None)
    if nested is None:
        yield node
    for part in nested or ():
        yield from _parts(part)


def _check_lossless(file: Path, described: dict[str, Any]) -> None:
    """Refuse what is known to add text or to change it; the rest is found out on the documents."""
    _spelling_length(file, described)
    for part in (*_parts(described.get("normalizer")), *_parts(described.get("pre_tokenizer"))):
        prepends = part.get("add_prefix_space", False) or part.get("prepend_scheme", "never") != "never"
        if prepends or part.get("type") == "Prepend":
            raise DataError(
                f"{file} puts a space before every text ({part['type']}), which is not in the text, so bits per byte "
                "would be wrong; give a copy of it with that turned off."
            )
    for part in _parts(described.get("normalizer")):
        marks_spaces = part.get("type") == "Replace" and part.get("content") == SPACE_MARK
        if part.get("type") != "NFC" and not marks_spaces:
            raise DataError(
                f"{file} changes text before it encodes it ({part.get('type')}), so bits per byte would be of another "
                "text; give a tokenizer that keeps text as it is, such as a byte-level one."
            )


def _spelling_length(file: Path, described: dict[str, Any]) -> Callable[[str], int]:
    """How to tell the bytes of text behind a token from its spelling."""
    decoders = list(_parts(described.get("decoder")))
    kinds = {part.get("type") for part in decoders}
    if "ByteLevel" in kinds:
        return len
    if "Metaspace" in kinds or any(SPACE_MARK in str(part.get("pattern")) for part in decoders):
        return _marked_length_with_bytes if "ByteFallback" in kinds else _marked_length
    names = ", ".join(sorted(map(str, kinds))) or "none"
    raise DataError(
        f"{file} does not say how its tokens become bytes of text (its decoder is {names}), which bits per byte need; "
        "give a byte-level tokenizer or one of SentencePiece's kind."
    )


def _marked_length(spelling: str) -> int:
    return len(spelling.replace(SPACE_MARK, " ").encode())


def _marked_length_with_bytes(spelling: str) -> int:
    return 1 if BYTE_SPELLING.fullmatch(spelling) else _marked_length(spelling)


def _sample(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    num_bytes = 0
    for text in documents:
        yield text
        num_bytes += len(text.encode())
        if num_bytes >= max_bytes:
            return
