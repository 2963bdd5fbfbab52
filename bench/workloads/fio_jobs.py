"""fio: the same question as the large files', asked by a program that others use, too.

`bench/jobs/large.fio` has the jobs. fio drops the pages of a file before it reads it (`invalidate`), and verifies what it reads
in order. Left out where fio is not installed.
"""

import json
import os
import shutil
import subprocess
from importlib import resources
from typing import Any

from cairnfs.bench.sense import BenchError
from cairnfs.bench.workload import WHY_DURABLE, WHY_PIECES, WHY_REQUESTS, Line, Run, Workload
from cairnfs.const import MIB

# job of the file: the line, what fio calls the direction
JOBS = {
    "write-in-order": (Line("write in order, fsync", "MiB/s", WHY_DURABLE), "write"),
    "read-in-order": (Line("read in order, pages dropped", "MiB/s", WHY_PIECES), "read"),
    "read-at-random": (Line("read 4 KiB at random, pages dropped", "blocks/s", WHY_REQUESTS), "read"),
    "write-at-random": (Line("write 4 KiB at random, fsync", "blocks/s", WHY_DURABLE), "write"),
}


class FioJobs(Workload):
    """Every job of the file once."""

    name = "large files by fio"
    question = "What does fio say of large files?"

    @property
    def lines(self) -> list[Line]:
        return [line for line, _ in JOBS.values()]

    def missing(self) -> str:
        return "" if shutil.which("fio") else "fio is not installed"

    def run(self, run: Run) -> None:
        n_procs = run.settings.n_procs
        n_mib = max(1, run.settings.large_bytes // n_procs // MIB)
        environment = {"DIR": str(run.folder), "BYTES": f"{n_mib}m", "PROCS": str(n_procs)}
        with resources.as_file(resources.files("cairnfs.bench") / "jobs" / "large.fio") as jobs:
            found = run_fio(str(jobs), environment)
        for name, (line, direction) in JOBS.items():
            side = found[name][direction]
            run.note(line.name, side["iops"] if line.unit == "blocks/s" else side["bw_bytes"] / MIB)


def run_fio(jobs: str, environment: dict[str, str]) -> dict[str, Any]:
    """What fio reports of each job, by its name. BenchError when one fails, as when bytes are wrong."""
    command = ["fio", "--output-format=json", jobs]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"fio failed: {said[0]}")
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return {job["jobname"]: job for job in report["jobs"]}
