"""The interactive figures of the page as plain values: axes, series by arm, and the words shown on hovering."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from analysis.figures.curves import SHOWN_FROM, smoothed
from analysis.figures.drawing import ARM_COLOURS, arm_style, budget_colours
from analysis.figures.figure_data import frontier_data, isoflop_data, residuals_data
from analysis.frontier.study import Study
from analysis.isoflop.parabola import Parabola
from analysis.report.text import count_text, loss_text, params_label
from analysis.runs.curves import CellCurve
from analysis.statistics.answers import Estimate
from analysis.statistics.approach import QUANTITIES, SYMBOLS
from mor_core.units import budget_label, short_count

Chart = dict[str, Any]
"""id, title, arm (empty where several share it), x and y axes, series."""

SHAPES = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "down", "P": "plus", "X": "cross"}
MOST_PLACES = 160
"""Places of a training curve that the page keeps."""


def charts_of(study: Study, curves: Sequence[CellCurve]) -> list[Chart]:
    """Every figure of the page, in its order."""
    return [
        *_frontier_charts(study),
        *_isoflop_charts(study),
        *_residual_charts(study),
        *_compare_charts(study),
        *_curve_charts(curves),
    ]


def _axis(label: str, kind: str, *, log: bool = True, ticks: Sequence[float] = ()) -> dict[str, Any]:
    """kind: "count" (12k, 3M), "flops" (1e18) or "number"."""
    return {"label": label, "kind": kind, "log": log, "ticks": list(ticks)}


def _series(name: str, arm: str, colour: str, marker: str, **parts: Any) -> dict[str, Any]:
    empty = {"points": [], "line": [], "band": [], "dashed": False}
    return {"name": name, "arm": arm, "colour": colour, "marker": marker, **(empty | parts)}


def _flops_axis(study: Study) -> dict[str, Any]:
    budgets = sorted({int(each.budget) for frontier in study.frontiers for each in frontier.optima})
    label = f"C ({study.points.budget_convention} training FLOPs)"
    return _axis(label, "flops", ticks=[float(budget) for budget in budgets] if len(budgets) <= 12 else ())


def _frontier_charts(study: Study) -> list[Chart]:
    axes = {
        "params": _axis(f"N* ({params_label(study)})", "count"),
        "tokens": _axis("D* (tokens)", "count"),
        "loss": _axis(f"L* ({study.points.loss_unit})", "number", log=False),
    }
    found = []
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
                        _optimum_point(each, quantity, f"{entry['arm']}, {entry['approach']}")
                        for each in entry["optima"]
                        if isinstance(getattr(each, quantity), Estimate)
                    ],
                    line=[[each["flops"], each["value"]] for each in law],
                    band=[[each["flops"], each["low"], each["high"]] for each in law] if first else [],
                    dashed=not first,
                )
            )
        title = f"{SYMBOLS[quantity]} against compute"
        found.append(
            {"id": f"frontier-{quantity}", "section": "frontier", "title": title, "arm": "", "x": _flops_axis(study),
             "y": axes[quantity], "series": series}
        )  # fmt: skip
    return found


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


def _isoflop_charts(study: Study) -> list[Chart]:
    budgets = sorted(set(study.points.frame["budget"].to_list()), key=int)
    colours = {budget: to_hex(colour) for budget, colour in budget_colours(budgets).items()}
    shapes = list(SHAPES.values())
    found = []
    for entry in isoflop_data(study):
        series = []
        for each in entry["budgets"]:
            budget, label = each["budget"], budget_label(each["budget"])
            if budget not in colours:
                continue
            shape = shapes[budgets.index(budget) % len(shapes)]
            mine = [point for point in entry["points"] if point["budget"] == budget]
            points = [_run_point(point, point["params"], point["loss"]) for point in mine]
            line = [[place["params"], place["loss"]] for place in each["line"]]
            series.append(_series(label, entry["arm"], colours[budget], shape, points=points, line=line))
            if isinstance(each["parabola"], Parabola) and isinstance(each["params"], Estimate):
                series.append(_minimum(entry["arm"], label, colours[budget], each))
        found.append(
            {"id": f"isoflop-{len(found)}", "section": "isoflop", "title": entry["arm"], "arm": entry["arm"],
             "x": _axis(f"N ({params_label(study)})", "count"),
             "y": _axis(f"{study.points.loss_column} ({study.points.loss_unit})", "number", log=False),
             "series": series}
        )  # fmt: skip
    return found


def _minimum(arm: str, label: str, colour: str, each: dict[str, Any]) -> dict[str, Any]:
    params: Estimate = each["params"]
    point = {
        "x": params.value,
        "y": each["parabola"].minimum_loss,
        "xlow": params.low,
        "xhigh": params.high,
        "text": [f"{arm} at {label}", f"N* = {count_text(params)}", f"L* = {loss_text(each['loss'])}"],
    }
    return _series(f"minimum at {label}", arm, colour, "star", points=[point])


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


def _residual_charts(study: Study) -> list[Chart]:
    found = []
    for entry in residuals_data(study):
        if not entry["points"]:
            continue
        colour, marker = arm_style(study.points.arms, entry["arm"])
        for name, label in (("params", "N"), ("tokens", "D (tokens)")):
            points = [
                _run_point(point, point[name], 100 * point["relative"], f"predicted {point['relative']:+.2%}")
                for point in entry["points"]
            ]
            found.append(
                {"id": f"residuals-{len(found)}", "section": "surface", "title": entry["arm"], "arm": entry["arm"],
                 "x": _axis(label, "count"), "y": _axis("predicted / measured - 1 (%)", "number", log=False),
                 "zero": 0.0, "legend": False,
                 "series": [_series(entry["arm"], entry["arm"], colour, SHAPES[marker], points=points)]}
            )  # fmt: skip
    return found


def _compare_charts(study: Study) -> list[Chart]:
    pairs = list(dict.fromkeys((each.arm, each.other) for each in study.comparisons))
    found = []
    for quantity, label, neutral in (
        ("gap", f"L* minus the other arm's ({study.points.loss_unit})", 0.0),
        ("compute", "compute multiplier", 1.0),
    ):
        series = []
        for index, (arm, other) in enumerate(pairs):
            points = [
                {
                    "x": float(each.budget),
                    "y": answer.value,
                    "low": answer.low,
                    "high": answer.high,
                    "text": [f"{arm} against {other}", f"C = {budget_label(each.budget)}",
                             f"{answer.value:+.4g} [{answer.low:+.4g}, {answer.high:+.4g}]"],
                }
                for each in study.comparisons
                if (each.arm, each.other) == (arm, other) and isinstance(answer := getattr(each, quantity), Estimate)
            ]  # fmt: skip
            colour = ARM_COLOURS[index % len(ARM_COLOURS)]
            shape = list(SHAPES.values())[index % len(SHAPES)]
            series.append(_series(f"{arm} against {other}", arm, colour, shape, points=points))
        if any(each["points"] for each in series):
            found.append(
                {"id": f"compare-{quantity}", "section": "compare", "title": label, "arm": "",
                 "x": _flops_axis(study), "y": _axis(label, "number", log=False), "zero": neutral, "series": series}
            )  # fmt: skip
    return found


def _curve_charts(curves: Sequence[CellCurve]) -> list[Chart]:
    sizes = {curve.size: curve.params for curve in sorted(curves, key=lambda each: each.params)}
    palette = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, max(2, len(sizes))))
    shades = {size: to_hex(colour) for size, colour in zip(sizes, palette, strict=False)}
    found = []
    for arm in sorted({curve.arm for curve in curves}):
        series = []
        first = SHOWN_FROM * max(float(curve.tokens[-1]) for curve in curves if curve.arm == arm)
        for curve in (each for each in curves if each.arm == arm):
            kept = np.unique(np.linspace(0, len(curve.tokens) - 1, min(MOST_PLACES, len(curve.tokens))).round())
            line = smoothed(curve.tokens, curve.loss)
            places = [int(place) for place in kept if curve.tokens[int(place)] >= first]
            points = []
            if curve.final_loss is not None:
                words = [curve.cell, f"evaluated: {curve.final_loss:.4f} nats/token"]
                points = [{"x": float(curve.tokens[-1]), "y": curve.final_loss, "text": words}]
            drawn = [[float(curve.tokens[place]), float(line[place])] for place in places]
            series.append(_series(curve.cell, arm, shades[curve.size], "circle", points=points, line=drawn))
        found.append(
            {"id": f"curves-{len(found)}", "section": "curves", "title": arm, "arm": arm, "legend": False,
             "x": _axis("tokens", "count"), "y": _axis("loss (nats/token)", "number"), "series": series}
        )  # fmt: skip
    return found
