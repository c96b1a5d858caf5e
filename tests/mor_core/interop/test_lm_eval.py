"""The model as lm-eval asks it: the numbers of transformers on the same weights, the texts of its decoding."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mor_core.config.sizes import SIZES, model_config
from mor_core.data.tokens.tokenizer import END_OF_TEXT_ID, load_tokenizer, train_tokenizer
from mor_core.inference.request import Sampling
from mor_core.interop.hugging_face import export_llama
from mor_core.interop.lm_eval import NoHarness, harness_model
from mor_core.interop.task_scores import score_task
from mor_core.interop.tasks import read_task
from mor_core.interop.text_model import Prompt, TextModel, cut_at
from mor_core.model.transformer import Transformer, build_model

WORDS = "the model reads a token, the router keeps one layer; a token drops what the model repeats. " * 30
PAIRS = [
    ("the model reads", " a token"),
    ("the model reads ", "a token"),
    ("a token drops what", " the router keeps; one layer"),
    ("", "the router"),
    ("the router keeps one layer; " * 9, "a token drops"),
    ("one", " é layer\n"),
]
CONTEXT = 48


class Exported:
    """A vanilla model, and what transformers loads of it."""

    def __init__(self, folder: Path) -> None:
        trained = train_tokenizer([WORDS], 300)
        trained.save(str(folder / "tokenizer.json"))
        self.tokenizer: Tokenizer = load_tokenizer(folder / "tokenizer.json")
        config = model_config(SIZES["35k"], vocab_size=300, context_length=CONTEXT)
        self.model: Transformer = build_model(config, seed=3).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(4.0 if parameter.dim() == 2 else 1.0)
        export_llama(self.model, folder / "llama", folder / "tokenizer.json")
        self.theirs: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder / "llama", dtype=torch.float32)
        self.their_tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
        self.text_model = TextModel(model=self.model, tokenizer=self.tokenizer, end_of_text=END_OF_TEXT_ID)

    def their_logits(self, tokens: list[int]) -> Tensor:
        with torch.no_grad():
            return self.theirs(torch.tensor([tokens])).logits[0].double()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"))


def their_score(exported: Exported, context: str, continuation: str) -> tuple[float, bool]:
    """As the harness's own `hf` model scores a pair, written out."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = exported.their_tokenizer.encode(context + continuation, add_special_tokens=False)
    before = len(exported.their_tokenizer.encode(context, add_special_tokens=False))
    if not before:
        whole, before = [END_OF_TEXT_ID, *whole], 1
    kept, scored = whole[-(CONTEXT + 1) :], len(whole) - before
    logits_NV = exported.their_logits(kept[:-1])[-scored:]
    targets = torch.tensor(kept[-scored:])
    log_likelihood = float(logits_NV.log_softmax(-1)[torch.arange(scored), targets].sum())
    return log_likelihood, bool((logits_NV.argmax(-1) == targets).all())


def test_log_likelihoods_equal_those_of_transformers_on_the_exported_model(exported: Exported):
    greedy = exported.text_model.generate([_prompt("the model reads", 3)])[0]
    pairs = [*PAIRS, ("the model reads", greedy)]
    for pair, score in zip(pairs, exported.text_model.log_likelihoods(pairs), strict=True):
        expected, is_greedy = their_score(exported, *pair)
        assert score.log_likelihood == pytest.approx(expected, abs=1e-4), pair
        assert score.is_greedy == is_greedy, pair
        assert expected < -0.1
    assert their_score(exported, "the model reads", greedy)[1]


def test_rolling_log_likelihoods_equal_those_of_transformers_window_by_window(exported: Exported):
    text = WORDS[:700]
    tokens = exported.their_tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > 2.5 * CONTEXT
    expected, first, whole = 0.0, 1, [END_OF_TEXT_ID, *tokens]
    while first < len(whole):
        end = min(first + CONTEXT, len(whole))
        kept = whole[max(0, end - CONTEXT - 1) : end]
        log_probabilities_NV = exported.their_logits(kept[:-1]).log_softmax(-1)[first - end :]
        expected += float(log_probabilities_NV[torch.arange(end - first), torch.tensor(whole[first:end])].sum())
        first = end
    found = exported.text_model.rolling_log_likelihoods([text, "a token"])
    assert found[0] == pytest.approx(expected, abs=1e-4 * len(tokens) ** 0.5)


def _prompt(text: str, tokens: int, *stops: str) -> Prompt:
    return Prompt(text=text, stops=stops, max_new_tokens=tokens, sampling=Sampling())


def test_greedy_texts_equal_those_of_transformers_and_end_where_asked(exported: Exported):
    texts = ["the model", "a token drops", "one"]
    found = exported.text_model.generate([_prompt(text, 12) for text in texts])
    for text, own in zip(texts, found, strict=True):
        encoded = exported.their_tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        said = exported.theirs.generate(**encoded, max_new_tokens=12, do_sample=False, pad_token_id=END_OF_TEXT_ID)
        new = said[0, encoded["input_ids"].shape[1] :].tolist()
        new = new[: new.index(END_OF_TEXT_ID)] if END_OF_TEXT_ID in new else new
        assert own == exported.tokenizer.decode(new, skip_special_tokens=False)
    stop = found[0][3:5]
    stopped = exported.text_model.generate([_prompt(texts[0], 12, "never", stop), _prompt(texts[1], 12)])
    assert stopped == [cut_at(found[0], [stop]), found[1]]


