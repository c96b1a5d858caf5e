"""What nobody wants to measure is left out, what people write stays, and validation is drawn from all of it alike."""

import base64
import json
import random
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.data.large import corpus as large_corpus
from mor_core.data.prepare import find, prepare
from mor_core.data.snapshot import contents_of
from mor_core.data.spec import PYTHON_SOURCES, DataError, DataSpec
from mor_core.data.text import documents
from mor_core.data.text.documents import (
    SHORTEST_PIECE,
    VALIDATION_SHARE,
    Document,
    folder_of,
    longest_validation_document,
    split_over_folders,
    split_over_packages,
)
from mor_core.data.text.frozen_corpus import load_corpus, prepare_corpus, read_texts
from mor_core.data.text.quality import DOCUMENT_RULES, LINE_RULES, SMALL_VOCABULARY, admission_for
from tests.helpers.corpora.data_samples import WORDS, module, sentences, write

SMALL, LARGE = SMALL_VOCABULARY - 1, SMALL_VOCABULARY

DRAWN_TABLE = """\
        ┌─────┬───────────────┐
        │ foo ┆ a long header │
        │ --- ┆ ---           │
        ╞═════╪═══════════════╡
        │ 1   ┆ some words    │
        └─────┴───────────────┘
"""

ASCII_ART = "".join(
    f"   {left}---.   .-^-.   ({'_' * width})\n  /o o \\  //   \\  \\~~/ {'*' * width}\n  \\_=_/ <==+==>  ||||\n"
    for left, width in [(".", 3), ("(", 5), ("{", 7), ("<", 4), ("[", 9), ("|", 6)]
)


def encoded(seed: int, lines: int) -> str:
    return base64.encodebytes(random.Random(seed).randbytes(57 * lines)).decode()


def numbers(rows: int) -> str:
    chance = random.Random(rows)
    return "".join(f"{chance.random():.7f} {chance.random():.5f} {chance.randrange(10**6)}\n" for _ in range(rows))


def mapping(rows: int) -> str:
    chance = random.Random(rows)
    return "".join(f"    '{chance.choice(WORDS)}{n}': '{chance.choice(WORDS)}',\n" for n in range(rows))


def minified(statements: int) -> str:
    chance = random.Random(statements)
    names = ["".join(chance.choices("abcdefgh", k=3)) for _ in range(statements)]
    return ";".join(f"function {name}(){{return this.{name}||[]}}" for name in names) + "\n"


def judged(text: str, vocab_size: int = SMALL, corpus_non_ascii_share: float = 0.0) -> tuple[str | None, Counter[str]]:
    left_out: Counter[str] = Counter()
    return admission_for(vocab_size, corpus_non_ascii_share)(text, left_out), left_out


PLANTED = {
    "drawn": DRAWN_TABLE * 5,
    "encoded": f"blob = '''\n{encoded(seed=1, lines=40)}'''\n",
    "few letters": ASCII_ART,
    "table of numbers": numbers(90),
    "table of data": mapping(400),
    "minified": minified(300),
    "repetitive": "All work and no play makes a dull boy.\n" * 300,
}


@pytest.mark.parametrize(("reason", "text"), PLANTED.items())
def test_a_planted_document_is_left_out_under_its_rule(reason: str, text: str) -> None:
    assert judged(text) == (None, Counter({reason: 1}))
    assert judged(text, LARGE) == (None, Counter({reason: 1}))


@pytest.mark.parametrize("repeated", ["a", "word ", "x = 1\n", "────", "0", "="])
def test_one_character_word_or_line_again_and_again_is_left_out(repeated: str) -> None:
    kept, left_out = judged(repeated * 2000)
    assert kept is None
    assert left_out.total() == 1


def test_each_rule_has_a_planted_document_and_a_reason_in_one_line() -> None:
    rules = [*LINE_RULES, *DOCUMENT_RULES]
    assert {rule.name for rule in rules} == set(PLANTED)
    assert all(rule.reason and "\n" not in rule.reason for rule in rules)


