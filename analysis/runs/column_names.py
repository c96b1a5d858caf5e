"""Which column of anyone's table means what, by the names that people use. Where several fit, none is chosen."""

import re
import shlex
from collections.abc import Iterable

import polars as pl

from analysis.runs.column_map import MEANINGS, NUMBERS, REQUIRED, Column, columns_text
from analysis.runs.points import REQUIRED_COLUMNS, TableError
from mor_core.errors import Fix

CONVENTION_6ND = "6nd"
_COUNTED = "(n|num|numberof|no|total)?"
_KIND = "(model|total|unique|nonembedding|nonembed|nonemb|noembed|trainable|active)*"
_EMBEDDING = "(nonembedding|nonembed|nonemb|noembed|total|count)?"
USUAL_NAMES = {
    "params": f"n|{_COUNTED}{_KIND}param(eter)?s?{_EMBEDDING}|modelsize|n(nonembedding|nonembed|nonemb|noembed)",
    "tokens": f"d|{_COUNTED}(train(ing|ed)?|seen)?tokens?(seen|trained|processed|count)?",
    "loss": "l",
    "flops": "c|(total|train(ing)?|model)*(flops?|compute(flops?)?)(total|count)?",
    "budget": "(flops?|compute)?budget(flops?)?",
    "arm": "arm|model|arch(itecture)?",
    "seed": "(random|run|model|data|init)?seed",
    "size": "size(name)?",
    "epochs": "(n|num)?epochs",
    "unique_tokens": "(n|num)?(unique|distinct|corpus)(train(ing)?)?tokens",
}
"""By meaning, a pattern of the names that columns have, as `_words` beside each other."""
NO_LOSS = {"lower", "upper", "low", "high", "std", "stdev", "stderr", "sem", "se", "sd", "ci", "var"}
NO_LOSS |= {"weight", "scale", "spikes", "aux"}
"""Words by which a column says how well the loss is known, or something else about it."""
MULTIPLES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "bn": 1e9, "billion": 1e9, "t": 1e12}
MULTIPLES |= {"trillion": 1e12, **{f"1e{power}": 10.0**power for power in range(1, 25)}}
"""What stands in brackets behind a name whose numbers are counted in thousands, millions and so on."""
COUNTED = ("params", "tokens", "unique_tokens", "flops", "budget")
MOST_NAMES = 40
"""Columns of the header that a sentence lists."""

OWN_NAMES = {
    "cell": "cell_id", "status": "status", "arm": "arm", "size": "size", "budget": "budget", "seed": "seed",
    "convention": "budget_convention", "params": "unique_params", "tokens": "tokens", "loss": "loss",
    "trunk": "trunk_id", "epochs": "epochs", "steps": "steps", "warmup_steps": "warmup_steps",
    "unrolled_params": "unrolled_params", "recursions": "recursions", "depth": "depth_mean",
}  # fmt: skip
"""By meaning, the column of a sweep's own run table."""


def is_own(table: pl.DataFrame) -> bool:
    """Whether this is the run table of a sweep, as `runs.parquet` or written as CSV."""
    return {*REQUIRED_COLUMNS, "loss", "loss_topk"} <= set(table.columns)


def own_runs(table: pl.DataFrame) -> pl.DataFrame:
    """A sweep's run table with the types that CSV forgets: FLOPs as decimal text, empty columns as no numbers."""
    exact = [name for name in table.columns if name == "budget" or name.startswith("flops_")]
    numbers = [OWN_NAMES[meaning] for meaning in NUMBERS if meaning in OWN_NAMES and meaning != "budget"]
    forgotten = [name for name in numbers if name in table.columns and table[name].dtype == pl.Utf8]
    return table.with_columns(pl.col(exact).cast(pl.Utf8), pl.col(forgotten).cast(pl.Float64, strict=False))


def complete_columns(
    table: pl.DataFrame, stated: dict[str, Column], convention: str | None = None
) -> dict[str, Column]:
    """What stands where: as stated, and for the rest by the usual names.

    Args:
        table: one row a run.
        stated: see `analysis.runs.column_map.parse_columns`; a meaning with an empty column is left out.
        convention: "6nd" where tokens may be worked out from FLOPs.

    Raises:
        TableError: parameters, tokens or the loss have no column, or a meaning might be one of several.
    """
    candidates = _own_candidates(table, stated) if is_own(table) else _candidates(table, stated)
    unsure = {meaning: names for meaning, names in candidates.items() if len(names) > 1}
    recognised = {meaning: _column(meaning, names[0]) for meaning, names in candidates.items() if len(names) == 1}
    columns = {meaning: column for meaning, column in (recognised | stated).items() if column.name}
    if "tokens" in columns and _is_empty(table, columns["tokens"].name):
        del columns["tokens"]
    missing = [meaning for meaning in REQUIRED if meaning not in columns and meaning not in unsure]
    has_flops = "flops" in columns or "budget" in columns
    if missing == ["tokens"] and has_flops and not unsure:
        _check_convention(table, columns, convention)
    elif missing or unsure:
        raise _unclear(table, unsure, missing)
    columns = _without_size_as_arm(table, columns, stated)
    return {meaning: columns[meaning] for meaning in MEANINGS if meaning in columns}


