"""What the scripts here share: building the programs, running the three roles, asking them, peers."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The peers, as PyPI has them: the figures of README.md are these versions'.
# DuckDB hands out times by way of pytz.
PEERS = ["duckdb==2.0.0", "prometheus-client==0.26.0", "pytz==2025.2"]
# How often a role is asked whether it is there yet.
ASK_EVERY = 0.01


def flags(parser):
    """The flags of every script."""
    parser.add_argument("--profile", default="release", help="of the build")
    parser.add_argument("--programs", help="a folder of programs that are built already")


def programs(given):
    """The folder of the programs."""
    if given.programs:
        return Path(given.programs).resolve()
    command = ["cargo", "build", "--workspace", "--bins", "--profile", given.profile, "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "costream":
            return Path(message["executable"]).parent
    sys.exit("cargo built no costream")


def with_peers():
    """Starts the script again in an environment that has the peers; makes it where there is none."""
    folder = ROOT / "target" / "bench-peers"
    python = folder / "bin" / "python"
    if Path(sys.prefix) == folder:
        return
    have = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True).stdout if python.exists() else ""
    if not set(PEERS) <= {line.replace("_", "-") for line in have.splitlines()}:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    os.execv(python, [python, *sys.argv])


def generate(folder, bin, rows, seed=1, profile="strict", suffix="csv"):
    """A report of so many rows."""
    report = folder / f"{rows}-{seed}-{profile}.{suffix}"
    if not report.exists():
        command = [bin / "costream", "generate", "--profile", profile]
        command += ["--rows", str(rows), "--seed", str(seed), "--out", report]
        subprocess.run(command, check=True)
    return report


class Role:
    """A program that runs until the end of a `with`, and its address."""

    def __init__(self, bin, name, config, folder):
        self.name = name
        self.log = open(folder / f"{name}.log", "w+")
        command = [bin / name, "--config.file", config]
        self.child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.url = self.address()

    def address(self):
        """The URL it prints that it listens on."""
        while self.child.poll() is None:
            text = Path(self.log.name).read_text()
            if found := re.search(r"listening on (http://\S+)", text):
                return found[1]
            time.sleep(ASK_EVERY)
        sys.exit(f"{self.name} ended: {Path(self.log.name).read_text()[-2000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()
        self.log.close()

    def get(self, path):
        with urllib.request.urlopen(self.url + path) as answer:
            return answer.read()

    def sql(self, statement):
        """The rows that a handler answers with; none while there is no such table."""
        body = json.dumps({"stmt": statement}).encode()
        request = urllib.request.Request(self.url + "/_sql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer, parse_float=Decimal)["rows"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            sys.exit(f"{statement}: {error.read().decode()}")


def median(times, measure):
    """The middle one of several measurements."""
    return statistics.median(measure() for _ in range(times))
