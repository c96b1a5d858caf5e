"""The security defaults: nothing that executes data, nothing read from outside, nothing heard from outside."""

import ast
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from mor_core.config.model import ModelConfig
from mor_core.data.prepare import open_tokens, prepare
from mor_core.data.snapshot import load_snapshot
from mor_core.data.spec import DataError, DataSpec
from mor_core.model.transformer import build_model
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.manifest import CheckpointError
from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import NoSuchSweep
from tests.faults.disturbances import assert_as_undisturbed
from tests.helpers.paths import ROOT
from tests.helpers.toy_sweep import ToySweep

PACKAGES = ("mor_core", "orchestrator", "analysis", "sweeps")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "pty"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "os.system",
    "os.popen",
    "os.execv",
    "os.spawnv",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "tempfile.mktemp",
    "pl.DataFrame.deserialize",
    "pd.read_pickle",
}
FORBIDDEN_KEYWORDS = {
    "shell": True,
    "allow_pickle": True,
    "weights_only": False,
    "trust_remote_code": True,
    "verify": False,
}

MOR_SWEEP = [sys.executable, "-c", "from orchestrator.cli.main import main; main()"]
SECRETS = ("pa55word", "t0ken-of-nobody")


def dangers(tree: ast.AST) -> Iterator[str]:
    """What a source file does that can execute data, or open this machine to others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                yield ast.unparse(node.func)
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in FORBIDDEN_KEYWORDS and value is FORBIDDEN_KEYWORDS[keyword.arg]:
                    yield f"{keyword.arg}={value}"
        elif isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            yield f"address {node.value}"


def test_no_source_file_executes_data_or_listens_to_the_world():
    assert len(SOURCES) > 200
    by_file = {str(path.relative_to(ROOT)): list(dangers(ast.parse(path.read_text()))) for path in SOURCES}
    assert {name: found for name, found in by_file.items() if found} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "np.load(path, allow_pickle=True)",
        "serve('0.0.0.0')",
    ],
)
def test_the_walk_sees_what_it_is_for(code: str):
    assert list(dangers(ast.parse(code)))


MODEL = ModelConfig(
    vocab_size=32, context_length=8, num_layers=2, d_model=8, num_heads=2, num_kv_heads=1, d_head=4, d_ff=16
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a tiny model."""
    save_checkpoint(tmp_path / "checkpoint", build_model(MODEL, 0, torch.device("cpu")), None, 3)
    return tmp_path / "checkpoint"


def refused(checkpoint: Path, match: str) -> None:
    """Loading it raises, and leaves the model as it was."""
    model = build_model(MODEL, 1, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(checkpoint, model, None)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bytes_are_compared_before_they_are_parsed(checkpoint: Path):
    """A header that promises 2^60 bytes would make the parser itself complain."""
    path = checkpoint / "weights.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])
    refused(checkpoint, "its sha256 is not the manifest's")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "inner/file", "..", ".", "", "..\\outside"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(checkpoint: Path, name: str):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    refused(checkpoint, "is not a plain file name")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"step": 1}', '{"step": "x", "files": {}}', '{"files": 3, "step": 1}']
)
def test_a_manifest_of_another_shape_is_refused(checkpoint: Path, text: str):
    (checkpoint / "manifest.json").write_text(text)
    refused(checkpoint, "not a readable manifest")


def test_a_link_in_a_checkpoint_is_refused_though_its_bytes_are_right(checkpoint: Path, tmp_path: Path):
    weights = checkpoint / "weights.safetensors"
    weights.rename(tmp_path / "outside")
    weights.symlink_to(tmp_path / "outside")
    refused(checkpoint, "a link")


@pytest.mark.parametrize("linked", [False, True], ids=["a path", "a link"])
def test_a_data_manifest_that_leads_elsewhere_is_refused(toy_text: Path, toy_cache: Path, tmp_path: Path, linked: bool):
    folder = tmp_path / "tokens"
    shutil.copytree(prepare(DataSpec(corpus=str(toy_text), vocab_size=300), toy_cache).folder, folder)
    snapshot = load_snapshot(folder)
    open_tokens(snapshot)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["splits"]["train"]["shards"][0]
    (folder / entry["file"]).rename(tmp_path / "outside")
    if linked:
        (folder / entry["file"]).symlink_to(tmp_path / "outside")
    else:
        entry["file"] = "../outside"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="expected a file of its own folder"):
        open_tokens(snapshot)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "..", "."])
