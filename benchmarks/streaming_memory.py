r"""The peak memory of free runs of several lengths, which is to be the same.

python benchmarks/streaming_memory.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

LENGTHS = (64, 256, 1024)

RUN = """
import resource, sys
from pathlib import Path
from appa_prob.sample import SampleConfig, run_sample

states, output = int(sys.argv[1]), Path(sys.argv[2])
config = SampleConfig(start="2004-01-01", states=states, sampler={"steps": 2})
run_sample(config, output, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(states: int) -> int:
    """The peak resident memory, in MiB, of a process that samples some states."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, str(states), str(Path(folder) / "out.zarr")]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    for states in LENGTHS:
        print(f"{states:5d} states: {peak(states)} MiB")
