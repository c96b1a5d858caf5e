import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mor_core.data.prepare import find, find_by_fingerprint, open_tokens, prepare
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError, DataSpec
from mor_core.data.text.frozen_corpus import CorpusSnapshot, prepare_corpus, read_texts
from mor_core.data.tokens.encoding import ASCII_WORD, encoded
from mor_core.data.tokens.tokenizer import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    load_tokenizer,
    read_tokenizer,
    token_bytes,
    train_tokenizer,
)
from mor_core.data.tokens.write_shards import write_tokens
from tests.helpers.corpora.data_samples import sentences, write

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ASCII_TEXT = st.text(st.characters(max_codepoint=127))
MARKED_TEXT = st.builds("{}".join, st.lists(ANY_TEXT, max_size=3)).map(lambda t: t.replace("{}", END_OF_TEXT))


@given(text=ANY_TEXT | MARKED_TEXT)
def test_the_bytes_of_the_tokens_add_up_to_the_bytes_of_any_text(snapshot: DataSnapshot, text: str) -> None:
    file = snapshot.folder / "tokenizer.json"
    (ids,) = encoded(load_tokenizer(file), [text])
    assert token_bytes(file, snapshot.vocab_size)[ids].sum() == len(text.encode())
    assert END_OF_TEXT_ID not in ids
    assert load_tokenizer(file).decode(ids.tolist()) == text


@given(text=ASCII_TEXT | st.text("\x1c\x1f\x0b \n'sredlmtve9_a"))
def test_words_are_those_of_the_tokenizer(snapshot: DataSnapshot, text: str) -> None:
    pre_tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json").pre_tokenizer
    spans = [span for _, span in pre_tokenizer.pre_tokenize_str(text)]
    assert ASCII_WORD.findall(text) == [text[start:stop] for start, stop in spans]


@given(texts=st.lists(ASCII_TEXT | ANY_TEXT, max_size=8))
def test_encoding_by_word_gives_what_the_tokenizer_gives(snapshot: DataSnapshot, texts: list[str]) -> None:
    tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json")
    expected = [tokenizer.encode(text).ids for text in texts]
    assert [ids.tolist() for ids in encoded(tokenizer, texts)] == expected


BOUNDARIES = st.text(st.sampled_from("aZé漢'’ 0189½ⅷ\n\t\r\u00a0\u0085\u2003\x1c\x1f_-!“ \u0301"), max_size=40)


@given(text=BOUNDARIES | ANY_TEXT)
def test_encoding_by_stretch_gives_what_tokenizers_of_both_kinds_give(snapshot: DataSnapshot, text: str) -> None:
    """GPT-2 finds words by ByteLevel alone, SmolLM cuts digits apart first."""
    plain = load_tokenizer(snapshot.folder / "tokenizer.json")
    apart = load_tokenizer(snapshot.folder / "tokenizer.json")
    apart.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for tokenizer in (plain, apart):
        (ids,) = encoded(tokenizer, [text])
        assert ids.tolist() == tokenizer.encode(text).ids


def test_the_order_of_documents_survives_mixed_alphabets(snapshot: DataSnapshot) -> None:
    tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json")
    texts = [f"{'é' if i % 3 else 'e'} number {i}" for i in range(700)]
    assert [tokenizer.decode(ids.tolist()) for ids in encoded(tokenizer, texts)] == texts


def test_a_document_that_spells_the_end_of_text_does_not_end_there(snapshot: DataSnapshot) -> None:
    tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json")
    assert END_OF_TEXT_ID not in tokenizer.encode(f"before {END_OF_TEXT} after").ids
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    texts = [sentences(seed, 50) for seed in range(4)]
    for name in ("a", "b"):
        train_tokenizer(texts, 400).save(str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ids_beyond_what_the_text_supports_count_no_bytes(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["aa aa aa"], 5000)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counts = token_bytes(tmp_path / "tokenizer.json", 5000)
    used = tokenizer.get_vocab_size()
    assert used < 300
    assert np.count_nonzero(counts) == used - 1
    assert not counts[used:].any()


@pytest.mark.parametrize("size", [0, 257])
def test_a_vocabulary_without_room_for_all_bytes_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=f"vocabulary size is {size}, .* at least 258"):
        DataSpec(vocab_size=size)


def test_a_limit_of_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="max_megabytes is 0"):
        DataSpec(vocab_size=512, max_megabytes=0)


