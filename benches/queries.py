#!/usr/bin/env python3
"""Questions to a store of many rows through `POST /_sql`, beside DuckDB on the same Parquet files.

    python3 benches/queries.py [--rows 3000000] [--times 5]

Both with two threads, both asked once before the clock runs; the median of so many turns, in
milliseconds. DuckDB is asked in process, ours over HTTP. The answers must be the same.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

import house

# A name, our statement, and DuckDB's where it differs. Ties are ordered, so that answers can be compared.
QUESTIONS = [
    (
        "service and month",
        "SELECT servicename, date_trunc('month', chargeperiodstart) AS month, sum(billedcost), count(*) FROM {costs}"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        None,
    ),
    (
        "a tag",
        "SELECT count(*), sum(effectivecost) FROM {costs} WHERE tags['env'] = 'prod'",
        None,
    ),
    (
        "top 20 resources",
        "SELECT resourceid, sum(billedcost) AS billed FROM {costs} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20",
        None,
    ),
    (
        "latest two weeks",
        "SELECT servicename, sum(billedcost) FROM {costs} WHERE chargeperiodstart >="
        " (SELECT max(chargeperiodstart) FROM {costs}) - INTERVAL '2 week' GROUP BY 1 ORDER BY 1",
        "SELECT servicename, sum(billedcost) FROM {costs} WHERE chargeperiodstart >="
        " (SELECT max(chargeperiodstart) FROM {costs}) - INTERVAL 14 DAY GROUP BY 1 ORDER BY 1",
    ),
]


def plain(rows):
    """Answers in one form: times as milliseconds; numbers are exact on both sides, and equal whatever zeros they end in."""
    plain = lambda value: int(value.timestamp() * 1000) if isinstance(value, datetime) else value
    return [[plain(value) for value in row] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--times", type=int, default=5)
    house.flags(parser)
    given = parser.parse_args()
    house.with_peers()
    import duckdb

    bin = house.programs(given)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        report = house.generate(folder, bin, given.rows)
        run = [bin / "costream", "run", "--once", "--source", report, "--profile", "strict", "--data-dir", "data"]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
        report.unlink()
        config = folder / "costream.yaml"
        config.write_text("handler: {listen_address: 127.0.0.1:0, data_dir: data}\n")
        peer = duckdb.connect()
        peer.execute("SET threads = 2; SET TimeZone = 'UTC'")
        files = f"read_parquet('{folder}/data/store/**/*.parquet')"
        with house.Role(bin, "costream-handler", config, folder) as handler:
            for name, statement, other in QUESTIONS:
                ask = lambda: handler.sql(statement.format(costs="costs"))
                ask_peer = lambda: peer.execute((other or statement).format(costs=files)).fetchall()
                same = plain(ask()) == plain(ask_peer())
                taken = {ask: [], ask_peer: []}
                for _ in range(given.times):
                    for asked, turns in taken.items():
                        began = time.perf_counter()
                        asked()
                        turns.append((time.perf_counter() - began) * 1000)
                own, peers = (statistics.median(turns) for turns in taken.values())
                said = "same answer" if same else "OTHER ANSWER"
                print(f"{name:<20}{own:>8.0f} ms  peer {peers:>6.0f} ms  {own / peers:>5.2f} of its time, {said}", flush=True)


if __name__ == "__main__":
    main()