GERMAN = "Über Geschmack läßt sich streiten: für fünf Bücher genügt ein Regal, und wer mehr hat, braucht ein Haus.\n"
GREEK = "Μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος οὐλομένην, ἣ μυρί’ Ἀχαιοῖς ἄλγε’ ἔθηκε, πολλὰς δ’ ἰφθίμους ψυχάς.\n"
CHINESE = "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？其為人也孝弟，而好犯上者，鮮矣。\n"
MARKDOWN = """\
# How to begin

- Install the tool, which takes a minute.
- Run it: `tool run --all`. See [the manual](https://example.org/a/very/long/path/to/the/manual/of/the/tool/0123.html).

| name | meaning |
|------|---------|
| a    | first   |
| b    | second  |

    folder
    ├── one.txt
    └── another-file.txt
"""
POEM = "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye,\n" * 2


@pytest.mark.parametrize("text", [GERMAN, POEM, MARKDOWN, module(seed=1), module(seed=2, functions=300), "short.\n"])
@pytest.mark.parametrize("vocab_size", [SMALL, LARGE])
def test_ordinary_code_and_prose_stay_as_they_are(text: str, vocab_size: int) -> None:
    assert judged(text, vocab_size) == (text, Counter())


def test_the_code_of_this_project_stays() -> None:
    left_out: Counter[str] = Counter()
    admit = admission_for(SMALL, 0.0)
    root = Path(large_corpus.__file__).parents[3]
    files = [file for package in ("mor_core", "analysis", "orchestrator") for file in (root / package).rglob("*.py")]
    assert len(files) > 100
    assert [file.name for file in files if admit(file.read_text(), left_out) is None] == []
    for page in [root / "CHANGELOG.md", root / "CONTRIBUTING.md"]:
        assert admit(page.read_text(), left_out) == page.read_text()


@pytest.mark.parametrize("text", [GREEK, CHINESE, GREEK * 20 + sentences(seed=1, lines=3)])
def test_another_script_stays_unless_it_is_rare_under_a_small_vocabulary(text: str) -> None:
    assert judged(text, LARGE) == (text, Counter())
    assert judged(text, SMALL) == (None, Counter({"foreign script": 1}))
    assert judged(text, SMALL, corpus_non_ascii_share=0.8) == (text, Counter())


def test_drawn_and_encoded_lines_are_cut_and_the_rest_of_their_document_stays() -> None:
    code = module(seed=3)
    rule = "# ── Section ─────────────────────────\n"
    kept, left_out = judged(f"{rule}{code}{DRAWN_TABLE}{encoded(seed=2, lines=5)}{code}")
    assert kept == code + code
    assert left_out == {"drawn lines of kept documents": 7, "encoded lines of kept documents": 5}


@pytest.mark.parametrize(
    "line",
    [
        "├── src/package/module.py",
        "│   └── a_file_with_a_name.txt",
        "print('─' * 40)",
        "| a | b | c |",
        "=" * 79,
        "# https://example.org/owner/name/blob/561612d8456cfab5672c9b445521113b847bd6b3/Lib/textwrap.py#L411",
        "VERSION = '561612d8456cfab5672c9b445521113b847bd6b3'",
        "a_very_long_identifier_that_somebody_chose_" * 3,
        "Ganz ohne Zeichnung, mit ✓ und → und é.",
    ],
)
def test_lines_that_only_resemble_pictures_and_blobs_stay(line: str) -> None:
    text = f"{sentences(seed=4, lines=4)}{line}\n"
    assert judged(text) == (text, Counter())


@given(text=st.text(max_size=600), vocab_size=st.sampled_from([SMALL, LARGE]), share=st.floats(0, 1))
def test_any_text_is_kept_in_part_and_in_order_or_left_out_once(text: str, vocab_size: int, share: float) -> None:
    kept, left_out = judged(text, vocab_size, share)
    if kept is None:
        assert left_out.total() == 1
        return
    rest = iter(text.splitlines(keepends=True))
    assert all(line in rest for line in kept.splitlines(keepends=True))
    assert left_out.total() == len(text.splitlines()) - len(kept.splitlines())
    assert judged(kept, vocab_size, share)[0] in (kept, None)


