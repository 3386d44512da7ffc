#!/usr/bin/env python3
"""Peak resident memory of `costream run --once`, by rows and by number of sources.

    python3 benches/memory.py [--rows 300000 3000000] [--sources 1 200] [--profile release|dev]

Builds the program, generates the reports, runs each case in a process of its own and prints the
peak the kernel noted for it (ru_maxrss), with rows per second beside it. Needs Python 3.9 and
about 1.2 kB of disk a row.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import house


def measured(command, folder):
    """Seconds and peak bytes of a command that must end well."""
    began = time.monotonic()
    with open(folder / "log", "w") as log:
        child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(command[:4])} ... failed: {(folder / 'log').read_text()[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def case(costream, rows, sources, folder):
    each = rows // sources
    given = []
    for nth in range(sources):
        name = f"{rows}-{sources}-{nth}.csv"
        subprocess.run(
            [costream, "generate", "--rows", str(each), "--seed", str(nth + 1), "--out", name], cwd=folder, check=True
        )
        given += ["--source", name]
    taken = measured(
        [costream, "run", "--once", "--data-dir", f"data-{rows}-{sources}", "--log.level", "error",
         "--exporter.listen-address", "127.0.0.1:0", "--handler.listen-address", "127.0.0.1:0", *given],
        folder,
    )
    for report in folder.glob("*.csv"):
        report.unlink()
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 200])
    house.flags(parser)
    flags = parser.parse_args()
    costream = house.programs(flags) / "costream"
    print(f"{'rows':>10} {'sources':>8} {'peak MiB':>9} {'rows/s':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for sources in flags.sources:
            for rows in flags.rows:
                seconds, peak = case(costream, rows, sources, Path(folder))
                print(f"{rows:>10} {sources:>8} {peak / 2**20:>9.0f} {rows / seconds:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
