#!/usr/bin/env python3
"""How long a notebook takes to start: through the API, beside the same interpreter that is started bare.

    python3 benches/notebook.py [--times 21]

The notebook does nothing, or imports pandas; through the API it is found in the store, fenced in, given its prelude
(CrateDB's client, connected) and answered. The bare interpreter imports the same and is connected to nothing. Turn and
turn about; the median of so many turns, in milliseconds. The first run makes the handler's Python environment, below
the target folder, and is not counted.
"""

import argparse
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import house

PLACE = house.ROOT / "target" / "bench-notebook"
NOTEBOOKS = {"prelude": "print('done')", "pandas": "import pandas\nprint('done')"}


def post(url, body=b""):
    """A request's answer; asked again while the interpreter is being made."""
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, method="POST")) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise SystemExit(f"{url}: {error.read().decode()}")
            time.sleep(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=21)
    house.flags(parser)
    given = parser.parse_args()
    bin = house.programs(given)
    PLACE.mkdir(parents=True, exist_ok=True)
    config = PLACE / "costream.yaml"
    config.write_text(f"handler: {{listen_address: 127.0.0.1:0, data_dir: '{PLACE}'}}\n")
    with house.Role(bin, "costream-handler", config, PLACE) as handler:
        print(handler.get("/-/capabilities").decode())
        for name, code in NOTEBOOKS.items():
            post(f"{handler.url}/compute/{name}/upload?overwrite=true", code.encode())
            post(f"{handler.url}/compute/{name}", b"{}")
        python = next(path for path in sorted((PLACE / "python").iterdir()) if (path / "complete").exists()) / "bin" / "python"
        for name, code in NOTEBOOKS.items():
            bare = [python, "-c", f"import sys\nfrom crate import client\n{code}"]
            ours = lambda: post(f"{handler.url}/compute/{name}", b"{}")
            alone = lambda: subprocess.run(bare, check=True, capture_output=True)
            taken = {ours: [], alone: []}
            for _ in range(given.times):
                for asked, turns in taken.items():
                    began = time.perf_counter()
                    asked()
                    turns.append((time.perf_counter() - began) * 1000)
            api, interpreter = (statistics.median(turns) for turns in taken.values())
            print(f"{name:<10}{api:>7.0f} ms  bare {interpreter:>6.0f} ms  {api / interpreter:>5.2f} times", flush=True)


if __name__ == "__main__":
    main()
