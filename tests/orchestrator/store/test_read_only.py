"""Somebody else's results: reading and fitting them needs no right to write."""

import shutil
from pathlib import Path

from tests.helpers.toy_sweep import ToySweep, run_here


def test_a_fit_is_printed_before_anything_is_written_and_a_refused_file_is_one_sentence(
    reference: ToySweep, tmp_path: Path
):
    """A folder where fits.json should go refuses the write for every user, root included."""
    results = tmp_path / "results"
    shutil.copytree(reference.results, results)
    (results / "sweeps/toy/fits.json").mkdir()
    done = run_here(["fit", "toy", "--approach", "parabola", "--results", str(results)], reference.environment)
    assert done.returncode == 2
    assert "## vanilla" in done.stdout
    assert "--results: " in done.stderr
    assert "fits.json cannot be written (Is a directory): name a folder that you may write to" in done.stderr
    assert "Traceback" not in done.stderr
