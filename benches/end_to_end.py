#!/usr/bin/env python3
"""A FOCUS report to committed, queryable rows, beside DuckDB reading the same file.

    python3 benches/end_to_end.py [--rows 1000000] [--times 3] [--input csv,json,parquet] [--only NAME ...]
    python3 benches/end_to_end.py --rows 100000 1000000 10000000 --only "costream, arrow"    # cost growth

Ours: three programs, as three machines would run them: exporter, HTTP, scraper, HTTP, handler; from the
start of the exporter to the answer of `SELECT count(*)` with all rows. The peer, with two threads:
`CREATE TABLE AS` in a database file, and `COPY ... TO` Parquet, with the columns' FOCUS types. The report in
JSON (one array) and in Parquet (amounts as DECIMAL(38,18), tags as JSON text) is the CSV, written by DuckDB. Both
have all CPUs of the machine; taskset(1) gives both fewer. Rows per second, the median of so many turns,
taken in turns.
"""

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

import house

CONFIG = """
exporter:
  listen_address: 127.0.0.1:0
  spool_dir: {folder}/spool
  sources: [{{name: bench, path: "{report}", profile: strict}}]
scraper:
  listen_address: 127.0.0.1:0
  handler: {{url: "{handler}"}}
  targets: [{{url: "{exporter}", records: {records}, interval: 50ms}}]
handler:
  listen_address: 127.0.0.1:0
  data_dir: {folder}/store
"""


def ours(bin, report, rows, records):
    """Seconds from a report to its rows."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = folder / "costream.yaml"

        def write(handler, exporter):
            config.write_text(
                CONFIG.format(folder=folder, report=report, records=records, handler=handler, exporter=exporter)
            )

        write("http://127.0.0.1:1", "http://127.0.0.1:1")
        with house.Role(bin, "costream-handler", config, folder) as handler:
            began = time.perf_counter()
            with house.Role(bin, "costream-exporter", config, folder) as exporter:
                write(handler.url, exporter.url)
                with house.Role(bin, "costream-scraper", config, folder):
                    while handler.sql("SELECT count(*) FROM costs") != [[rows]]:
                        time.sleep(house.ASK_EVERY)
                    return time.perf_counter() - began


def peer(report, rows, statement):
    """Seconds that DuckDB takes."""
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        database = duckdb.connect(f"{folder}/peer.duckdb")
        database.execute("SET threads = 2")
        began = time.perf_counter()
        database.execute(statement.format(source=table(report), folder=folder))
        seconds = time.perf_counter() - began
        where = "rows" if "TABLE" in statement else f"'{folder}/rows.parquet'"
        found = database.execute(f"SELECT count(*) FROM {where}").fetchone()[0]
        assert found == rows, f"the peer has {found} rows of {rows}"
        return seconds


def table(report):
    """How DuckDB reads a report, with the columns' FOCUS types."""
    if report.suffix == ".parquet":
        return f"read_parquet('{report}')"
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in types(report).items())
    if report.suffix == ".json":
        return f"read_json('{report}', format = 'array', columns = {{{columns}}})"
    return f"read_csv('{report}', header = true, columns = {{{columns}}})"


def types(report):
    """The columns' FOCUS types."""
    kinds = {("Cost", "Price", "Quantity"): "DECIMAL(38,18)", ("Start", "End"): "TIMESTAMP"}
    kind = lambda name: next((kind for ends, kind in kinds.items() if name.endswith(ends)), "VARCHAR")
    return {name: kind(name) for name in report_columns(report)}


def report_columns(report):
    csv_report = report.with_name(report.name.split(".")[0] + ".csv")
    with open(csv_report) as file:
        return next(csv.reader(file))


def rewritten(report, suffix):
    """The report in another format, beside it."""
    import duckdb

    target = report.with_suffix(f".{suffix}")
    if not target.exists():
        # Of numbers in JSON DuckDB makes doubles: there, every value is the text it was.
        source, how = {
            "json": (f"read_csv('{report}', header = true, all_varchar = true)", "FORMAT json, ARRAY true"),
            "parquet": (table(report), "FORMAT parquet"),
        }[suffix]
        database = duckdb.connect()
        database.execute(f"COPY (SELECT * FROM {source}) TO '{target}' ({how})")
    return target


def measure(bin, rows, times, inputs, only, folder):
    """Measures each case in turns, and prints its rate and its share of the first one's."""
    report = house.generate(folder, bin, rows)
    create, copy = "CREATE TABLE rows AS SELECT * FROM {source}", "COPY (SELECT * FROM {source}) TO '{folder}/rows.parquet'"
    cases = {}
    if "csv" in inputs:
        zipped = house.generate(folder, bin, rows, suffix="csv.gz")
        cases |= {
            "peer: CREATE TABLE AS": lambda: peer(report, rows, create),
            "peer: COPY TO parquet": lambda: peer(report, rows, copy),
            "costream, arrow": lambda: ours(bin, report, rows, "arrow"),
            "costream, text": lambda: ours(bin, report, rows, "text"),
            "peer: CREATE TABLE AS, gzip": lambda: peer(zipped, rows, create),
            "costream, arrow, gzip": lambda: ours(bin, zipped, rows, "arrow"),
        }
    for suffix in inputs:
        if suffix != "csv":
            other = rewritten(report, suffix)
            cases |= {
                f"peer: CREATE TABLE AS, {suffix}": lambda other=other: peer(other, rows, create),
                f"costream, arrow, {suffix}": lambda other=other: ours(bin, other, rows, "arrow"),
            }
    cases = {name: run for name, run in cases.items() if not only or name in only}
    seconds = {name: [] for name in cases}
    for _ in range(times):
        for name, run in cases.items():
            seconds[name].append(run())
    rates = {name: rows / statistics.median(taken) for name, taken in seconds.items()}
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        turns = " ".join(f"{turn:.2f}" for turn in seconds[name])
        print(f"{rows:>10} {name:<30}{rate:>9.0f} rows/s {rate / first:>6.2f}   {turns} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--input", default="csv", help="formats of the report, of csv,json,parquet")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases, by the names printed")
    parser.add_argument("--reports", type=Path, help="a folder that keeps the generated reports for the next time")
    house.flags(parser)
    given = parser.parse_args()
    house.with_peers()
    bin = house.programs(given)
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            measure(bin, rows, given.times, given.input.split(","), given.only, given.reports or Path(folder))


if __name__ == "__main__":
    main()
