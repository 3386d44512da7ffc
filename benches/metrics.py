#!/usr/bin/env python3
"""`GET /metrics` of an exporter with many rows, while it polls: time to the first byte and to the last.

    python3 benches/metrics.py [--rows 3000000] [--times 50]

Milliseconds: the median and the longest of so many requests, one after another on a new connection
each; idle, and while a poll of a restated report is under way.
"""

import argparse
import http.client
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlparse

import house

# Between two looks at the report.
POLL_SECONDS = 1
CONFIG = """
exporter:
  listen_address: 127.0.0.1:0
  spool_dir: spool
  poll_interval: %ds
  sources: [{name: bench, path: report.csv, profile: strict}]
"""


def request(url):
    """Milliseconds to the first byte and to the last, and bytes."""
    connection = http.client.HTTPConnection(urlparse(url).netloc)
    began = time.perf_counter()
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    size = len(answer.read(1))
    first = time.perf_counter()
    size += len(answer.read())
    last = time.perf_counter()
    connection.close()
    return (first - began) * 1000, (last - began) * 1000, size


def samples(exporter, *parts):
    """The sum of the samples whose names and labels have these parts."""
    lines = exporter.get("/metrics").decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#" and all(part in line for part in parts))


def told(name, answers):
    firsts, lasts, sizes = zip(*answers)
    print(
        f"{name:<12}{len(answers):>5} requests of {sizes[-1]} bytes: first byte {statistics.median(firsts):.1f} ms"
        f" (longest {max(firsts):.1f}), whole {statistics.median(lasts):.1f} ms (longest {max(lasts):.1f})",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--times", type=int, default=50)
    house.flags(parser)
    given = parser.parse_args()
    bin = house.programs(given)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        house.generate(folder, bin, given.rows).rename(folder / "report.csv")
        restated = house.generate(folder, bin, given.rows, seed=2)
        config = folder / "costream.yaml"
        config.write_text(CONFIG % POLL_SECONDS)
        with house.Role(bin, "costream-exporter", config, folder) as exporter:
            polls = lambda: samples(exporter, "costream_polls_total", 'result="changed"')
            while polls() != 1:
                time.sleep(0.2)
            told("idle", [request(exporter.url) for _ in range(given.times)])
            restated.rename(folder / "report.csv")
            time.sleep(2 * POLL_SECONDS)
            answers = [request(exporter.url) for _ in range(given.times)]
            if polls() != 1:
                raise SystemExit("the poll was over before the requests were: more --rows, or fewer --times")
            told("polling", answers)


if __name__ == "__main__":
    main()
