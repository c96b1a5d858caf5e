"""Run tables that others published, read from a folder outside the project."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.helpers.paths import ROOT

FOLDER = Path(os.environ.get("MOR_SWEEP_REFERENCE_DATA", ROOT.parent / "shared" / "data"))


def published(name):
    """A published table; skips where the folder is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {path}: set MOR_SWEEP_REFERENCE_DATA to the folder of published run tables")
    return pl.read_csv(path)


def epoch_points():
    """N, D, C and loss of the 240 digitised Chinchilla runs that the reanalysis kept."""
    table = published("epoch_chinchilla/svg_extracted_data.csv")
    params, flops, loss = (table[name].to_numpy() for name in ("Model Size", "Training FLOP", "loss"))
    kept = loss < np.sort(loss)[-5]
    return params[kept], (flops / 6 / params)[kept], flops[kept], loss[kept]
