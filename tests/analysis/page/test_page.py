"""The HTML report: whole, escaped, without a network, and alive."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.frontier.study import FitSettings, fit_study
from analysis.page.page import render_page
from analysis.report.provenance import provenance_of
from analysis.statistics.bootstrap import Resampling
from orchestrator.cli.main import app
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

SETTINGS = FitSettings(approaches=("parabola", "surface"), resampling=Resampling(draws=100))
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "strong", "code", "nav"),
    *("label", "input", "noscript", "main", "section", "div", "figure", "small", "table", "thead", "tbody", "tr"),
    *("th", "td", "ul", "li", "details", "summary", "script", "a"),
}


class Elements(HTMLParser):
    """Every element with its attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data


def page_of(table, settings=SETTINGS, source="a sweep", data="a corpus"):
    study = fit_study(table, settings)
    return study, render_page(study, provenance_of(study, source=source, data=data, version="9.9"), table)


def check_harmless(page):
    elements = Elements(page)
    assert {tag for tag, _ in elements.found} <= ALLOWED
    for tag, attributes in elements.found:
        assert not {"src", "srcdoc", "action", "style"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#"), "a place of the page itself"
        assert not [name for name in attributes if name.startswith("on")], tag
    assert len(elements.scripts) == 2
    assert re.findall(r"https?://[^\"'\s<]+", page) == ["http://www.w3.org/2000/svg"], "a namespace, nothing to load"
    assert "url(" not in page
    assert "@import" not in page
    policy = next(each["content"] for tag, each in elements.found if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy, "no other script may run"
    return elements


def test_what_a_study_would_have_predicted_of_itself_stands_under_its_frontiers(planted):
    study = fit_study(planted(budgets=("1000000000000",)), FitSettings(resampling=Resampling(draws=100)))
    provenance = provenance_of(study, source="a sweep", data="a corpus", version="9.9")
    page = render_page(study, provenance, planted(), own_record=["vanilla: off by <b>0.3%</b>"])
    check_harmless(page)
    text = Elements(page).text
    assert "Had it predicted itself" in text
    assert "vanilla: off by <b>0.3%</b>" in text
    assert "Had it predicted itself" not in Elements(render_page(study, provenance, planted())).text


def test_the_page_holds_the_numbers_the_refusals_and_every_cell(planted):
    table = planted(arms=("mor-2", "vanilla"), sizes=7, cell_noise=0.004)
    rows = table.to_dicts()
    rows[0] |= {"status": "diverged", "reason": "the loss became nan at step 70"}
    table = pl.DataFrame(rows, schema_overrides={"reason": pl.Utf8})
    study, page = page_of(table)
    elements = check_harmless(page)
    for words in (
        "diverged: the loss became nan at step 70",
        f"{study.points.frame.height} cells used, 1 left out",
        study.points.inputs_sha256,
        "profile likelihood",
        "a corpus",
        "mor-2 against vanilla at 1e12 FLOPs",
    ):
        assert words in elements.text, words
    law = study.frontiers[0].params_law
    assert f"a = {law.exponent.value:.4f} [{law.exponent.low:.4f}, {law.exponent.high:.4f}]" in elements.text
    charts = {chart["id"]: chart for chart in json.loads(elements.scripts[0])["charts"]}
    assert {"frontier-params", "isoflop-0", "isoflop-1", "residuals-0", "compare-gap"} <= set(charts)
    drawn = [
        point["y"] for each in charts["isoflop-1"]["series"] if each["marker"] != "star" for point in each["points"]
    ]
    assert sorted(drawn) == sorted(study.points.frame.filter(pl.col("arm") == "vanilla")["loss"].to_list())


def test_the_page_opens_with_the_answer_and_its_contents_lead_to_every_section(planted):
    study, page = page_of(planted(arms=("mor-2", "vanilla"), sizes=7, cell_noise=0.004))
    elements = check_harmless(page)
    sections = [attributes["id"] for tag, attributes in elements.found if tag == "section"]
    assert sections[:2] == ["summary", "caveats"]
    links = [attributes["href"] for tag, attributes in elements.found if tag == "a"]
    assert links == [f"#{name}" for name in sections[2:]]
    exponent = study.frontiers[0].params_law.exponent
    assert f"{exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in elements.text
    assert elements.text.index("Trust it with care") < elements.text.index("Before you rely on it")


def test_every_arm_has_its_surface_with_the_runs_and_the_optima(planted):
    study, page = page_of(planted(arms=("mor-2", "vanilla"), sizes=7, cell_noise=0.004))
    charts = {chart["id"]: chart for chart in json.loads(check_harmless(page).scripts[0])["charts"]}
    budgets = len(study.frontiers[0].optima)
    for place, arm in enumerate(study.points.arms):
        runs, *lines, optima = charts[f"surface-{place}"]["series"]
        assert charts[f"surface-{place}"]["title"] == arm
        mine = study.points.frame.filter(pl.col("arm") == arm)
        assert sorted(point["y"] for point in runs["points"]) == sorted(mine["tokens"].to_list())
        assert len({point["colour"] for point in runs["points"]}) > 3
        assert len(lines) == len(optima["points"]) == budgets
    assert "compare-params" in charts


def test_the_gap_of_two_arms_is_shown_with_its_mean_over_all_budgets(planted):
    study, page = page_of(planted(arms=("mor-2", "vanilla"), sizes=7, cell_noise=0.004))
    charts = {chart["id"]: chart for chart in json.loads(check_harmless(page).scripts[0])["charts"]}
    (whole,) = study.over_budgets
    (mean,) = [series for series in charts["compare-gap"]["series"] if series["band"]]
    assert mean["band"] == [[float(budget), whole.gap.low, whole.gap.high] for budget in whole.budgets]
    assert {y for _, y in mean["line"]} == {whole.gap.value}
    assert not any(series["band"] for series in charts["compare-compute"]["series"])


def test_what_a_hostile_run_says_is_shown_and_never_run(planted):
    table = planted(arms=(HOSTILE, "vanilla"), sizes=5, cell_noise=0.004)
    rows = table.to_dicts()
    rows[3] |= {"status": "failed", "reason": HOSTILE, "flags": HOSTILE, "size": HOSTILE}
    _, page = page_of(pl.DataFrame(rows, schema_overrides={"reason": pl.Utf8}), source=HOSTILE, data=HOSTILE)
    elements = check_harmless(page)
    assert elements.text.count(HOSTILE) > 5
    assert json.loads(elements.scripts[0])["provenance"]["source"] == HOSTILE


def test_refused_studies_have_a_page_that_says_why(planted):
    for table in (planted().clear(), planted(sizes=2), planted(budgets=("1000000000000",))):
        study, page = page_of(table)
        elements = check_harmless(page)
        if study.refused and study.frontiers:
            assert "No number is supported by these runs." in elements.text
            assert "a parabola needs at least 4" in elements.text


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    planted = PlantedSweep(store=Store(root=tmp_path_factory.mktemp("results")))
    grid = overrides(budgets=["8e10", "1.6e11", "3.2e11"], sizes={"names": ["13k", "23k", "35k", "51k", "70k"]})
    planted.publish(planted.plan(SNAPSHOT, grid))
    return planted


def report(sweep, *flags):
    arguments = ["report", sweep.name, "--results", str(sweep.store.root), *map(str, flags)]
    return CliRunner().invoke(app, arguments)


def test_the_verb_writes_the_page_of_a_sweep_with_its_curves(sweep, tmp_path):
    path = tmp_path / "page.html"
    done = report(sweep, "--out", path)
    assert done.exit_code == 0, done.output
    elements = check_harmless(path.read_text())
    charts = json.loads(elements.scripts[0])["charts"]
    curves = [chart for chart in charts if chart["section"] == "curves"]
    assert [chart["title"] for chart in curves] == ["mor-2", "vanilla"]
    assert all(len(each["line"]) > 10 for chart in curves for each in chart["series"])


def test_a_sweep_without_results_has_a_page_and_exit_code_5(tmp_path):
    planted = PlantedSweep(store=Store(root=tmp_path))
    planted.plan(SNAPSHOT, overrides(budgets=["8e10"], sizes={"names": ["10k"]}))
    done = report(planted)
    assert done.exit_code == 5, done.output
    check_harmless((planted.store.sweep_folder(planted.name) / "report.html").read_text())


ACTIONS = """
const box = document.querySelector("#arms input");
const before = document.querySelectorAll("figure:not([hidden])").length;
const hit = document.querySelector("[data-chart=isoflop-0] .hit");
hit.scrollIntoView();
const point = document.querySelector("[data-chart=isoflop-0] circle").getBoundingClientRect();
hit.dispatchEvent(new MouseEvent("mousemove", { clientX: point.x + 2, clientY: point.y + 2 }));
document.body.dataset.tip = document.getElementById("tip").textContent;
box.click();
document.body.dataset.figures = `${before} ${document.querySelectorAll("figure:not([hidden])").length}`;
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="looks at the page with chromium, which is not installed")
def test_in_a_browser_figures_are_drawn_points_answer_and_arms_hide(planted, tmp_path):
    _, page = page_of(planted(arms=("mor-2", HOSTILE), sizes=7, cell_noise=0.004))
    # Only a page without its policy lets the test act in it.
    acting = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    acting = acting.replace("</body>", f"<script>{ACTIONS}</script></body>")
    dom = browse(acting, tmp_path / "acting.html")
    charts = json.loads(Elements(page).scripts[0])["charts"]
    body = next(attributes for tag, attributes in Elements(dom).found if tag == "body")
    assert body["data-drawn"] == str(len(charts))
    assert "N = " in body["data-tip"]
    assert "seed 0" in body["data-tip"]
    before, after = map(int, body["data-figures"].split())
    of_one_arm = sum(chart["arm"] == "mor-2" for chart in charts)
    assert (before, before - after) == (
        len(charts),
        of_one_arm + sum(chart["id"].startswith("compare") for chart in charts),
    )

    intact = browse(page, tmp_path / "intact.html")
    assert f'data-drawn="{len(charts)}"' in intact, "the page's own policy lets its own script run"
    foreign = page.replace("</body>", "<script>document.body.dataset.foreign = 1</script></body>")
    assert "data-foreign" not in browse(foreign, tmp_path / "foreign.html").replace("dataset.foreign", "")


LABELS = """
const fs = require("fs");
const element = (tag) => ({
  tag, attributes: {}, children: [], dataset: {}, textContent: "",
  setAttribute(name, value) { this.attributes[name] = value; },
  append(...more) { this.children.push(...more); },
  replaceChildren() { this.children = []; },
  addEventListener() {},
});
const [script, payload] = process.argv.slice(1).map((path) => fs.readFileSync(path, "utf8"));
const figure = ({ id }) => Object.assign(element("figure"), { dataset: { chart: id } });
const figures = JSON.parse(payload).charts.map(figure);
global.document = {
  body: element("body"),
  createElement: element,
  createElementNS: (_, tag) => element(tag),
  getElementById: (id) => Object.assign(element(id), { textContent: payload }),
  querySelectorAll: (what) => (what === "[data-chart]" ? figures : []),
};
eval(script);
const isText = (node) => node.tag === "text";
const label = ({ attributes, textContent }) => ({ ...attributes, text: textContent });
console.log(JSON.stringify(figures.map((figure) => figure.children[0].children.filter(isText).map(label))));
"""
CHARACTER = 6.0
"""Width of a digit of the page's charts, in their own unit, seen in a browser."""


@pytest.mark.skipif(not shutil.which("node"), reason="runs the page's script with node, which is not installed")
def test_labels_of_many_budgets_do_not_overlap_in_the_page(planted, tmp_path):
    budgets = tuple(f"{digits}{'0' * (13 + power)}" for power in range(3) for digits in (125, 251, 433, 794))
    _, page = page_of(planted(budgets=budgets, cell_noise=0.004), FitSettings(resampling=Resampling(draws=100)))
    payload, script = Elements(page).scripts
    for name, text in (("payload.json", payload), ("report.js", script)):
        (tmp_path / name).write_text(text)
    command = ["node", "-e", LABELS, "--", str(tmp_path / "report.js"), str(tmp_path / "payload.json")]
    charts = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert len(charts) >= 3
    for chart in charts:
        beneath = [label for label in chart if label.get("text-anchor") == "middle" and label["y"] == 300 - 46 + 15]
        assert len(beneath) >= 3
        for left, right in pairwise(beneath):
            widths = (len(left["text"]) + len(right["text"])) * CHARACTER / 2
            assert right["x"] - left["x"] > widths


def browse(page, path):
    path.write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    profile = path.with_suffix(".profile")
    command = ["chromium", *flags, f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