def test_a_prompt_that_fills_the_context_loses_its_start(exported: Exported):
    found = exported.text_model.generate([_prompt(WORDS, 8), _prompt("", 4)])
    kept = exported.tokenizer.encode(WORDS).ids[-(CONTEXT - 8) :]
    logits_NV = exported.their_logits(kept)
    assert found[0].startswith(exported.tokenizer.decode([int(logits_NV[-1].argmax())]))
    assert found[1]


def test_a_continuation_that_melts_into_its_context_is_scored_by_its_own_tokens(exported: Exported):
    encode = exported.tokenizer.encode
    whole = encode(" model").ids
    assert len(whole) == 1
    assert len(encode(" mod").ids) > 1
    (own,) = exported.text_model.spans_of([("the router mod", "el")])[0].spans
    assert own.tokens == (*encode("the router mod").ids, *encode("el").ids)


def test_a_pair_that_does_not_fit_says_so(exported: Exported):
    spans = exported.text_model.spans_of([("the model", " reads"), (WORDS[:400], " reads"), ("a", WORDS[:700])])
    assert [each.is_cut for each in spans] == [False, True, True]
    assert [len(each.spans) > 1 for each in spans] == [False, False, True]


def test_without_lm_eval_the_adapter_says_what_to_do(exported: Exported, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(NoHarness, match="pip install"):
        harness_model(exported.text_model)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch):
    """lm-eval 0.4, where it is installed or MOR_SWEEP_LM_EVAL names the folder that holds it."""
    if folder := os.environ.get("MOR_SWEEP_LM_EVAL"):
        monkeypatch.syspath_prepend(folder)
    return pytest.importorskip("lm_eval.api.model", reason="lm-eval is not installed, nor in MOR_SWEEP_LM_EVAL")


def requests(*arguments: tuple) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=each) for each in arguments]


def test_the_adapter_is_a_model_of_the_harness(exported: Exported, harness):
    adapter = harness_model(exported.text_model)
    assert isinstance(adapter, harness.LM)
    scores = exported.text_model.log_likelihoods(PAIRS)
    assert adapter.loglikelihood(requests(*PAIRS)) == [(each.log_likelihood, each.is_greedy) for each in scores]
    assert adapter.loglikelihood_rolling(requests((WORDS[:99],))) == exported.text_model.rolling_log_likelihoods(
        [WORDS[:99]]
    )
    settings = {"until": [";"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    said = adapter.generate_until(requests(("the model", settings), ("one", {"until": ".", "max_gen_toks": 3})))
    assert said == exported.text_model.generate([_prompt("the model", 9, ";"), _prompt("one", 3, ".")])


def test_pairs_are_encoded_and_windows_cut_as_the_harness_does_it(exported: Exported, harness):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    encoder = SimpleNamespace(
        backend="causal", tok_encode=lambda text, **_: exported.tokenizer.encode(text, add_special_tokens=False).ids
    )
    for context, continuation in [pair for pair in PAIRS if pair[0]]:
        before, after = harness.TemplateLM._encode_pair(encoder, context, continuation)
        own = exported.text_model.spans_of([(context, continuation)])[0].spans[0]
        assert own.tokens == tuple([*before, *after][-(CONTEXT + 1) :])
        assert own.scored == len(after)
    tokens = exported.tokenizer.encode(WORDS[:700]).ids
    windows = map(make_disjoint_window, get_rolling_token_windows(tokens, END_OF_TEXT_ID, CONTEXT, 1))
    from mor_core.interop.scoring import continuation_spans

    spans = continuation_spans([END_OF_TEXT_ID], tokens, CONTEXT)
    for (before, after), span in zip(windows, spans, strict=True):
        assert (*before, *after) == span.tokens
        assert len(after) == span.scored


@pytest.mark.slow
def test_the_harness_runs_a_task_of_its_own_and_gets_what_this_project_gets(
    exported: Exported, harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    from lm_eval import simple_evaluate

    choices = [" a token", " the router keeps one", " layer;"]
    items = [{"context": WORDS[7 * i : 7 * i + 30], "choices": choices, "label": i % 3} for i in range(12)]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(tmp_path / "toy.jsonl")}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    found = simple_evaluate(model=harness_model(exported.text_model), tasks=[task], bootstrap_iters=0, log_samples=True)
    own = read_task("toy", tmp_path)
    scores = exported.text_model.log_likelihoods(own.pairs)
    answers = [answer for sample in found["samples"]["toy"] for answer in sample["filtered_resps"]]
    assert answers == [(score.log_likelihood, score.is_greedy) for score in scores]
    for (context, choice), (log_likelihood, _) in zip(own.pairs, answers, strict=True):
        assert log_likelihood == pytest.approx(their_score(exported, context, choice)[0], abs=1e-4)
    score = score_task(own, scores, [False] * len(scores))
    assert found["results"]["toy"]["acc,none"] == pytest.approx(score.accuracy)
    assert 0 < score.accuracy < 1
