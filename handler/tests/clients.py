"""CrateDB's own clients against a served handler: `clients.py <url>`. Silent when all is well."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from crate import client
from crate.client.exceptions import ProgrammingError

url = sys.argv[1]
NOVEMBER = 1793491200000


def same(got, expected, what):
    if got != expected:
        sys.exit(f"{what}: {got!r} instead of {expected!r}")


def fails(cursor, statement, text):
    try:
        cursor.execute(statement)
    except ProgrammingError as error:
        if text not in str(error):
            sys.exit(f"{statement}: {error} does not say {text}")
    else:
        sys.exit(f"{statement} did not fail")


connection = client.connect(url, timeout=60)
same(str(connection.lowest_server_version), "6.4.3", "the server's version")
cursor = connection.cursor()

cursor.execute("SELECT servicename, tags['org'], billingperiodstart FROM costs WHERE x_row = ?", (1,))
same([column[0] for column in cursor.description], ["servicename", "tags['org']", "billingperiodstart"], "columns")
same(cursor.fetchall(), [["compute", "test", NOVEMBER]], "a row by its argument")
same(cursor.rowcount, 1, "rowcount")

cursor.execute("SELECT x_row FROM costs WHERE servicename = ANY(?) ORDER BY x_row", (["compute", "none"],))
same(cursor.fetchall(), [[1], [3]], "rows by an array")
cursor.execute("SELECT tags FROM costs WHERE billedcost = ?", (Decimal("0.25"),))
same(cursor.fetchone(), [{"org": "prod", "a b": "x"}], "a row by an amount")
cursor.execute("SELECT x_row FROM costs WHERE billingperiodstart >= ? AND tags['nope'] IS NULL", (NOVEMBER,))
same(len(cursor.fetchall()), 3, "rows by a time")
cursor.execute("SELECT billedcost FROM costs WHERE x_row = 3")
same(cursor.fetchone(), [0.25], "an amount")
cursor.execute("SELECT * FROM costs WHERE billingperiodstart > CURRENT_TIMESTAMP - INTERVAL '2 week' LIMIT 1")
cursor.fetchall()

# What the published notebooks do: add up on their own.
cursor.execute("SELECT billedcost FROM costs WHERE x_row > 1")
same(sum(row[0] for row in cursor.fetchall()), 1.75, "a sum of amounts")

# All digits are on the wire, whatever a client makes of them.
response = connection.client._request("POST", "/_sql?types", data=json.dumps({"stmt": "SELECT sum(billedcost) FROM costs"}))
answer = json.loads(response.data, parse_float=Decimal)
same(answer["rows"], [[Decimal("12345678901234567891.873456789012345678")]], "an exact sum")
same(answer["col_types"], [22], "its type")

fails(cursor, "SELECT * FROM nope", "RelationUnknown[Relation 'nope' unknown]")
fails(cursor, "SELEC 1", "ParsingException[")
fails(cursor, "INSERT INTO costs (x_row) VALUES (1)", "OperationOnInaccessibleRelationException[")
cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'doc'")
same(cursor.fetchall(), [["costs"]], "tables")
connection.close()

crash = str(Path(sys.executable).parent / "crash")
common = [crash, "--hosts", url, "--verbose"]
done = subprocess.run(
    [*common, "--format", "json", "-c", "SELECT x_row, servicename FROM costs ORDER BY x_row LIMIT 2"],
    capture_output=True,
    text=True,
    timeout=120,
)
# With --verbose the table of connections comes first.
printed = done.stdout[done.stdout.find('[\n  {\n    "x_row"') :] if done.returncode == 0 else ""
rows = json.JSONDecoder().raw_decode(printed)[0] if printed.startswith("[") else done.stdout + done.stderr
same(rows, [{"x_row": 1, "servicename": "compute"}, {"x_row": 2, "servicename": "storage"}], "crash")
if "CONNECT OK" not in done.stdout + done.stderr:
    sys.exit(f"crash did not connect: {done.stdout}{done.stderr}")
done = subprocess.run([*common, "-c", "SELECT * FROM nope"], capture_output=True, text=True, timeout=120)
same((done.returncode != 0, "RelationUnknown" in done.stdout + done.stderr), (True, True), "crash told of an error")
