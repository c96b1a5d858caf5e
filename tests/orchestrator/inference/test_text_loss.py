"""`mor-sweep eval --text` and `export` on the toy sweep: losses are those of the cell, logits those of transformers."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mor_core.data.prepare import open_tokens
from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.tokens.text_tokens import read_tokens
from mor_core.training.evaluate import evaluate
from orchestrator.cli.main import exit_code_of
from orchestrator.inference.text_loss import TextLoss, text_loss
from orchestrator.inference.trained_cell import TrainedCell
from tests.helpers.toy_sweep import ToySweep
from tests.orchestrator.inference.test_tasks import CELLS, load, run


def measured(sweep: ToySweep, name: str, path: Path) -> tuple[TrainedCell, TextLoss]:
    trained = load(sweep, name)
    return trained, text_loss(trained, tokens_of(trained, path))


def tokens_of(trained: TrainedCell, path: Path) -> np.ndarray:
    return read_tokens(path, trained.data.folder / TOKENIZER_FILE, trained.cell.model.vocab_size)


@pytest.mark.parametrize("name", CELLS)
def test_the_loss_on_the_validation_tokens_is_that_of_the_evaluation_under_every_rule(
    reference: ToySweep, tmp_path: Path, name: str
):
    trained = load(reference, name)
    reader, length = open_tokens(trained.data), trained.cell.model.context_length
    count = reader.num_valid_sequences(length)
    batches = list(reader.valid_batches(count, length, 8))
    tokens = np.concatenate([np.concatenate(batches)[:, :-1].ravel(), batches[-1][-1, -1:]])
    np.save(tmp_path / "valid.npy", tokens.astype(np.uint16))
    found = text_loss(trained, tokens_of(trained, tmp_path / "valid.npy"))
    expected = evaluate(trained.model, trained.cell.train, batches, reader.token_bytes)
    losses = dict(found.losses.select("rule", "loss").iter_rows())
    if name.startswith("mor"):
        wanted = {"threshold": expected.loss, "half": expected.loss_half, "top-k": expected.loss_topk}
        assert len(set(wanted.values())) == 3
    else:
        wanted = {"causal": expected.loss}
    assert losses == pytest.approx(wanted, abs=1e-6)
    first = found.losses.row(0, named=True)
    assert first["depth"] == pytest.approx(expected.depth_mean)
    assert first["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    shares = found.depths.filter(rule=first["rule"])
    histogram = {depth + 1: share for depth, share in enumerate(expected.depth_histogram) if share}
    assert dict(shares.select("depth", "share").iter_rows()) == pytest.approx(histogram)
    for frame in (found.positions, found.depths):
        means = frame.group_by("rule").agg((pl.col("loss") * pl.col("tokens")).sum() / pl.col("tokens").sum())
        assert dict(means.iter_rows()) == pytest.approx(losses, abs=1e-9)
    early, late = found.positions.filter(rule=first["rule"])["loss"].gather([0, -1])
    assert early > late


def test_a_text_is_read_as_in_training_and_its_last_window_is_short(reference: ToySweep, tmp_path: Path):
    (tmp_path / "two.jsonl").write_text('{"text": "the model reads 5."}\n{"text": "a token keeps 7."}\n')
    trained, found = measured(reference, CELLS[0], tmp_path / "two.jsonl")
    first, second = (trained.tokenizer.encode(text).ids for text in ("the model reads 5.", "a token keeps 7."))
    end = trained.end_of_text
    assert tokens_of(trained, tmp_path / "two.jsonl").tolist() == [end, *first, end, *second, end]
    assert found.losses["tokens"].to_list() == [len(first) + len(second) + 2] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.array([1.5, 2.0]), "whole numbers"),
        (np.array([[1, 2]]), "one dimension"),
        (np.array([1, 300]), "vocabulary is 0 to 299"),
        (np.array([-1, 3]), "from -1 to 3"),
        (np.array([1]), "at least 2"),
        (b"not numpy", "no array of numbers"),
    ],
)
def test_tokens_that_cannot_be_measured_are_one_sentence(reference: ToySweep, tmp_path: Path, content, said: str):
    path = tmp_path / "tokens.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    done = run(reference, "eval", CELLS[0], "--text", str(path))
    assert exit_code_of(done.exception) == 2, done.output
    assert said in str(done.exception)


def test_the_loss_on_a_text_is_shown_as_tables_json_and_a_figure(reference: ToySweep, toy_text: Path, tmp_path: Path):
    (tmp_path / "some.txt").write_text(toy_text.read_text()[:3000])
    flags = ["--text", str(tmp_path / "some.txt"), "--threads", "1"]
    done = run(reference, "eval", *CELLS, *flags, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["data"]["cells"]
    assert said.keys() == {f"{name}/0" for name in CELLS}
    assert [row["rule"] for row in said["mor-2/23k/2.4e9/0"]["losses"]] == ["threshold", "half", "top-k"]
    assert (reference.results / "sweeps/toy/figures/text-some-mor-2-23k-2.4e9-0.png").stat().st_size > 1000
    shown = " ".join(run(reference, "eval", CELLS[1], *flags).stdout.split())  # Titles wrap.
    assert all(part in shown for part in ("on some.txt", "by position", "by recursions", "causal"))


def test_an_exported_cell_has_the_same_logits_and_tokens_in_transformers(reference: ToySweep, tmp_path: Path):
    done = run(reference, "export", "vanilla/23k/2.4e9", str(tmp_path / "llama"))
    assert done.exit_code == 0, done.output
    trained = load(reference, "vanilla/23k/2.4e9")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    tokens = tokenizer("the model reads 5. a token keeps 7.", return_tensors="pt")["input_ids"]
    assert tokens[0].tolist() == trained.tokenizer.encode("the model reads 5. a token keeps 7.").ids
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(trained.model(tokens).logits_BTV, expected, atol=1e-5, rtol=0)
    assert tokenizer.eos_token_id == trained.end_of_text


def test_a_routed_cell_is_refused_in_one_sentence(reference: ToySweep, tmp_path: Path):
    done = run(reference, "export", "mor-2/23k/2.4e9", str(tmp_path / "llama"))
    assert exit_code_of(done.exception) == 2
    assert "A routed model has no Llama that equals it" in str(done.exception)
    assert not (tmp_path / "llama").exists()