def test_a_sweep_is_never_read_from_outside_the_results_folder(tmp_path: Path, name: str):
    (tmp_path / "results" / "sweeps" / "toy").mkdir(parents=True)
    revision = {"settings_id": "", "cells": [], "segments": []}
    document = {"schema": "mor-sweep.sweep/1", "name": "x", "revisions": [revision]}
    for where in ("elsewhere", "sweeps/a/b", "sweeps", "."):
        folder = tmp_path / "results" / where
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.json").write_text(json.dumps(document))
    with pytest.raises(NoSuchSweep):
        load_sweep(Store(root=tmp_path / "results"), name)
    (tmp_path / "results/sweeps/.last").write_text(name)
    with pytest.raises(NoSuchSweep):
        load_sweep(Store(root=tmp_path / "results"))


def test_a_sweep_cannot_be_named_out_of_the_results_folder(tmp_path: Path):
    command = [*MOR_SWEEP, "isoflop", "--preset", "cpu", "--name", "../escape", "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--name" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_trunk_hint_that_leads_elsewhere_is_passed_over(tmp_path: Path):
    store = Store(root=tmp_path / "results")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "result.json").write_text("{}")
    hint = store.root / "trunks" / "t" / "7"
    hint.parent.mkdir(parents=True)
    (store.root / "segments").mkdir()
    hint.write_text("../../outside")
    assert store.is_done("../../outside")
    assert store.published_trunk_steps("t") == []


def processes_with(cache: Path) -> list[psutil.Process]:
    """Processes that were started with this cache folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MOR_SWEEP_CACHE") == str(cache) and process.pid != os.getpid():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses at which processes wait for connections."""
    addresses = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        addresses |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return addresses


def is_this_machine(address: str) -> bool:
    """127.0.0.1, ::1, or the former written as the latter."""
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def ray_folders(cache: Path) -> set[Path]:
    """The folders of the Ray clusters whose processes have this cache folder in their environment."""
    lines = [" ".join(process.cmdline()) for process in processes_with(cache) if process.is_running()]
    return {Path(found) for line in lines for found in re.findall(r"(/\S*/mor-sweep-[^/\s]+)/ray", line)}


def holding(folder: Path, secret: str) -> list[Path]:
    """Files below a folder that hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.slow  # CI runs the demo and an installed sweep on Ray.
def test_a_running_sweep_hears_this_machine_alone_writes_no_secret_and_computes_what_one_process_does(
    reference: ToySweep, tmp_path: Path
):
    """With Ray, a tracking server that is down and wants a password, and a token in the environment. One sweep serves
    for what is heard and for what is computed: to start Ray takes longer than to train so little."""
    toy = ToySweep(results=tmp_path / "results", text=reference.text, cache=tmp_path / "cache")
    results, cache = toy.results, toy.cache
    environment = toy.environment | {
        "MLFLOW_TRACKING_URI": f"http://someone:{SECRETS[0]}@127.0.0.1:9",
        "MLFLOW_TRACKING_TOKEN": SECRETS[1],
        "MLFLOW_TRACKING_PASSWORD": SECRETS[0],
    }
    sweep = subprocess.Popen(
        toy.command("--workers", "2", "--sizes", "13k", "--arms", "vanilla"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list(results.glob("segments/*/result.json")))
    (folder,) = ray_folders(cache)
    heard = listening(processes_with(cache))
    in_ray = [path for secret in SECRETS for path in holding(folder, secret)]
    output, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, output
    assert heard
    assert all(is_this_machine(address) for address in heard), heard
    assert "MLflow mirror incomplete" in output
    for secret in SECRETS:
        assert secret not in output
        assert holding(results, secret) == []
        assert holding(cache, secret) == []
    assert in_ray == []
    assert_as_undisturbed(toy, reference)
