"""One segment whose results are in a bucket, in a process of its own.

python -m tests.helpers.one_segment URL DATA_FOLDER
"""

import sys
from pathlib import Path

from mor_core.data.snapshot import load_snapshot
from orchestrator.running.segment.worker import run_segment
from tests.helpers.single_segment import job_for, segment_on

if __name__ == "__main__":
    url, folder = sys.argv[1:]
    data = load_snapshot(Path(folder))
    job = job_for(url, data, run="a run")
    print(run_segment(segment_on(data), job).status)
