"""kill -9 at random moments of digits runs, resumed until finished; results in benchmarks/results/crash.csv.

    python benchmarks/crash.py [--kills 1000] [--seed 0] [--out benchmarks/results/crash.csv]

Every run is killed one to four times, at any moment from its first system call to its last, and must end with the
chain, weights and files of a run that nobody killed, without losing an acknowledged round. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from crashes import LONGER, Driver, broken_run, differences, run_whole


def main() -> int:
    """Kill, count, write."""
    parser = argparse.ArgumentParser(description="kill -9 at random moments.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "crash.csv")
    options = parser.parse_args()
    draws, stages, runs, mismatches, lost = random.Random(options.seed), Counter[str](), 0, 0, 0
    folder, started = Path(tempfile.mkdtemp(dir=".")), time.perf_counter()
    try:
        with Driver() as driver:
            whole = run_whole(driver, folder / "whole", LONGER)
            while (done := stages.total()) < options.kills:
                run, most = folder / "run", min(draws.randint(1, 4), options.kills - done)
                for kill in broken_run(driver, run, LONGER, draws, whole=whole, most=most):
                    stages[kill.stage] += 1
                    lost += kill.lost
                if found := differences(run, folder / "whole", snapshots=False):
                    print(f"run {runs}: {found}", file=sys.stderr)
                    mismatches += 1
                shutil.rmtree(run)
                runs += 1
                print(f"\r{stages.total()} kills, {runs} runs, {mismatches} mismatches", end="", file=sys.stderr)
    finally:
        shutil.rmtree(folder)
    print(file=sys.stderr)
    row = {
        "kills": stages.total(),
        "runs": runs,
        "mismatches": mismatches,
        "lost rounds": lost,
        **{f"killed: {stage}": count for stage, count in sorted(stages.items())},
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started),
    }
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 1 if mismatches or lost else 0


if __name__ == "__main__":
    sys.exit(main())
