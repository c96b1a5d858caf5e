"""Text that nobody wants to measure: lines that are cut from a document, and documents that are left out.

A small vocabulary spends two or three tokens on each character of a drawing, so that few windows full of drawn lines
can decide a loss. Lines that are drawn or encoded are cut and the rest of their document stays, unless they are most of
it. Measured on 296 MB of installed Python files: to leave out the 122 files with drawn lines would cost 2.5 % of the
text, among it nearly all of one library whose docstrings show tables; to cut the lines costs 0.3 %, and takes 98 % of
what is outside ASCII in those files. Every other rule is about a document as a whole. Thresholds lie outside of what
people write, in code and in prose of any language: what is merely unusual stays. A user's long file is judged piece by
piece.
"""

import math
import re
import string
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mor_core.data.text.documents import Admission
from mor_core.data.text.python_sources import (
    DIGITS,
    LARGEST_DIGIT_SHARE,
    LETTERS,
    SMALLEST_LETTER_SHARE,
)

SMALL_VOCABULARY = 4096
"""Token ids below which byte-level BPE has hardly any for a script that is rare in its text: there a character costs as
many tokens as bytes."""

LARGEST_CUT_SHARE = 0.5
"""Share of a document's bytes in lines of one kind from which all of it is left out, as The Stack v2 does with encoded
data (Lozhkov et al. 2024)."""

BOX = re.compile("[\u2500-\u259f\u2800-\u28ff]")
"""Box drawing, block elements and Braille patterns, of which pictures are made."""

LARGEST_BOX_SHARE = 0.5
"""Share of drawing characters among a line's visible ones; a branch of a directory tree with a file has up to 0.4."""

AROUND_A_DRAWING = " \t\r\n#/*;%|"
"""What stands before and behind the drawing of a line: space, marks of comments, the frame of a docstring's table."""

LONGEST_PLAIN_RUN = 64
"""Characters of base64 in a row: the length of a sha256 in hexadecimal, and that from which The Stack v2 takes them for
encoded (Lozhkov et al. 2024). Words and identifiers are shorter."""

ENCODED_RUN = re.compile(rf"[A-Za-z0-9+/=]{{{LONGEST_PLAIN_RUN},}}")
ENCODED_ESCAPES = re.compile(r"(?:(?:0x|\\x)[0-9a-fA-F]{2},?\s?){16,}|(?:\\u[0-9a-fA-F]{4}){16,}")
_PLAIN_TO_A = bytes.maketrans((string.ascii_letters + string.digits + "+/=").encode(), b"a" * 65)

LONG_LINE = 500
"""Bytes. Prose and minified code have such lines, other code and tables seldom do."""

FEWEST_ROWS = 100
"""Lines of a document from which a pattern that they share makes it a table."""

NON_ASCII = bytes(range(128, 256))
ASCII = bytes(range(128))


@dataclass(frozen=True, kw_only=True)
class LineRule:
    """Lines that are cut, whatever stands around them."""

    name: str
    """Of a document that is left out since most of it is such lines; lines cut from others are counted beside it."""
    may_hold: Callable[[str], bool]
    """Whether a text can hold such a line: quick, since few do."""
    is_cut: Callable[[str], bool]
    """Whether a line is one."""
    reason: str
    source: str | None


@dataclass(frozen=True, kw_only=True)
class DocumentRule:
    """A share of a document that must not be passed."""

    name: str
    measure: Callable[[str], float]
    least: float = 0.0
    most: float = math.inf
    """Documents whose measure is between `least` and `most` stay."""
    reason: str
    source: str | None


def is_drawn(line: str) -> bool:
    """Whether a line is part of a picture: most of its visible characters draw, or it stands between two that do."""
    visible = "".join(line.split())
    drawing = len(BOX.findall(visible))
    bare = line.strip(AROUND_A_DRAWING)
    framed = drawing >= 2 and bool(BOX.match(bare[:1])) and bool(BOX.match(bare[-1:]))
    return framed or (drawing >= 3 and drawing > LARGEST_BOX_SHARE * len(visible))


def is_encoded(line: str) -> bool:
    """Whether a line holds bytes written as base64, hexadecimal digits or escapes. A link may have a long path."""
    if "://" in line:
        return False
    return any(map(_is_mixed, ENCODED_RUN.findall(line))) or ENCODED_ESCAPES.search(line) is not None


def _is_mixed(run: str) -> bool:
    """Whether a run has digits and letters, as bytes have and rules of ==== or long paths seldom do."""
    return sum(character.isdigit() for character in run) > len(run) // 16 and not run.isdigit()


def _has_long_run(text: str) -> bool:
    plain = text.encode().translate(_PLAIN_TO_A)
    return b"a" * LONGEST_PLAIN_RUN in plain or "\\x" in text or "\\u" in text or "0x" in text


def compressed_share(text: str) -> float:
    """Bytes after a quick compression by those before."""
    raw = text.encode()
    return len(zlib.compress(raw, 1)) / max(len(raw), 1)


def digit_share(text: str) -> float:
    """Digits among the visible bytes."""
    visible = _visible(text)
    return (len(visible) - len(visible.translate(None, DIGITS))) / max(len(visible), 1)


