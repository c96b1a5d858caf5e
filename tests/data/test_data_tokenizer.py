from pathlib import Path

import numpy as np
import pytest
from data_samples import sentences
from hypothesis import given
from hypothesis import strategies as st

from mor_core.data.encoding import ASCII_WORD, encoded
from mor_core.data.snapshot import DataSnapshot
from mor_core.data.spec import DataError, DataSpec
from mor_core.data.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, load_tokenizer, token_bytes, train_tokenizer

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
