#!/usr/bin/env python3
"""Records posted to a handler as the scraper before ours posts them, beside the same bytes posted to a server that
does nothing.

    python3 benches/upload.py [--rows 200000] [--batch 1000] [--times 3] [--only NAME ...]

The records are those of a generated report: every column a label, every value a text. Ours: from the first
byte sent to the last answer, which comes after the commit; then one SELECT proves that all rows are there. The peer reads the
bodies to their ends and answers. One connection, one request at a time; rows per second, the median of so many
turns, taken in turns. Beside it stands what was measured on the service that the handler replaces.
"""

import argparse
import csv
import http.client
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import house

# Rows a second of the service that is replaced, in batches of 993 records, on two CPUs.
REPLACED = 5_300
CONFIG = "handler: {{listen_address: 127.0.0.1:0, data_dir: {folder}/store}}\n"


def bodies(folder, report, batch):
    """Files with one request's body each, and the records in them."""
    with open(report, newline="") as file:
        records = csv.DictReader(file)
        found, made = [], []
        for number, labels in enumerate(records, 1):
            # Equal charges of two requests would be one charge twice.
            labels["x_Line"] = str(number)
            labels = dict(sorted(labels.items()))
            made.append({"labels": labels, "value": float(labels["BilledCost"]), "timestamp": 1_795_346_226})
            if number % batch == 0:
                found.append(write(folder, len(found), made, batch))
                made = []
        if made:
            found.append(write(folder, len(found), made, batch))
    return found


def write(folder, number, records, batch):
    path = folder / f"{batch}-{number}.json"
    with open(path, "w") as file:
        file.write("[")
        for at, record in enumerate(records):
            file.write("," * (at > 0))
            json.dump(record, file, separators=(",", ":"))
        file.write("]")
    return path, len(records)


def post(url, bodies):
    """Seconds for all bodies, one after the other."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=3600)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.blocksize = 1 << 20
    began = time.perf_counter()
    for path, records in bodies:
        with open(path, "rb") as body:
            headers = {"Content-Type": "application/json", "Content-Length": str(path.stat().st_size)}
            connection.request("POST", "/upload?table=bench&type=cost", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            assert json.loads(text).get("records_processed", records) == records, text
    return time.perf_counter() - began


def do_nothing(ready):
    """Reads every request to its end and answers it."""
    server = socket.create_server(("127.0.0.1", 0))
    ready.send(server.getsockname()[1])
    buffer = bytearray(1 << 20)
    while True:
        client, _ = server.accept()
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while chunk := client.recv(1 << 16):
                head += chunk
                if b"\r\n\r\n" not in head:
                    continue
                head, _, rest = head.partition(b"\r\n\r\n")
                length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
                left = length - len(rest)
                while left > 0:
                    left -= client.recv_into(buffer, min(left, len(buffer)))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
                head = b""


class Nothing:
    """The peer, until the end of a `with`."""

    def __enter__(self):
        ready, theirs = multiprocessing.Pipe()
        self.child = multiprocessing.Process(target=do_nothing, args=(theirs,), daemon=True)
        self.child.start()
        self.url = f"http://127.0.0.1:{ready.recv()}"
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.join()


def ours(bin, bodies, times):
    """Seconds of so many turns, the second of which restates what the first has stored."""
    rows = sum(records for _, records in bodies)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "costream.yaml"
        config.write_text(CONFIG.format(folder=folder))
        with house.Role(bin, "costream-handler", config, Path(folder)) as handler:
            taken = []
            for _ in range(times):
                taken.append(post(handler.url, bodies))
                assert handler.sql("SELECT count(*) FROM bench") == [[rows]]
            return taken


def nothing(bodies):
    with Nothing() as peer:
        return post(peer.url, bodies)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=1_000, help="records of a request, where there is more than one")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases, by the names printed")
    house.flags(parser)
    given = parser.parse_args()
    bin = house.programs(given)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        report = house.generate(folder, bin, given.rows)
        for name, batch in [("one request", given.rows), (f"requests of {given.batch}", given.batch)]:
            if given.only and name not in given.only:
                continue
            requests = bodies(folder, report, batch)
            megabytes = sum(path.stat().st_size for path, _ in requests) / 1e6
            seconds = {"ours": [], "ours, the same once more": [], "a server that does nothing": []}
            for _ in range(given.times):
                first, again = ours(bin, requests, 2)
                seconds["ours"].append(first)
                seconds["ours, the same once more"].append(again)
                seconds["a server that does nothing"].append(nothing(requests))
            peer = given.rows / statistics.median(seconds["a server that does nothing"])
            print(f"{name}: {given.rows} rows, {megabytes:.0f} MB")
            for case, taken in seconds.items():
                rate = given.rows / statistics.median(taken)
                turns = " ".join(f"{turn:.2f}" for turn in taken)
                print(f"  {case:<30}{rate:>10.0f} rows/s, {rate / peer:.3f} of doing nothing, "
                      f"{rate / REPLACED:.1f} times what is replaced   {turns} s", flush=True)


if __name__ == "__main__":
    main()
