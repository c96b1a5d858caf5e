"""Writes docs/notebook.ipynb: its cells stand here, its outputs come from running them on a sweep that was trained.

make demo
.venv/bin/python docs/make_notebook.py                # on results/sweeps/isoflop-cpu
.venv/bin/python docs/make_notebook.py --results FOLDER --sweep NAME --out FILE
"""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent

CELLS = [
    "# A sweep in a notebook\n"
    "What `make demo` trained, read from its results folder. Reading starts nothing: no Ray, no MLflow, no torch, and "
    "no file is written.",
    'import mor_sweep as ms\n\nsweep = ms.open("{name}", results="{results}")\nsweep.status',
    "The run table is a [polars](https://pola.rs) frame (`sweep.pandas()` gives it to pandas); "
    "[results/README.md](../results/README.md) explains its columns.",
    "table = sweep.table()\n"
    'table.select("arm", "size", "budget", "unique_params", "tokens", "loss", "loss_topk").head(8)',
    "import polars as pl\n\n"
    "(\n"
    '    table.filter(pl.col("status") == "finished")\n'
    '    .sort("loss")\n'
    '    .group_by("arm", "budget", maintain_order=True)\n'
    "    .first()\n"
    '    .select("arm", "budget", "size", "loss")\n'
    '    .sort("arm", "budget")\n'
    ")",
    "What all of it took, each segment once:",
    "(\n"
    "    sweep.segments()\n"
    '    .group_by("kind")\n'
    '    .agg(pl.len().alias("segments"), pl.col("steps_executed").sum(), pl.col("attempts").sum())\n'
    '    .sort("kind")\n'
    ")",
    "The fit has N\\*(C), D\\*(C) and L\\*(C) with intervals, or reasons; `sweep.fit().study` holds them as values.",
    "sweep.fit()",
    'sweep.figure("frontier")',
]
"""Markdown where a cell starts with a capital or a #, else code."""


def notebook(name: str, results: str) -> nbformat.NotebookNode:
    """The cells without outputs, for a sweep of a results folder."""
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, text in enumerate(CELLS):
        is_text = text[0] == "#" or text[0].isupper()
        new = nbformat.v4.new_markdown_cell if is_text else nbformat.v4.new_code_cell
        source = text if is_text else text.format(name=name, results=results) if "{name" in text else text
        document.cells.append(new(source, id=f"cell-{number}"))
    return document


def main() -> None:
    """Execute the cells and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--sweep", default="isoflop-cpu")
    parser.add_argument("--out", type=Path, default=HERE / "notebook.ipynb")
    options = parser.parse_args()
    document = notebook(options.sweep, options.results.name)
    os.environ.setdefault("POLARS_FMT_MAX_ROWS", "12")
    # From the folder above the results, so that the file names no place of this machine.
    folder = {"metadata": {"path": str(options.results.absolute().parent)}}
    NotebookClient(document, timeout=600, kernel_name="python3", resources=folder).execute()
    for cell in document.cells:
        cell.metadata.pop("execution", None)  # When it ran.
    nbformat.write(document, options.out)


if __name__ == "__main__":
    main()
