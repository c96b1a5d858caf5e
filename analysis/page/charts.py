"""The interactive figures of the page as plain values: axes, series by arm, and the words shown on hovering."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import seaborn
from matplotlib.colors import to_hex

from analysis.figures.advice.repeated import ArmRepetition, arms_of_repetition
from analysis.figures.curves import SHOWN_FROM, mean_over_seeds, smoothed
from analysis.figures.drawing import ARM_COLOURS, arm_style, budget_colours
from analysis.figures.figure_data import frontier_data, isoflop_data, residuals_data, surface_data
from analysis.figures.surface import surface_shades
from analysis.frontier.study import Study
from analysis.isoflop.parabola import Parabola
from analysis.report.text import count_text, loss_text, params_label
from analysis.runs.curves import CellCurve
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES, SYMBOLS
from analysis.surface.extended.repeated import RepeatedOptimum
from analysis.surface.fit import SurfaceFit
from mor_core.units import budget_label, short_count

Chart = dict[str, Any]
"""id, title, arm (empty where several share it), x and y axes, series."""

SHAPES = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "down", "P": "plus", "X": "cross"}
BESIDE = {"frontier": 3, "isoflop": 2, "surface": 2, "compare": 3, "curves": 2}
"""Figures in a row, by section: pairs stay together."""
WIDTHS = {2: 610, 3: 398}
"""Of a figure, in pixels of a page of 1240."""
WIDE = 3.0
"""Ratio of multipliers from which their axis is logarithmic."""
MOST_PLACES = 160
"""Places of a training curve that the page keeps."""


def charts_of(study: Study, curves: Sequence[CellCurve]) -> list[Chart]:
    """Every figure of the page, in its order."""
    charts = [
        *_frontier_charts(study),
        *_isoflop_charts(study),
        *_surface_charts(study),
        *_residual_charts(study),
        *_repeated_charts(study),
        *_compare_charts(study),
        *_curve_charts(curves),
    ]
    return [{"starts_row": False} | chart | {"width": WIDTHS[BESIDE[chart["section"]]]} for chart in charts]


def _axis(label: str, kind: str, *, log: bool = True, ticks: Sequence[float] = ()) -> dict[str, Any]:
    """kind: "count" (12k, 3M), "flops" (1e18) or "number"."""
    return {"label": label, "kind": kind, "log": log, "ticks": list(ticks)}


def _series(name: str, arm: str, colour: str, marker: str, **parts: Any) -> dict[str, Any]:
    empty = {"points": [], "line": [], "band": [], "dashed": False, "legend": name, "thick_from": None}
    return {"name": name, "arm": arm, "colour": colour, "marker": marker, **(empty | parts)}


def _flops_axis(study: Study) -> dict[str, Any]:
    budgets = sorted({int(optimum.budget) for frontier in study.frontiers for optimum in frontier.optima})
    label = f"C ({study.points.budget_convention} training FLOPs)"
    return _axis(label, "flops", ticks=[float(budget) for budget in budgets] if len(budgets) <= 12 else ())


def _frontier_charts(study: Study) -> Iterator[Chart]:
    axes = {
        "params": _axis(f"N* ({params_label(study)})", "count"),
        "tokens": _axis("D* (tokens)", "count"),
        "loss": _axis(f"L* ({study.points.loss_unit})", "number", log=False),
    }
    for quantity in QUANTITIES:
        series = []
        for entry in frontier_data(study):
            colour, marker = arm_style(study.points.arms, entry["arm"])
            first = entry["approach"] == study.settings.approaches[0]
            law = entry["laws"][quantity]["line"]
            series.append(
                _series(
                    f"{entry['arm']} ({entry['approach']})",
                    entry["arm"],
                    colour,
                    SHAPES[marker],
                    points=[
                        _optimum_point(optimum, quantity, f"{entry['arm']}, {entry['approach']}")
                        for optimum in entry["optima"]
                        if isinstance(getattr(optimum, quantity), Estimate)
                    ],
                    line=[[place["flops"], place["value"]] for place in law],
                    band=[[place["flops"], place["low"], place["high"]] for place in law] if first else [],
                    dashed=not first,
                )
            )
        title = f"{SYMBOLS[quantity]} against compute"
        yield {"id": f"frontier-{quantity}", "section": "frontier", "title": title, "arm": "", "x": _flops_axis(study),
               "y": axes[quantity], "series": series}  # fmt: skip


def _optimum_point(optimum: Any, quantity: str, whose: str) -> dict[str, Any]:
    answer = getattr(optimum, quantity)
    text = loss_text(answer) if quantity == "loss" else count_text(answer)
    return {
        "x": float(optimum.budget),
        "y": answer.value,
        "low": answer.low,
        "high": answer.high,
        "text": [whose, f"C = {budget_label(optimum.budget)}", f"{SYMBOLS[quantity]} = {text}"],
    }


def _isoflop_charts(study: Study) -> Iterator[Chart]:
    budgets = sorted(set(study.points.frame["budget"].to_list()), key=int)
    colours = {budget: to_hex(colour) for budget, colour in budget_colours(budgets).items()}
    shapes = list(SHAPES.values())
    for number, entry in enumerate(isoflop_data(study)):
        series = []
        for curve in entry["budgets"]:
            budget, label = curve["budget"], budget_label(curve["budget"])
            if budget not in colours:
                continue
            shape = shapes[budgets.index(budget) % len(shapes)]
            runs = [point for point in entry["points"] if point["budget"] == budget]
            points = [_run_point(point, point["params"], point["loss"]) for point in runs]
            line = [[place["params"], place["loss"]] for place in curve["line"]]
            series.append(_series(label, entry["arm"], colours[budget], shape, points=points, line=line))
            if isinstance(curve["parabola"], Parabola) and isinstance(curve["params"], Estimate):
                series.append(_minimum(entry["arm"], label, colours[budget], curve))
        yield {"id": f"isoflop-{number}", "section": "isoflop", "title": entry["arm"], "arm": entry["arm"],
               "x": _axis(f"N ({params_label(study)})", "count"),
               "y": _axis(f"{study.points.loss_column} ({study.points.loss_unit})", "number", log=False),
               "series": series}  # fmt: skip


def _minimum(arm: str, label: str, colour: str, curve: dict[str, Any]) -> dict[str, Any]:
    params: Estimate = curve["params"]
    point = {
        "x": params.value,
        "y": curve["parabola"].minimum_loss,
        "xlow": params.low,
        "xhigh": params.high,
        "text": [f"{arm} at {label}", f"N* = {count_text(params)}", f"L* = {loss_text(curve['loss'])}"],
    }
    return _series(f"minimum at {label}", arm, colour, "star", points=[point], legend="")


def _run_point(point: dict[str, Any], x: float, y: float, *more: str) -> dict[str, Any]:
    return {
        "x": x,
        "y": y,
        "text": [
            f"{point['size']} at {budget_label(point['budget'])}, seed {point['seed']}",
            f"N = {short_count(point['params'])}, D = {short_count(point['tokens'])}",
            f"loss {point['loss']:.4f}",
            *more,
            f"cell {point['cell_id'][:12]}",
        ],
    }


def _surface_charts(study: Study) -> Iterator[Chart]:
    """Runs over N and D in the colour of their loss, lines of equal FLOPs and the optima of the law."""
    losses = study.points.frame["loss"].to_numpy()
    shade, shades = seaborn.color_palette("cividis", as_cmap=True), surface_shades(losses)
    fitted = [entry for entry in surface_data(study) if isinstance(entry["surface"], SurfaceFit) and entry["points"]]
    for number, entry in enumerate(fitted):
        runs = [
            _run_point(point, point["params"], point["tokens"]) | {"colour": to_hex(shade(shades(point["loss"])))}
            for point in entry["points"]
        ]
        low, *_, high = sorted(point["tokens"] for point in entry["points"])
        smallest, *_, largest = sorted(point["params"] for point in entry["points"])
        sizes = np.geomspace(smallest, largest, 40)
        series = [_series("a run: yellow, high loss; blue, low", entry["arm"], "#9a9a9a", "circle", points=runs)]
        for optimum in entry["optima"]:
            bought = entry["surface"].contour.tokens(sizes, float(optimum.budget))
            inside = (bought >= low / 1.2) & (bought <= high * 1.2)
            line = [[float(x), float(y)] for x, y in zip(sizes[inside], bought[inside], strict=True)]
            series.append(_series(f"C = {budget_label(optimum.budget)}", entry["arm"], "#666666", "none", line=line,
                                  dashed=True, legend="equal FLOPs"))  # fmt: skip
        stars = [
            {"x": optimum.params.value, "y": optimum.tokens.value,
             "low": optimum.tokens.low, "high": optimum.tokens.high,
             "xlow": optimum.params.low, "xhigh": optimum.params.high,
             "text": [f"C = {budget_label(optimum.budget)}", f"N* = {count_text(optimum.params)}",
                      f"D* = {count_text(optimum.tokens)}"]}
            for optimum in entry["optima"]
            if isinstance(optimum.params, Estimate) and isinstance(optimum.tokens, Estimate)
        ]  # fmt: skip
        series.append(_series("optimum of the law, with intervals", entry["arm"], "#ffffff", "star", points=stars))
        yield {"id": f"surface-{number}", "section": "surface", "title": entry["arm"], "arm": entry["arm"],
               "x": _axis(f"N ({params_label(study)})", "count"), "y": _axis("D (tokens)", "count"),
               "series": series}  # fmt: skip


def _residual_charts(study: Study) -> Iterator[Chart]:
    fitted = [entry for entry in residuals_data(study) if entry["points"]]
    pairs = product(fitted, (("params", "N"), ("tokens", "D (tokens)")))
    for number, (entry, (name, label)) in enumerate(pairs):
        colour, marker = arm_style(study.points.arms, entry["arm"])
        points = [
            _run_point(point, point[name], 100 * point["relative"], f"predicted {point['relative']:+.2%}")
            for point in entry["points"]
        ]
        yield {"id": f"residuals-{number}", "section": "surface", "title": entry["arm"], "arm": entry["arm"],
               "x": _axis(label, "count"), "y": _axis("predicted / measured - 1 (%)", "number", log=False),
               "zero": 0.0, "starts_row": name == "params",
               "series": [_series(entry["arm"], entry["arm"], colour, SHAPES[marker], points=points, legend="")],
               }  # fmt: skip


def _repeated_charts(study: Study) -> list[Chart]:
    """By arm: loss by passes with the law, and what to train from a corpus."""
    charts = []
    for shown in arms_of_repetition(study):
        common = {"section": "surface", "arm": shown.arm}
        if shown.tracks:
            loss = _axis(f"{study.points.loss_column} ({study.points.loss_unit})", "number", log=False)
            charts.append(
                {"id": f"passes-{len(charts)}", "title": f"{shown.arm}: {shown.source}", "starts_row": True,
                 "x": _axis("passes over the text (D / U)", "number"), "y": loss,
                 "series": _track_series(shown)} | common
            )  # fmt: skip
        if not isinstance(shown.optima, Refusal):
            charts.append(
                {"id": f"corpus-{len(charts)}",
                 "title": f"{shown.arm}: optimum at {budget_label(shown.optima[0].budget)} by corpus",
                 "x": _axis("U, tokens of the corpus", "count"), "y": _axis("N*, D*", "count"),
                 "series": list(_corpus_series(shown.arm, shown.optima))} | common
            )  # fmt: skip
    return charts


def _track_series(shown: ArmRepetition) -> list[Chart]:
    names = list(dict.fromkeys(track.name for track in sorted(shown.tracks, key=lambda track: track.rank)))
    colours = {name: to_hex(colour) for name, colour in budget_colours(names).items()}
    shapes = list(SHAPES.values())
    return [
        _series(
            track.name,
            shown.arm,
            colours[track.name],
            shapes[names.index(track.name) % len(shapes)],
            points=[
                {"x": float(x), "y": float(y), "text": [track.name, f"N = {short_count(track.params)}",
                                                        f"{x:.3g} passes", f"loss {y:.4f}"]}
                for x, y in zip(track.passes_n, track.loss_n, strict=True)
            ],
            line=[[float(x), float(y)] for x, y in zip(track.line_passes_m, track.line_loss_m, strict=True)],
        )
        for track in shown.tracks
    ]  # fmt: skip


def _corpus_series(arm: str, optima: Sequence[RepeatedOptimum]) -> Iterator[Chart]:
    for quantity, symbol, colour in (("params", "N*", ARM_COLOURS[0]), ("tokens", "D*", ARM_COLOURS[1])):
        places = [(optimum.unique_tokens, getattr(optimum, quantity).estimate) for optimum in optima]
        points = [
            {
                "x": corpus,
                "y": answer.value,
                "text": [f"corpus {short_count(corpus)}", f"{symbol} {count_text(answer)}"],
            }
            for corpus, answer in places
        ]
        line = [[corpus, answer.value] for corpus, answer in places]
        band = [[corpus, answer.low, answer.high] for corpus, answer in places]
        yield _series(symbol, arm, colour, "none", points=points, line=line, band=band)


def _compare_charts(study: Study) -> Iterator[Chart]:
    pairs = list(dict.fromkeys((comparison.arm, comparison.other) for comparison in study.comparisons))
    for quantity, label, neutral in (
        ("gap", f"L* minus the other arm's ({study.points.loss_unit})", 0.0),
        ("compute", "compute multiplier", 1.0),
        ("params", "parameter multiplier", 1.0),
    ):
        series = []
        for index, (arm, other) in enumerate(pairs):
            points = [
                {
                    "x": float(comparison.budget),
                    "y": answer.value,
                    "low": answer.low,
                    "high": answer.high,
                    "text": [f"{arm} against {other}", f"C = {budget_label(comparison.budget)}",
                             f"{answer.value:+.4g} [{answer.low:+.4g}, {answer.high:+.4g}]"],
                }
                for comparison in study.comparisons
                if (comparison.arm, comparison.other) == (arm, other)
                and isinstance(answer := getattr(comparison, quantity), Estimate)
            ]  # fmt: skip
            colour = ARM_COLOURS[index % len(ARM_COLOURS)]
            shape = list(SHAPES.values())[index % len(SHAPES)]
            if quantity == "gap":
                series += _mean_gap(study, arm, other, colour)
            series.append(_series(f"{arm} against {other}", arm, colour, shape, points=points))
        points = [point for pair_series in series if not pair_series["band"] for point in pair_series["points"]]
        values = [end for point in points for end in (point["low"], point["high"])]
        if values:
            log = quantity != "gap" and min(values) > 0 and max(values) > WIDE * min(values)
            yield {"id": f"compare-{quantity}", "section": "compare", "title": label, "arm": "",
                   "x": _flops_axis(study), "y": _axis(label, "number", log=log), "zero": neutral,
                   "series": series}  # fmt: skip


def _mean_gap(study: Study, arm: str, other: str, colour: str) -> Iterator[Chart]:
    """The mean gap of two arms as a band over the budgets that it is of; nothing where it is refused."""
    for whole in study.over_budgets:
        if (whole.arm, whole.other) != (arm, other) or not isinstance(whole.gap, Estimate):
            continue
        gap, budgets = whole.gap, [float(budget) for budget in whole.budgets]
        words = [f"{arm} against {other}, mean over {len(budgets)} budgets",
                 f"{gap.value:+.4g} [{gap.low:+.4g}, {gap.high:+.4g}]"]  # fmt: skip
        yield _series(
            f"{arm} against {other}, mean",
            arm,
            colour,
            "none",
            points=[{"x": math.sqrt(budgets[0] * budgets[-1]), "y": gap.value, "text": words}],
            line=[[budget, gap.value] for budget in budgets],
            band=[[budget, gap.low, gap.high] for budget in budgets],
            dashed=True,
            legend=f"mean gap over budgets, {gap.level:.0%} interval",
        )


def _curve_charts(curves: Sequence[CellCurve]) -> Iterator[Chart]:
    """The means over seeds, one colour a budget, the cooldown thick."""
    budgets = sorted({curve.budget for curve in curves}, key=int)
    colours = {budget: to_hex(colour) for budget, colour in budget_colours(budgets).items()}
    means = sorted(mean_over_seeds(curves), key=lambda curve: (int(curve.budget), curve.params), reverse=True)
    for number, arm in enumerate(sorted({curve.arm for curve in means})):
        first = SHOWN_FROM * max(float(curve.tokens[-1]) for curve in means if curve.arm == arm)
        series = [_curve_series(curve, first, colours[curve.budget]) for curve in means if curve.arm == arm]
        yield {"id": f"curves-{number}", "section": "curves", "title": arm, "arm": arm,
               "x": _axis("tokens", "count"), "y": _axis("loss (nats/token)", "number"),
               "series": series[::-1]}  # fmt: skip


def _curve_series(curve: CellCurve, first: float, colour: str) -> dict[str, Any]:
    kept = np.unique(np.linspace(0, len(curve.tokens) - 1, min(MOST_PLACES, len(curve.tokens))).round()).astype(int)
    line = smoothed(curve.tokens, curve.loss)
    name = f"{curve.size} at {budget_label(curve.budget)}"
    points = []
    if curve.final_loss is not None:
        words = [f"{curve.arm}, {name}", f"evaluated: {curve.final_loss:.4f} nats/token"]
        points = [{"x": float(curve.tokens[-1]), "y": curve.final_loss, "text": words}]
    drawn = [[float(curve.tokens[place]), float(line[place])] for place in kept if curve.tokens[place] >= first]
    return _series(name, curve.arm, colour, "circle", points=points, line=drawn, thick_from=curve.cooldown_from,
                   legend=f"{budget_label(curve.budget)} FLOPs, thick in the cooldown")  # fmt: skip
