"""Every variant learns real text: minutes, so outside the default suite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mor_core.config.training import TrainConfig
from mor_core.data.batches import TokenReader
from mor_core.data.prepare import open_tokens, prepare
from mor_core.data.spec import PYTHON_SOURCES, DataSpec
from mor_core.model.transformer import build_model
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from tests.helpers.models.variants import VARIANTS, variant

VOCABULARY, CONTEXT, BATCH, STEPS = 512, 64, 8, 1600
TRAIN = TrainConfig(batch_size=BATCH, peak_learning_rate=8e-3, warmup_steps=50, beta2=0.99)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> TokenReader:
    """The demo's corpus, less of it."""
    cache: Path = tmp_path_factory.mktemp("corpus")
    return open_tokens(prepare(DataSpec(corpus=PYTHON_SOURCES, vocab_size=VOCABULARY, max_megabytes=16), cache=cache))


@pytest.fixture(scope="module")
def bigram_entropy(reader: TokenReader) -> float:
    """Cross-entropy of validation text under the training text's bigrams, smoothed by its unigrams, nats per token."""
    train = reader.train_batch(0, 0, 2048, 1024).ravel()
    valid = np.concatenate([batch.ravel() for batch in reader.valid_batches(256, CONTEXT, 32)])
    unigrams = np.bincount(train, minlength=VOCABULARY) + 0.5
    unigrams = unigrams / unigrams.sum()
    counts = np.zeros((VOCABULARY, VOCABULARY))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    bigrams = (counts + 5 * unigrams) / (counts.sum(axis=1, keepdims=True) + 5)
    return float(-np.log(bigrams[valid[:-1], valid[1:]]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_more_of_real_text_than_its_bigrams(name: str, reader: TokenReader, bigram_entropy: float):
    torch.set_num_threads(1)
    config = variant(name, size="115k", vocab_size=VOCABULARY, context_length=CONTEXT)
    model = build_model(replace(config, init_std=0.1), seed=0)
    for metrics in train_steps(
        model,
        build_optimizer(model, TRAIN),
        TRAIN,
        lambda step: reader.train_batch(0, step, BATCH, CONTEXT),
        steps=range(STEPS),
        cooldown=(STEPS - STEPS // 5, STEPS),
    ):
        assert metrics.is_finite()
    result = evaluate(model, TRAIN, reader.valid_batches(256, CONTEXT, 32), reader.token_bytes)
    assert result.loss < bigram_entropy - 0.2
    assert abs(result.loss - result.loss_topk) < 0.1
