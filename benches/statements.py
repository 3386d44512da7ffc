#!/usr/bin/env python3
"""An annotation table as a notebook keeps one, through `POST /_sql`: one-row upserts, reads by key, groups by a key of an
object, and 20,000 rows in one bulk request; beside SQLite, in process, its file synced at every commit as ours is.

    python3 benches/statements.py [--times 300] [--keys 40]

The clock runs from the request's first byte to the answer's last, on one kept connection. Median and 99th percentile.
"""

import argparse
import http.client
import json
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlparse

import house

N_BULK_ROWS = 20_000

CREATE = "CREATE TABLE notes (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')"
UPSERT = "INSERT INTO notes (id, keys) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys"
READ = "SELECT keys FROM notes WHERE id = ?"
GROUP = "SELECT keys['team'], count(*) FROM notes GROUP BY 1 ORDER BY 1"
THEIR_GROUP = "SELECT json_extract(keys, '$.team'), count(*) FROM notes GROUP BY 1 ORDER BY 1"


class Ours:
    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urlparse(url).netloc)

    def ask(self, stmt, **arguments):
        self.connection.request("POST", "/_sql", json.dumps({"stmt": stmt, **arguments}))
        answer = self.connection.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"{stmt}: {said}")
        return said

    def upsert(self, id, keys):
        self.ask(UPSERT, args=[id, keys])

    def read(self, id):
        return self.ask(READ, args=[id])["rows"][0][0]

    def group(self):
        return self.ask(GROUP)["rows"]

    def bulk(self, rows):
        self.ask(UPSERT, bulk_args=rows)


class Theirs:
    def __init__(self, file):
        self.peer = sqlite3.connect(file, isolation_level=None)
        self.peer.execute("PRAGMA synchronous = FULL")
        self.peer.execute("CREATE TABLE notes (id text PRIMARY KEY, keys text)")

    def upsert(self, id, keys):
        self.peer.execute(UPSERT, (id, json.dumps(keys)))

    def read(self, id):
        return json.loads(self.peer.execute(READ, (id,)).fetchone()[0])

    def group(self):
        return [list(row) for row in self.peer.execute(THEIR_GROUP)]

    def bulk(self, rows):
        self.peer.execute("BEGIN")
        self.peer.executemany(UPSERT, [(id, json.dumps(keys)) for id, keys in rows])
        self.peer.execute("COMMIT")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--keys", type=int, default=40)
    house.flags(parser)
    given = parser.parse_args()
    bin = house.programs(given)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = folder / "costream.yaml"
        config.write_text("handler: {listen_address: 127.0.0.1:0, data_dir: data}\n")
        with house.Role(bin, "costream-handler", config, folder) as handler:
            ours, theirs = Ours(handler.url), Theirs(folder / "peer.sqlite")
            ours.ask(CREATE)
            taken = {}

            def timed(what, side, call, *arguments):
                began = time.perf_counter()
                answer = call(*arguments)
                taken.setdefault(what, {}).setdefault(side, []).append((time.perf_counter() - began) * 1000)
                return answer

            for turn in range(given.times):
                id, keys = f"note {turn % given.keys}", {"team": f"team {turn % 3}", "turn": turn}
                answers = []
                for side in ours, theirs:
                    timed("upsert", side, side.upsert, id, keys)
                    answers.append((timed("read", side, side.read, id), timed("group", side, side.group)))
                if answers[0] != answers[1]:
                    raise SystemExit(f"another answer: {answers}")
            rows = [[f"many {row}", {"team": f"team {row % 3}", "turn": row}] for row in range(N_BULK_ROWS)]
            for side in ours, theirs:
                timed(f"{N_BULK_ROWS} rows at once", side, side.bulk, rows)
            for what, turns in taken.items():
                own, peers = turns[ours], turns[theirs]
                late = sorted(own)[int(len(own) * 0.99)]
                middle, peer = statistics.median(own), statistics.median(peers)
                print(f"{what:<20}{middle:>9.1f} ms, 99 % within {late:>6.1f} ms   peer {peer:>7.1f} ms  {middle / peer:>6.1f} of its time")


if __name__ == "__main__":
    main()