def is_6nd(convention: str | None) -> bool:
    """Whether this names C = 6 N D."""
    return convention is not None and convention.lower() == CONVENTION_6ND


def _candidates(table: pl.DataFrame, stated: dict[str, Column]) -> dict[str, list[str]]:
    """By meaning that is not stated, the columns whose name and content fit it."""
    free = [name for name in table.columns if name not in {column.name for column in stated.values()}]
    fitting = {
        meaning: [name for name in free if _is_called(name, meaning) and _can_hold(table, name, meaning)]
        for meaning in USUAL_NAMES
        if meaning not in stated
    }
    # Nobody but those who know this tool calls a column `arm`.
    return {
        meaning: [meaning] if meaning in names and meaning not in (*REQUIRED, "flops") else names
        for meaning, names in fitting.items()
    }


def _own_candidates(table: pl.DataFrame, stated: dict[str, Column]) -> dict[str, list[str]]:
    conventions = table["budget_convention"].drop_nulls().unique().to_list()
    names = OWN_NAMES | {"flops": f"flops_{conventions[0]}" if len(conventions) == 1 else ""}
    return {
        meaning: [name]
        for meaning, name in names.items()
        if meaning not in stated and name in table.columns and not _is_empty(table, name)
    }


def _is_called(name: str, meaning: str) -> bool:
    words = _words(name)
    if re.fullmatch(USUAL_NAMES[meaning], "".join(words)):
        return True
    named_loss = any(word.startswith("loss") or word.endswith("loss") for word in words)
    return meaning == "loss" and named_loss and not NO_LOSS & set(words)


def _words(name: str) -> list[str]:
    """Without case, unit in brackets, what separates words, and the prefixes of `mlflow export`."""
    bare = re.sub(r"\(.*?\)|\[.*?\]|_duplicated_\d+$", "", name.lower()).strip()
    return [word for word in re.split(r"[\s_\-./#]+", re.sub(r"^(params|metrics)\.", "", bare)) if word]


def _can_hold(table: pl.DataFrame, name: str, meaning: str) -> bool:
    """Whether some of its values are numbers where numbers are meant, and all are whole for seeds."""
    values = table[name]
    if _is_empty(table, name):
        return False
    if meaning in NUMBERS:
        is_plain = values.dtype.is_numeric() or values.dtype == pl.Utf8
        return is_plain and values.cast(pl.Float64, strict=False).count() > 0
    return meaning != "seed" or (values.dtype.is_integer() and values.null_count() == 0)


def _is_empty(table: pl.DataFrame, name: str) -> bool:
    return name in table.columns and table[name].null_count() == table.height


def _column(meaning: str, name: str) -> Column:
    brackets = re.search(r"[(\[](.*?)[)\]]", name)
    unit = brackets[1].strip().lower().removesuffix("s") if brackets else ""
    return Column(name=name, factor=MULTIPLES.get(unit, 1.0) if meaning in COUNTED else 1.0)


def _without_size_as_arm(
    table: pl.DataFrame, columns: dict[str, Column], stated: dict[str, Column]
) -> dict[str, Column]:
    """A column such as `model` that was only recognised names a size where every name has one N of its own."""
    arm = columns.get("arm")
    if arm is None or "arm" in stated or arm.name == "arm" or columns["params"].name not in table.columns:
        return columns
    sizes = table.group_by(arm.name).agg(pl.col(columns["params"].name).n_unique().alias("sizes"))
    if sizes["sizes"].max() != 1 or sizes.height == 1:
        return columns
    others = {meaning: column for meaning, column in columns.items() if meaning != "arm"}
    return others if "size" in stated else {"size": arm} | others


def _check_convention(table: pl.DataFrame, columns: dict[str, Column], convention: str | None) -> None:
    """Raises TableError where nothing says that tokens follow from the FLOPs."""
    if is_6nd(convention):
        return
    flops = columns.get("flops") or columns["budget"]
    raise TableError(
        f"The table has parameters ({columns['params'].name!r}) and FLOPs ({flops.name!r}) but no tokens; its columns "
        f"are {_listed(table.columns)}: map tokens=COLUMN if one of them holds tokens",
        fix=Fix(setting="convention", value=CONVENTION_6ND, words="where C = 6 N D, {} takes D = C / (6 N)"),
    )


def _unclear(table: pl.DataFrame, unsure: dict[str, list[str]], missing: list[str]) -> TableError:
    """All that has to be said of the columns, in one sentence."""
    doubts = [
        f"{meaning} ({MEANINGS[meaning]}) may be {', '.join(names[:-1])} or {names[-1]}"
        for meaning, names in unsure.items()
    ]
    if missing:
        doubts.append(
            "no column has a usual name for " + ", ".join(f"{meaning} ({MEANINGS[meaning]})" for meaning in missing)
        )
    example = {meaning: Column(name=names[0]) for meaning, names in unsure.items()}
    example |= {meaning: Column(name="COLUMN") for meaning in missing}
    value = shlex.quote(columns_text(example))
    return TableError(
        f"The columns do not say what they mean: {'; '.join(doubts)}; the table has {_listed(table.columns)}",
        fix=Fix(setting="columns", value=value, words="say it as in {}"),
    )


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    rest = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return ", ".join(shown[:MOST_NAMES]) + rest
