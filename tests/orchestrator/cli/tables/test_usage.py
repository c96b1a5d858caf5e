"""A wrong call is one sentence like any other error: what was found, what was expected, what to do; exit code 2."""

from pathlib import Path

import pytest

from mor_core.files import why_unreadable
from tests.helpers.command_line import run


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("isoflop --executor inprocess", "--executor: found 'inprocess', expected ray or in-process: did you mean"),
        ("fit --approach parabol", "--approach: found 'parabol', expected parabola, surface, akima or envelope: did"),
        ("isoflop --workers x", "--workers: found 'x', expected a whole number"),
        ("isoflop --workers=0", "--workers: found '0', expected a number of at least 1"),
        ("isoflop --max-gpu-hours abc", "--max-gpu-hours: found 'abc', expected a number"),
        ("ui --port 70000", "--port: found '70000', expected a number of at most 65535"),
        ("predict", "say FLOPs by --budget C, or ask for a score by --task TASK --params N --tokens D"),
        ("lifetime", "mor-sweep lifetime needs --target-loss: Loss to reach"),
        ("predict --budget", "--budget needs a value after it"),
        ("logs", "mor-sweep logs needs CELL: arm/size/budget[/seed]"),
        ("isoflop --budgets 2e18, 5e18", "found '2e18,' and '5e18': remove the blank after the comma, 2e18,5e18"),
        ("status one two", "found 'two', which mor-sweep status does not take"),
        ("isoflop --budgt 3", "mor-sweep isoflop has no option --budgt: did you mean --budgets?"),
        ("isoflop --mlflow=3", "--mlflow takes no value"),
        ("isoflp", "mor-sweep has no verb 'isoflp': did you mean isoflop?"),
        ("plot lifetim", "mor-sweep plot has no verb 'lifetim': did you mean lifetime?"),
        ("zzz", "mor-sweep has no verb 'zzz': `mor-sweep --help` lists its verbs"),
        ("eval", "give --tasks or --text, one of them"),
        ("lifetime --target-loss nan --served-tokens 1", "--target-loss: found nan, expected a number above 0"),
        ("lifetime --target-loss 3 --served-tokens inf", "--served-tokens: found inf, expected a number from 0"),
        ("fit --table .", "--table: file '.' is a directory"),
        ("eval --text /nonexistent", "--text: there is no file /nonexistent"),
        ("eval --text mine=/nonexistent", "--text: there is no file /nonexistent"),
        ("routing mor-2/13k/6e8 --text /nonexistent", "--text: file '/nonexistent' does not exist"),
        ("isoflop --sizes 135m --dry-run", "--sizes: size '135m' is unknown: did you mean 135M?"),
        ("ablate kvv --dry-run", "'kvv' is no shipped ablation: did you mean kv? The path of a TOML file will do too"),
        ("config show --preset nosuch.toml", "--preset: nosuch.toml cannot be read (No such file or directory): exp"),
    ],
)
def test_a_wrong_call_is_one_sentence_with_code_2(call: str, sentence: str):
    done = run(*call.split())
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sentence}")
    for word in ("Usage:", "Invalid value", "Value error", "Errno", "Input should", "Traceback"):
        assert word not in line


def test_a_file_in_another_encoding_is_named_with_its_byte_and_line(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'budgets = ["1e9"]\nname = "caf\xe9"\n')
    done = run("config", "show", "--preset", str(path))
    assert done.returncode == 2
    assert f"--preset: {path} cannot be read (not UTF-8: byte 0xe9 in line 2)" in done.stderr


def test_other_reasons_are_those_of_the_error():
    assert why_unreadable(ValueError("no such key")) == "no such key"
    assert why_unreadable(IsADirectoryError(21, "Is a directory", "/there")) == "Is a directory"