LINES = ["  indented 123456 loop\n", "naïve café, 深い layer\n", "\ttabs\u3000and 🙂 marks\n", "<|end|> </s> plain\n"]


def byte_level(*special: str) -> Tokenizer:
    """Byte-level BPE with the words of recent models: digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return trained(tokenizer, special, pre_tokenizers.ByteLevel.alphabet())


def with_runs_of_spaces() -> Tokenizer:
    """Byte-level, composing, with ordinary added tokens, as GPT-NeoX has."""
    tokenizer = byte_level("<pad>", END_OF_TEXT)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("深い", normalized=True)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """SentencePiece's BPE with bytes for unknown characters, without the space that Llama 2 puts first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return trained(tokenizer, ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))), [], special=3)


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    alphabet = sorted(set("".join(LINES)))
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["</s>", "<unk>"], unk_token="<unk>", initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([sentences(1, 300), *LINES * 20], trainer)
    return tokenizer


def trained(
    tokenizer: Tokenizer, tokens: tuple[str, ...], alphabet: list[str], special: int | None = None
) -> Tokenizer:
    """Merges from a little text; only the first `special` of the tokens are special ones."""
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(tokens), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([sentences(1, 300), *LINES[:1] * 20], trainer)
    if special is None:
        return tokenizer
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:special]
    return Tokenizer.from_str(json.dumps(described))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: byte_level("<|im_end|>", END_OF_TEXT),
    "runs of spaces": with_runs_of_spaces,
    "byte fallback": byte_fallback,
    "unigram": unigram,
}


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def edited(file: Path, **changes: Any) -> Path:
    """A tokenizer.json with some of its parts replaced."""
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))
    return file


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> CorpusSnapshot:
    """Documents of several alphabets, with spellings of special tokens among them."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(40):
        write(folder / f"{number:02}.txt", sentences(number, 3) + "".join(LINES[number % 4 :]))
    spec = DataSpec(corpus=str(folder), vocab_size=300)
    return prepare_corpus(spec, tmp_path_factory.mktemp("mixed-cache"))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_given_tokenizer_ends_every_document_and_counts_every_byte(
    kind: str, mixed: CorpusSnapshot, tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[kind]()
    file = saved(tokenizer, tmp_path / "given")
    used = read_tokenizer(file)
    assert used.num_ids == max(tokenizer.get_vocab().values()) + 1
    if kind == "unigram":  # which finds </s> in text whatever it is told
        with pytest.raises(DataError, match="does not keep text byte for byte"):
            write_tokens(mixed, used.num_ids, tmp_path / "tokens", tokenizer=used)
        return
    write_tokens(mixed, used.num_ids, tmp_path / "tokens", tokenizer=used)
    snapshot = load_snapshot(tmp_path / "tokens")
    reader = open_tokens(snapshot)
    assert snapshot.tokenizer_fingerprint == used.fingerprint
    assert (snapshot.folder / "tokenizer.json").read_bytes() == file.read_bytes()
    for split, shards in (("train", reader.train), ("valid", reader.valid)):
        tokens = np.concatenate([shard.tokens for shard in shards])
        parts = np.split(tokens, np.flatnonzero(tokens == used.end_of_text_id) + 1)[:-1]
        decoded = [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in parts]
        assert decoded == read_texts(mixed, split)
        assert reader.token_bytes[tokens].sum() == mixed.bytes[split]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_any_text_add_up_under_a_given_byte_level_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "given-byte-level.json"
    if not file.exists():
        byte_level("</s>").save(str(file))
    ids = load_tokenizer(file).encode(text, add_special_tokens=False).ids
    assert token_bytes(file, 600)[ids].sum() == len(text.encode())


def test_spaces_that_a_unigram_tokenizer_marks_are_counted(tmp_path: Path) -> None:
    file = saved(unigram(), tmp_path)
    text = "loop  train model\n"
    assert token_bytes(file, 500)[load_tokenizer(file).encode(text).ids].sum() == len(text)


def test_the_same_text_under_another_tokenizer_is_another_snapshot(mixed: CorpusSnapshot, tmp_path: Path) -> None:
    prints = set()
    for name, special in (("a", [END_OF_TEXT]), ("b", ["<pad>", END_OF_TEXT])):
        given_tokenizer = read_tokenizer(saved(byte_level(*special), tmp_path / name))
        prints.add(write_tokens(mixed, 420, tmp_path / f"{name}-tokens", tokenizer=given_tokenizer)["fingerprint"])
    prints.add(write_tokens(mixed, 420, tmp_path / "trained")["fingerprint"])
    assert len(prints) == 3


def test_a_tokenizer_that_was_trained_here_gives_the_same_tokens_when_it_is_given(
    snapshot: DataSnapshot, corpus: CorpusSnapshot, tmp_path: Path
) -> None:
    again = write_tokens(corpus, snapshot.vocab_size, tmp_path / "tokens", tokenizer=read_tokenizer(snapshot.folder))
    assert again["fingerprint"] == snapshot.fingerprint


def test_what_a_tokenizer_remembers_of_its_last_use_does_not_touch_documents(tmp_path: Path) -> None:
    tokenizer = byte_level(END_OF_TEXT)
    text = sentences(3, 20)
    expected = tokenizer.encode(text).ids
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9000)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    tokenizer.model.dropout = 0.5
    loaded = load_tokenizer(saved(tokenizer, tmp_path))
    assert loaded.encode(text, add_special_tokens=False).ids == expected


def test_a_vocabulary_smaller_than_the_given_tokenizers_is_refused(mixed: CorpusSnapshot, tmp_path: Path) -> None:
    used = read_tokenizer(saved(byte_level(END_OF_TEXT), tmp_path / "given"))
    with pytest.raises(DataError, match=f"vocabulary size is {used.num_ids - 1}, .* set vocab_size to {used.num_ids}"):
        write_tokens(mixed, used.num_ids - 1, tmp_path / "tokens", tokenizer=used)
    assert not (tmp_path / "tokens").exists()


def test_a_large_vocabulary_is_stored_in_32_bits(mixed: CorpusSnapshot, tmp_path: Path) -> None:
    used = read_tokenizer(saved(byte_level(END_OF_TEXT), tmp_path / "given"))
    write_tokens(mixed, 70_000, tmp_path / "tokens", tokenizer=used)
    reader = open_tokens(load_snapshot(tmp_path / "tokens"))
    assert reader.train[0].tokens.dtype == np.dtype("<u4")
    assert reader.token_bytes.shape == (70_000,)


def test_a_given_tokenizer_may_have_fewer_ids_than_training_one_would_need() -> None:
    assert DataSpec(vocab_size=100, tokenizer="somewhere").tokenizer == "somewhere"


@pytest.mark.parametrize(
    ("special", "beside", "expected"),
    [
        (["</s>", END_OF_TEXT, "<|im_end|>"], {"tokenizer_config.json": {"eos_token": "<|im_end|>"}}, END_OF_TEXT),
        (["</s>", "<|end|>"], {"tokenizer_config.json": {"eos_token": "<|end|>"}}, "<|end|>"),
        (["</s>", "<|end|>"], {"special_tokens_map.json": {"eos_token": {"content": "<|end|>"}}}, "<|end|>"),
        (["</s>", "<|end|>"], {"tokenizer_config.json": {"eos_token": None}}, "</s>"),
        (["</s>", "<|end|>"], {"tokenizer_config.json": {"eos_token": "unknown"}}, "</s>"),
    ],
)
def test_the_token_that_ends_a_document_is_found(
    special: list[str], beside: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    tokenizer = byte_level(*special)
    saved(tokenizer, tmp_path)
    for name, content in beside.items():
        (tmp_path / name).write_text(json.dumps(content))
    used = read_tokenizer(tmp_path)
    assert (used.end_of_text, used.end_of_text_id) == (expected, tokenizer.token_to_id(expected))


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no special token that ends a document .* name it as eos_token"):
        read_tokenizer(saved(byte_level("<pad>"), tmp_path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"decoder": None}, "its decoder is none"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "its decoder is WordPiece"),
        ({"normalizer": {"type": "Lowercase"}}, "changes text before it encodes it"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "changes text before it encodes it"),
        ({"normalizer": {"type": "Prepend", "prepend": "▁"}}, "puts a space before every text"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "puts a space before every text"),
        (
            {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}},
            "puts a space before every text",
        ),
        ({"added_tokens": 3}, "no tokenizer.json of the tokenizers library"),
        ({"model": {"type": "BPE"}}, "no tokenizer.json of the tokenizers library"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}}}, "no tokenizer.json of the tokenizers library"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "ids below 0"),
        ({"model": {"type": "Unigram", "unk_id": None, "vocab": []}}, "has an empty vocabulary"),
    ],
)
def test_a_tokenizer_that_loses_text_or_is_none_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    file = edited(saved(byte_level(END_OF_TEXT), tmp_path), **changes)
    with pytest.raises(DataError, match=reason):
        read_tokenizer(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{}"])
def test_a_file_that_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"is no tokenizer\.json"):
        read_tokenizer(tmp_path)
    with pytest.raises(DataError, match="There is no tokenizer"):
        read_tokenizer(tmp_path / "nowhere")


def test_a_file_that_only_looks_like_a_tokenizer_is_refused_when_it_is_used(
    mixed: CorpusSnapshot, tmp_path: Path
) -> None:
    file = edited(saved(byte_level(END_OF_TEXT), tmp_path / "given"), pre_tokenizer={"type": "Unheard"})
    used = read_tokenizer(file)
    with pytest.raises(DataError, match="is no tokenizer"):
        write_tokens(mixed, used.num_ids, tmp_path / "tokens", tokenizer=used)


def test_a_tokenizer_that_drops_spaces_is_refused_with_the_document(mixed: CorpusSnapshot, tmp_path: Path) -> None:
    words = {"type": "Whitespace"}
    file = edited(saved(byte_level(END_OF_TEXT), tmp_path / "given"), pre_tokenizer=words)
    used = read_tokenizer(file)
    with pytest.raises(DataError, match=r"its tokens stand for \d+ bytes of a document of \d+ that begins"):
        write_tokens(mixed, used.num_ids, tmp_path / "tokens", tokenizer=used)


def test_composed_text_is_counted_as_composed(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    for number in range(30):
        write(folder / f"{number}.txt", f"{number} " + "e\u0301 and \u00e9\n" * 20)
    corpus = prepare_corpus(DataSpec(corpus=str(folder), vocab_size=300), tmp_path / "cache")
    used = read_tokenizer(saved(with_runs_of_spaces(), tmp_path / "given"))
    write_tokens(corpus, used.num_ids, tmp_path / "tokens", tokenizer=used)
    plain = read_tokenizer(saved(byte_level(END_OF_TEXT), tmp_path / "plain"))
    write_tokens(corpus, plain.num_ids, tmp_path / "plain-tokens", tokenizer=plain)
    composed, exact = (open_tokens(load_snapshot(tmp_path / name)) for name in ("tokens", "plain-tokens"))
    counted = [int(reader.token_bytes[reader.train[0].tokens].sum()) for reader in (composed, exact)]
    assert counted[1] == corpus.bytes["train"]
    assert counted[1] - counted[0] == 20 * corpus.documents["train"]


def test_a_tokenizer_that_changes_while_it_is_read_is_refused(mixed: CorpusSnapshot, tmp_path: Path) -> None:
    used = read_tokenizer(saved(byte_level(END_OF_TEXT), tmp_path / "given"))
    saved(byte_level("<pad>", END_OF_TEXT), tmp_path / "given")
    with pytest.raises(DataError, match="changed while it was read"):
        write_tokens(mixed, 420, tmp_path / "tokens", tokenizer=used)


def test_each_given_tokenizer_is_prepared_and_found_as_its_own_snapshot(
    text_file: Path, cache: Path, tmp_path: Path
) -> None:
    first = saved(byte_level(END_OF_TEXT), tmp_path / "first")
    second = saved(byte_level("<pad>", END_OF_TEXT), tmp_path / "second")
    tokenizers = (None, str(first), str(second.parent))
    specs = [DataSpec(corpus=str(text_file), vocab_size=420, tokenizer=path) for path in tokenizers]
    assert [find(spec, cache) for spec in specs] == [None] * 3
    snapshots = [prepare(spec, cache) for spec in specs]
    assert len({snapshot.fingerprint for snapshot in snapshots}) == 3
    assert [find(spec, cache) for spec in specs] == snapshots
    assert [find_by_fingerprint(snapshot.fingerprint, cache) for snapshot in snapshots] == snapshots
    with pytest.raises(DataError, match="vocabulary size is 300"):
        find(DataSpec(corpus=str(text_file), vocab_size=300, tokenizer=str(first)), cache)
