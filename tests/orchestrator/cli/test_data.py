"""`mor-sweep data`: from a mirror of FineWeb-Edu to tokens on two workers, and what is said about them."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mor_core.data import prepare as preparation
from mor_core.data.large.corpus import freeze_source
from mor_core.data.spec import DataError
from orchestrator.cli.main import app
from orchestrator.cli.options import corpus_override
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.corpora.data_samples import write
from tests.helpers.corpora.large_samples import CONFIG, mirror_of, story

STORIES = [story(seed) for seed in range(200)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`mor-sweep data VERB fineweb-edu` on a mirror of two files."""
    mirror = mirror_of([[*STORIES[:100], STORIES[3]], STORIES[100:]], tmp_path / "mirror")
    monkeypatch.setenv("MOR_SWEEP_HF_MIRROR", str(mirror))
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "cache"))
    return lambda *flags: CliRunner().invoke(app, ["data", *flags], catch_exceptions=False)


CPU = ("--preset", "cpu")
CPU_TEXT = Path("sweeps/isoflop_cpu.toml").read_text()


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Text in small parts, of which near duplicates are left out."""
    monkeypatch.setattr(preparation, "prepare", partial(preparation.prepare, part_bytes=10_000))
    text = CPU_TEXT.replace("[data]\n", '[data]\ndeduplicate = "near"\n')
    return ("fineweb-edu", "--preset", str(write(tmp_path / "near.toml", text)))


@pytest.mark.slow
def test_fineweb_edu_is_prepared_on_ray_as_in_this_process(data: Callable[..., Result], near: tuple[str, ...]) -> None:
    by_ray = data("prepare", *near, "--workers", "2")
    assert "Part 2 of" in by_ray.stderr
    again = data("prepare", *near, "--refresh", "--workers", "1")
    assert again.stdout == by_ray.stdout


def test_what_prepared_text_holds_is_said(data: Callable[..., Result], near: tuple[str, ...]) -> None:
    prepared = data("prepare", *near, "--workers", "1")
    assert "Part 2 of" in prepared.stderr
    assert "fingerprint" in prepared.stdout
    documents = [json.loads(data(verb, *near, "--json").stdout) for verb in ("prepare", "info")]
    assert [each["schema"] for each in documents] == ["mor-sweep.data/1"] * 2
    assert documents[0]["data"].items() <= documents[1]["data"].items()
    said = data("info", *near).stdout
    assert re.search(r"documents +\d+ to train on, \d+ for validation", said)
    assert re.search(r"near dups +0\.00% of the distinct documents", said) or "near duplicate" in said
    assert "licence     odc-by" in said
    assert "1 duplicate" in said
    assert "decided by  too few windows of text to tell" in said
    assert documents[1]["data"]["concentration"] is None
    passes = re.findall(r"([\d.e+]+) FLOPs: .* passes; (\d+) repeat it more than 4 times", said)
    assert [float(budget) for budget, _ in passes] == [1e11, 4.5e10, 2e10]


def test_how_few_windows_decide_is_said_before_anything_is_trained(data: Callable[..., Result], tmp_path: Path) -> None:
    tables = ["│ ─ ┼ ─ │ " * 60 + story(seed) for seed in range(3)]
    lines = [json.dumps({"text": text}) for text in (*STORIES * 2, *tables)]
    text = write(tmp_path / "stories.jsonl", "\n".join(f"{line}\n" for line in lines))
    short = CPU_TEXT.replace("context_length = 64 ", "context_length = 8 ")
    short = short.replace("[data]\n", '[data]\ndeduplicate = "none"\n')
    preset = write(tmp_path / "short.toml", short)
    flags = ("--preset", str(preset))
    assert data("prepare", str(text), *flags, "--workers", "1").exit_code == 0
    printed = data("info", str(text), *flags).stdout
    line = re.search(
        r"decided by +([\d.]+)% of the validation windows make half of the squared .* \(12% if even", printed
    )
    assert line, printed
    decided = json.loads(data("info", str(text), *flags, "--json").stdout)["data"]["concentration"]
    assert f"{decided['share']:.1%}" == f"{line[1]}%"
    assert decided["even"] == 0.124
    assert 100 <= decided["windows"] <= 1024
    assert decided["token"].keys() == {"id", "text", "share"}


def test_the_next_step_trains_on_the_data_that_were_prepared(data: Callable[..., Result], tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("\n\n".join(STORIES))
    said = data("prepare", str(text), "--max-megabytes", "0.5", *CPU).stderr.splitlines()
    assert said[-2:] == [
        "a sweep trains on these data where its file says so: [data] max_megabytes = 0.5",
        f"next: mor-sweep isoflop --preset cpu --data {text} --dry-run",
    ]
    with pytest.raises(DataError, match="is not prepared"):  # Without the flag other data are meant.
        data("info", "--data", str(text), *CPU)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("verb", [["isoflop"], ["tune"], ["pilot"], ["ablate", "kv"]])
def test_a_sweep_does_not_prepare_a_large_corpus_itself(tmp_path: Path, verb: list[str]) -> None:
    corpus = f"hf:HuggingFaceTB/smollm-corpus:{CONFIG}"
    spec = load_spec("cpu", corpus_override(corpus)).data_spec
    freeze_source(spec, tmp_path / "cache", part_bytes=4_000)
    flags = [*CPU, "--data", corpus, "--results", str(tmp_path / "results"), "--yes"]
    with pytest.raises(DataError, match=r"has \d+ parts of text, expected at most 2 .* run data prepare"):
        CliRunner().invoke(app, [*verb, *flags], catch_exceptions=False)
    assert not [*(tmp_path / "cache").rglob("part-*")]


def test_what_is_not_prepared_or_named_twice_is_refused(data: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data of fineweb-edu is not prepared"):
        data("info", "fineweb-edu")
    assert data("prepare", "fineweb-edu", "--data", "python-sources").exit_code == 2
    with pytest.raises(DataError, match=f"{tmp_path} is no URL"):
        data("publish", str(tmp_path), "--data", "fineweb-edu")


def test_several_files_are_prepared_and_published(data: Callable[..., Result], tmp_path: Path) -> None:
    files = [str(write(tmp_path / f"{number}.txt", "".join(STORIES[number::2]))) for number in range(2)]
    assert data("prepare", *files, *CPU, "--workers", "1").exit_code == 0
    published = data("publish", f"file://{tmp_path}/bucket", "--data", ",".join(files), *CPU)
    url = published.stdout.strip()
    assert f"next: mor-sweep isoflop --preset cpu --data {url} --dry-run" in published.stderr
    again = json.loads(data("publish", f"file://{tmp_path}/bucket", "--data", ",".join(files), *CPU, "--json").stdout)
    assert (again["schema"], again["data"]["url"]) == ("mor-sweep.published-data/1", url)
    assert Path(url.removeprefix("file://"), "manifest.json").is_file()
    here = data("info", *files, *CPU).stdout.splitlines()
    there = data("prepare", url, *CPU, "--workers", "1").stdout.splitlines()
    assert there[1:4] == here[1:4]


def test_what_is_prepared_without_a_preset_is_what_a_sweep_without_one_trains_on(data: Callable[..., Result]) -> None:
    assert data("prepare", "--workers", "1").exit_code == 0
    with pytest.raises(SpecError, match=r"needs more than 1024000 validation tokens, and fineweb-edu has \d+"):
        CliRunner().invoke(app, ["isoflop", "--dry-run"], catch_exceptions=False)