@given(lines=st.lists(st.text("abcdefgh ,.;:()é漢", min_size=20, max_size=70), min_size=1, max_size=30, unique=True))
def test_without_drawings_and_long_runs_no_line_is_cut(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert judged(text, LARGE)[0] in (text, None)


FEW_BYTES = 40
"""To cut documents to, so that made-up ones are longer than their share of validation."""

SIZES = st.lists(st.integers(10, 2000), min_size=1, max_size=8)
NUMBERED_LINES = "".join(f"{number:08d}\n" for number in range(150_000))


def documents_of(sizes_by_package: dict[str, list[int]], file: str = "") -> list[Document]:
    """Documents of lines that no other has."""
    made: list[Document] = []
    start = 0
    for package, sizes in sizes_by_package.items():
        for number, size in enumerate(sizes):
            text = NUMBERED_LINES[start : start + size]
            made.append(Document(f"{package}/{number}.py", f"{package}{file}", text))
            start += 9 * (size // 9 + 1)
    return made


@patch.object(documents, "SHORTEST_PIECE", FEW_BYTES)
@settings(max_examples=15)  # Of some fifty packages each.
@given(sizes=st.dictionaries(st.text("abcdef", min_size=3, max_size=6), SIZES, min_size=40, max_size=60))
def test_validation_over_packages_has_no_sibling_no_long_document_and_no_dominant_package(
    sizes: dict[str, list[int]],
) -> None:
    given_documents = documents_of(sizes)
    total = sum(document.num_bytes for document in given_documents)
    split = split_over_packages(given_documents)
    train, valid = split.documents["train"], split.documents["valid"]
    assert {document.package for document in train}.isdisjoint(split.packages)
    assert {document.package for document in valid} <= set(split.packages)
    longest = longest_validation_document(total)
    assert all(document.num_bytes <= longest for document in valid)
    by_package = Counter[str]()
    for document in valid:
        by_package[document.package] += document.num_bytes
    assert max(by_package.values()) <= max(0.1 * VALIDATION_SHARE * total, FEW_BYTES)
    assert len({document.name.partition("#")[0] for document in valid}) == len(valid), "one piece of a document"
    removed = sum(document.num_bytes for document in given_documents if document.package in split.packages)
    assert removed <= 0.08 * total
    assert len(train) + len(valid) + split.left_out.total() == len(given_documents)
    assert split_over_packages(given_documents[::-1]) == split


@patch.object(documents, "SHORTEST_PIECE", FEW_BYTES)
@given(sizes=st.dictionaries(st.text("abcdef", min_size=1, max_size=4), SIZES, min_size=1, max_size=20))
def test_validation_over_folders_has_its_share_of_each_and_no_long_document(
    sizes: dict[str, list[int]],
) -> None:
    given_documents = documents_of(sizes, file="/file.txt")
    total = sum(document.num_bytes for document in given_documents)
    if sum(len(own) for own in sizes.values()) < 2:
        return
    split = split_over_folders(given_documents, "here")
    kept = [*split.documents["train"], *split.documents["valid"]]
    longest = longest_validation_document(total)
    assert all(document.num_bytes <= longest for document in kept)
    assert split.documents["valid"]
    assert split.documents["train"]
    by_folder, held_back = Counter[str](), Counter[str]()
    for document in kept:
        by_folder[folder_of(document)] += document.num_bytes
    for document in split.documents["valid"]:
        held_back[folder_of(document)] += document.num_bytes
    largest = max(document.num_bytes for document in kept)
    for folder, size in by_folder.items():
        assert abs(held_back[folder] - VALIDATION_SHARE * size) <= largest
    texts = [document.sha256 for document in kept]
    assert len(set(texts)) == len(texts), "no text is on both sides"
    assert split_over_folders(given_documents[::-1], "here") == split


def test_a_package_of_long_documents_is_no_more_than_its_share_of_validation(site: Path, cache: Path) -> None:
    for number in range(4):
        write(site / "package7" / f"long{number}.py", module(seed=9000 + number, functions=50))
    spec = DataSpec(corpus=PYTHON_SOURCES, vocab_size=300, quality=True)
    corpus = prepare_corpus(spec, cache, site_folders=[site])
    again = prepare_corpus(spec, cache, refresh=True, site_folders=[site])
    assert again == corpus
    assert all(len(text.encode()) <= SHORTEST_PIECE for text in read_texts(corpus, "valid"))
    assert corpus.validation_packages


def test_python_files_are_left_out_by_rule_and_counted(site: Path, cache: Path) -> None:
    write(site / "package2" / "drawn.py", DRAWN_TABLE * 5)
    write(site / "package2" / "words.py", mapping(400))
    write(site / "package3" / "partly.py", module(seed=77) + DRAWN_TABLE)
    corpus = prepare_corpus(DataSpec(corpus=PYTHON_SOURCES, vocab_size=300, quality=True), cache, site_folders=[site])
    assert corpus.left_out["table of data"] == 1
    assert corpus.left_out["generated"] == 1, "the drawing has few letters: an older rule"
    assert corpus.left_out["drawn lines of kept documents"] == 6
    assert module(seed=77) in {text for side in ("train", "valid") for text in read_texts(corpus, side)}


def planted_folder(folder: Path) -> Path:
    for reason, text in PLANTED.items():
        write(folder / "planted" / f"{reason}.txt", text)
    for number in range(40):
        write(folder / f"part{number % 4}" / f"{number}.txt", sentences(seed=number, lines=20))
    return folder


def test_a_users_files_are_left_out_by_rule_and_the_counts_are_shown(tmp_path: Path, cache: Path) -> None:
    folder = planted_folder(tmp_path / "texts")
    spec = DataSpec(corpus=str(folder), vocab_size=300, quality=True)
    snapshot = prepare(spec, cache)
    contents = contents_of(snapshot)
    assert set(contents.left_out) >= set(PLANTED)
    assert contents.train_documents + contents.valid_documents >= 40
    assert find(spec, cache) == snapshot
    assert find(DataSpec(corpus=str(folder), vocab_size=300), cache) is None, "without the setting it is another corpus"


def test_where_a_rule_depends_on_the_vocabulary_so_does_the_corpus(tmp_path: Path, cache: Path) -> None:
    folder = planted_folder(tmp_path / "texts")
    write(folder / "part0" / "greek.txt", GREEK)
    corpora = [
        prepare_corpus(DataSpec(corpus=str(folder), vocab_size=size, quality=True), cache) for size in (SMALL, LARGE)
    ]
    assert [corpus.left_out.get("foreign script", 0) for corpus in corpora] == [1, 0]
    assert load_corpus(corpora[0].folder) == corpora[0]


def test_without_the_setting_every_fingerprint_and_folder_is_as_before(site: Path, tmp_path: Path, cache: Path) -> None:
    """The constants were made before there was the setting."""
    folder = tmp_path / "texts"
    for number in range(40):
        write(folder / f"part{number % 4}" / f"{number}.txt", sentences(seed=number, lines=20))
    write(folder / "table.txt", DRAWN_TABLE + sentences(seed=99, lines=20))
    sources = prepare_corpus(DataSpec(corpus=PYTHON_SOURCES, vocab_size=300), cache, site_folders=[site])
    texts = prepare_corpus(DataSpec(corpus=str(folder), vocab_size=300, max_megabytes=1), cache)
    assert sources.fingerprint == "3fd868f08363c760611d7ad6ad5ed0459f3ec1c66c176ab3efa4ba994303d456"
    assert texts.fingerprint == "44e6479369096e975ae6d962d7a03a4312112eff082394204b2af3479b11dbd6"
    assert sources.folder.parent.name == "python-sources"
    assert texts.folder.parent.name == "texts-ce2dadabd534639e-1MB"


def test_files_of_which_nothing_is_kept_are_a_sentence_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(f"{row}, {row * row}, {row + 7}, 0.25" for row in range(400)))
    spec = DataSpec(corpus=str(tmp_path / "words.txt"), vocab_size=300, quality=True)
    with pytest.raises(
        DataError,
        match=r"words.txt holds no text that is kept \(2 table of data, 1 table of numbers\); give other text",
    ):
        prepare_corpus(spec, tmp_path / "cache")


@pytest.mark.parametrize(
    "settings", [{"corpus": "fineweb-edu"}, {"corpus": "s3://bucket/data"}, {"corpus": "x.txt", "deduplicate": "near"}]
)
def test_corpora_without_the_rules_refuse_the_setting(settings: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"quality is true for .* leave quality out"):
        DataSpec(vocab_size=300, quality=True, **settings)


def test_files_that_are_read_in_parts_refuse_the_setting(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_corpus, "LARGE", 100)
    rows = "".join(json.dumps({"text": sentences(seed, 3)}) + "\n" for seed in range(9))
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"quality is true, but .*rows\.jsonl has .* leave quality out") as refusal:
        prepare(DataSpec(corpus=str(file), vocab_size=300, quality=True), cache)
    assert "\n" not in str(refusal.value)
