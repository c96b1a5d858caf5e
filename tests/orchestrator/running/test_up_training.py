"""Sweeps that start from pretrained weights, as their users run them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from mor_core.config.sizes import SIZES, model_config
from mor_core.data.prepare import prepare
from mor_core.data.spec import DataSpec
from mor_core.interop.hugging_face import export_llama
from mor_core.model.transformer import build_model
from mor_core.training.checkpoint import load_checkpoint
from orchestrator.planning.canonical import from_jsonable
from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep, run_here


@dataclass(frozen=True)
class UpTraining:
    """A folder of pretrained weights, and commands that start from it."""

    root: Path
    text: Path
    cache: Path
    tokenizer: Path

    @property
    def pretrained(self) -> Path:
        return self.root / "tiny-llama"

    def preset(self, **init: str) -> Path:
        """The toy sweep, from weights in place of named sizes."""
        text = TOY_PRESET.read_text()
        text = text.replace('[sizes]\nnames = ["13k", "23k"]\n', "")
        text = text.replace('budgets = ["6e8", "1.2e9", "2.4e9"]', 'budgets = ["6e8", "1.2e9"]')
        text = text.replace('[data]\ncorpus = "python-sources"', f'[data]\ntokenizer = "{self.tokenizer}"')
        keys = {"folder": str(self.pretrained)} | init
        text += "[init_from]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        path = self.root / "up.toml"
        path.write_text(text)
        return path

    def run(self, preset: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        arguments = ["isoflop", "--preset", str(preset), "--data", str(self.text), "--yes", "--no-mlflow"]
        arguments += ["--results", str(self.root / "results"), "--executor", "in-process", *flags]
        return run_here(arguments, {"MOR_SWEEP_CACHE": str(self.cache), "HOME": str(self.root)})

    def first_losses(self) -> dict[str, float]:
        """Loss of the first step of every trunk's shortest stretch, by architecture and start."""
        losses = {}
        for spec_path in self.root.glob("results/segments/*/spec.json"):
            segment = json.loads(spec_path.read_text())
            if segment["kind"] == "stable":
                rows = (spec_path.parent / "metrics.jsonl").read_text().splitlines()
                first = json.loads(rows[0])
                arm = "mor" if segment["trunk"]["model"]["routing"] else "vanilla"
                selection = segment["trunk"]["init"]["selection"]
                if first["step"] == 1:
                    losses[f"{arm} {selection}"] = first["loss"]
        return losses


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, toy_text: Path, toy_cache: Path, reference: ToySweep) -> UpTraining:
    """Weights that know the toy text: the end of a vanilla cell of the toy sweep, exported."""
    root = tmp_path_factory.mktemp("up")
    data = prepare(DataSpec(corpus=str(toy_text), vocab_size=300), cache=toy_cache)
    up = UpTraining(root=root, text=toy_text, cache=toy_cache, tokenizer=data.folder / "tokenizer.json")
    store = Store(root=reference.results)
    sweep = load_sweep(store, "toy")
    cell = next(c for c in sweep.cells if (c.arm, c.size, c.budget) == ("vanilla", "23k", 2_400_000_000))
    *_, decay, _evaluation = sweep.chain(cell)
    model = build_model(model_config(SIZES["23k"], vocab_size=300, context_length=32), seed=0)
    load_checkpoint(store.checkpoint_folder(decay.id), model, None)
    export_llama(model, up.pretrained, up.tokenizer)
    return up


@pytest.mark.slow
def test_a_sweep_starts_from_the_weights_it_names_in_every_arm(up: UpTraining):
    done = up.run(up.preset())
    assert done.returncode == 0, done.stderr
    runs = pl.read_parquet(up.root / "results" / "sweeps" / "toy" / "runs.parquet")
    assert set(runs["size"]) == {"tiny-llama"}
    assert set(runs["status"]) == {"finished"}
    losses = up.first_losses()
    # ln 300 = 5.7 is what fresh weights start at; the exported cell ends near 2.
    assert losses["vanilla stepwise"] < 3.5
    again = up.run(up.preset())
    assert "nothing to train" in again.stderr


@pytest.mark.slow
def test_another_choice_of_layers_is_other_work(up: UpTraining):
    before = len(list(up.root.glob("results/segments/*/result.json")))
    done = up.run(up.preset(layers="average"), "--arms", "mor", "--name", "average")
    assert done.returncode == 0, done.stderr
    assert len(list(up.root.glob("results/segments/*/result.json"))) > before
    assert "mor average" in up.first_losses()


@pytest.mark.slow
def test_the_recipe_in_a_published_spec_reads_back(up: UpTraining):
    from orchestrator.planning.canonical import to_jsonable
    from orchestrator.planning.identity import TrunkRecipe

    done = up.run(up.preset())
    assert done.returncode == 0, done.stderr
    path = next(iter(up.root.glob("results/segments/*/spec.json")))
    trunk = json.loads(path.read_text())["trunk"]
    assert to_jsonable(from_jsonable(TrunkRecipe, trunk)) == trunk


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("folder", "/nowhere/at-all"), "There is no folder /nowhere/at-all"),
        (("layers", "middle"), "found \"middle\", expected 'stepwise'"),
        (("layer", "upper"), "init_from.layer is no known key"),
    ],
)
def test_weights_that_cannot_be_used_are_one_sentence_and_exit_code_2(
    up: UpTraining, change: tuple[str, str], sentence: str
):
    done = up.run(up.preset(**dict([change])), "--dry-run")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shape_that_the_sweep_file_contradicts_is_refused_with_both_values(up: UpTraining):
    preset = up.preset()
    preset.write_text(preset.read_text().replace("norm_eps = 1e-5", "norm_eps = 1e-6"))
    done = up.run(preset, "--dry-run")
    assert done.returncode == 2
    assert "norm_eps 1e-06" in done.stderr
    assert "have 1e-05" in done.stderr
