"""`--loss` on a planted sweep: the same option for every verb that reads a fit, and one sentence for what is wrong."""

import json

import pytest

from orchestrator.store.store import Store
from tests.helpers.command_line import run
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides
from tests.helpers.runs.planted_texts import plant_text

VERBS = ("fit", "table", "report", "predict", "compare")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A finished sweep of two arms whose bits per byte are half of its loss."""
    store = Store(root=tmp_path_factory.mktemp("results"))
    sweep = PlantedSweep(store=store)
    wanted = {
        "budgets": ["8e10", "1.6e11", "3.2e11"],
        "sizes": {"names": ["13k", "23k", "35k", "51k", "70k", "115k"]},
        "arms__architectures": ["vanilla", "mor"],
        "arms__recursions": [2],
    }
    sweep.publish(sweep.plan(SNAPSHOT, overrides(**wanted)))
    plant_text(store, sweep.name, "books", "b" * 64, lambda segment: 1.3 * sweep.law.loss(segment))
    return store.root


def fitted(results, *words):
    shown = run("fit", *words, "--approach", "parabola", "--json", "--results", str(results))
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["data"]


@pytest.mark.parametrize(
    ("name", "unit", "scale"), [("bits_per_byte", "bits/byte", 0.5), ("text:books", "nats/token", 1.3)]
)
def test_another_loss_is_fitted_with_the_planted_optimum_in_its_unit(results, name, unit, scale):
    own, chosen = fitted(results), fitted(results, "--loss", name)
    assert (own["loss_unit"], chosen["loss_unit"], chosen["loss_column"]) == ("nats/token", unit, name)
    pairs = zip(own["frontiers"], chosen["frontiers"], strict=True)
    optima = [pair for one, other in pairs for pair in zip(one["optima"], other["optima"], strict=True)]
    found = [(one, other) for one, other in optima if "value" in one["params"]]
    assert len(found) > 3
    for one, other in found:
        assert other["params"]["value"] == pytest.approx(one["params"]["value"], rel=1e-6)
        assert other["loss"]["value"] == pytest.approx(scale * one["loss"]["value"], rel=1e-6)


def test_verbs_say_the_unit_of_the_loss_that_was_chosen(results):
    flags = ["--loss", "bits_per_byte", "--results", str(results)]
    compared = run("compare", *flags).stdout
    assert "bits_per_byte:" in compared
    assert "bits/byte" in compared
    assert "nats" not in compared
    assert run("report", *flags).returncode == 0
    page = (results / "sweeps/planted/report.html").read_text()
    assert "L* (bits/byte)" in page
    drawn = run("plot", "isoflop", *flags)
    assert drawn.returncode == 0, drawn.stderr
    document = json.loads((results / "sweeps/planted/figures/isoflop.json").read_text())
    assert document["provenance"]["loss_unit"] == "bits/byte"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--loss", "bits_per_bite"), "did you mean bits_per_byte?"),
        (("--loss", "text:wiki"), "no cell has text:wiki; measure it with `mor-sweep eval --text wiki=FILE`"),
        (("--loss", "task:piqa"), "no cell has task:piqa; score it with `mor-sweep eval --tasks piqa`"),
        (("--loss", "text:book"), "no cell has text:book (did you mean text:books?)"),
        (("--loss", "text:a b"), "expected a name of up to 100 letters"),
        (("--loss", "loss_half"), "no cell has loss_half: choose one of loss, loss_topk, bits_per_byte, text:books"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_loss_that_cannot_be_fitted_is_one_sentence_and_exit_code_2(results, verb, flags, said):
    words = ("--budget", "1e12") if verb == "predict" else ()
    shown = run(verb, *words, *flags, "--results", str(results))
    assert shown.returncode == 2, shown.stdout
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr


def test_the_papers_study_is_not_drawn_on_an_axis_of_another_unit(results):
    shown = run("plot", "isoflop", "--paper", "--loss", "bits_per_byte", "--results", str(results))
    assert shown.returncode == 2
    assert "its losses are in nats/token, and bits_per_byte in bits/byte" in " ".join(shown.stderr.split())