def uniform_share(text: str) -> float:
    """Lines with the most common pattern of at least three marks such as `'':'#',` among all that are not blank; 0
    where there are few lines: a list of exported names is code, and so are thirty constants."""
    raw = text.encode()
    num_lines = sum(map(bool, map(bytes.strip, raw.split(b"\n"))))
    if num_lines < FEWEST_ROWS:
        return 0.0
    patterns = Counter(raw.translate(None, LETTERS + DIGITS + NON_ASCII + b" \t\r").split(b"\n"))
    return max((count for pattern, count in patterns.items() if len(pattern) >= 3), default=0) / num_lines


def letter_share(text: str) -> float:
    """Letters of any script, and digits, among the visible bytes: every byte above ASCII counts as part of a letter."""
    visible = _visible(text)
    return 1 - len(visible.translate(None, LETTERS + DIGITS + NON_ASCII)) / max(len(visible), 1)


def minified_share(text: str) -> float:
    """Bytes in long lines that have hardly a space, of all bytes. Scripts that are written without spaces are none."""
    if max(map(len, text.split("\n"))) < LONG_LINE:
        return 0.0
    long_lines = [line for line in text.split("\n") if len(line) >= LONG_LINE]
    minified = sum(len(line) for line in long_lines if line.isascii() and line.count(" ") < len(line) / 16)
    return minified / len(text)


def non_ascii_bytes(text: str) -> int:
    """Bytes that are part of a character outside ASCII."""
    return 0 if text.isascii() else len(text.encode().translate(None, ASCII))


def non_ascii_share(text: str) -> float:
    """The same, of all bytes."""
    return non_ascii_bytes(text) / max(len(text.encode()), 1)


def _visible(text: str) -> bytes:
    return text.encode().translate(None, b" \n\t")


LINE_RULES = (
    LineRule(
        name="drawn",
        may_hold=lambda text: not text.isascii() and BOX.search(text) is not None,
        is_cut=is_drawn,
        reason="Tables and boxes of drawing characters say nothing that cannot be read beside them.",
        source=None,
    ),
    LineRule(
        name="encoded",
        may_hold=_has_long_run,
        is_cut=is_encoded,
        reason="Images, keys and digests cannot be predicted: they add the same loss to every model.",
        source="Lozhkov et al. 2024 (StarCoder 2 and The Stack v2), filter of encoded data",
    ),
)

DOCUMENT_RULES = (
    DocumentRule(
        name="repetitive",
        measure=compressed_share,
        least=0.07,
        reason="A line, a word or a character again and again is copied, not predicted. Half of all Python files have "
        "0.34, and files written by people above 0.079.",
        source="Rae et al. 2021 (Gopher), table A1, which counts repeated lines and n-grams; a line of code recurs "
        "more often than one of prose, so that a compressor decides here",
    ),
    DocumentRule(
        name="table of data",
        measure=uniform_share,
        most=0.5,
        reason="Row after row of values in the same marks: word lists, mappings, logs. Lists of a module's exported "
        "names have up to 0.5.",
        source=None,
    ),
    DocumentRule(
        name="table of numbers",
        measure=digit_share,
        most=LARGEST_DIGIT_SHARE,
        reason="Digits cannot be predicted; prose and code have 1 to 5 %.",
        source="Rae et al. 2021 (Gopher), section A.1.1: four of five words hold a letter",
    ),
    DocumentRule(
        name="few letters",
        measure=letter_share,
        least=SMALLEST_LETTER_SHARE,
        reason="ASCII art, rules and bare punctuation; code and prose have 70 to 95 %.",
        source="Li et al. 2023 (StarCoder), section 3: at least a quarter is alphanumeric",
    ),
    DocumentRule(
        name="minified",
        measure=minified_share,
        most=0.5,
        reason="Code that a program has written for programs; prose has a space in every six characters.",
        source="Li et al. 2023 (StarCoder), section 3, whose limits on the length of lines prose would not pass",
    ),
)

FOREIGN = DocumentRule(
    name="foreign script",
    measure=non_ascii_share,
    most=0.25,
    reason="In a corpus of ASCII a small vocabulary has single bytes alone for another script: twice to three times "
    "the tokens, and a loss of another kind. German has 3 %, Polish 7 %, Greek and Chinese 90 %.",
    source="Raffel et al. 2020 (C4), section 2.2: pages of one language",
)


def admission_for(vocab_size: int, corpus_non_ascii_share: float) -> Admission:
    """The rules for a vocabulary and the share of the whole corpus's bytes that are outside ASCII.

    Text in another script is left out where it is rare and the vocabulary is small. A corpus that is written in such a
    script is kept at any vocabulary, which then is trained on it.
    """
    is_rare = corpus_non_ascii_share <= FOREIGN.most
    rules = (*DOCUMENT_RULES, FOREIGN) if is_rare and vocab_size < SMALL_VOCABULARY else DOCUMENT_RULES
    return lambda text, left_out: _admitted(text, left_out, rules)


def _admitted(text: str, left_out: Counter[str], rules: Iterable[DocumentRule]) -> str | None:
    cut: Counter[str] = Counter()
    for line_rule in LINE_RULES:
        if not line_rule.may_hold(text):
            continue
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not line_rule.is_cut(line)]
        if len(kept) == len(lines):
            continue
        shorter = "".join(kept)
        if len(shorter.encode()) < (1 - LARGEST_CUT_SHARE) * len(text.encode()):
            left_out[line_rule.name] += 1
            return None
        cut[f"{line_rule.name} lines of kept documents"] += len(lines) - len(kept)
        text = shorter
    for rule in rules:
        if not rule.least <= rule.measure(text) <= rule.most:
            left_out[rule.name] += 1
            return None
    left_out.update(cut)
    return text
