"""Writes reports into a folder: `formats.py same|types|dictionary FOLDER`."""

import csv
import json
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

WHAT, FOLDER = sys.argv[1], Path(sys.argv[2])
CODECS = ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]


def same():
    """One report in every format."""
    rows = []
    for n in range(5_000):
        rows.append(
            {
                "BilledCost": Decimal(n * 7_919 - 10**7).scaleb(-(n % 19)),
                "BillingPeriodStart": datetime(2024, 9, 1 + n % 28, tzinfo=timezone.utc),
                "ChargePeriodStart": datetime(2024, 9, 1 + n % 28, n % 24, n % 60, tzinfo=timezone.utc) if n % 11 else None,
                "ServiceName": None if n % 13 == 0 else f"Service {n % 5} \"é\"",
                "ResourceId": f"/resource/{n}",
                "Tags": None if n % 3 == 0 else {"org": f"team, {n % 4}", "a.b/c": f"{n % 7}"},
                "x_Note": None if n % 2 else f"note {n % 9}",
            }
        )
    names = list(rows[0])

    def text(value, tags=json.dumps):
        match value:
            case Decimal():
                return format(value, "f")
            case datetime():
                return value.strftime("%Y-%m-%dT%H:%M:%SZ")
            case dict():
                return tags(value)
        return value

    with open(FOLDER / "report.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([["" if v is None else text(v) for v in row.values()] for row in rows])

    # Amounts are numbers, which Python's own writer would round.
    def record(row, camel=str):
        members = []
        for name, value in row.items():
            if isinstance(value, Decimal):
                value = text(value)
            elif isinstance(value, dict) and camel is not str:
                value = json.dumps([{"key": k, "value": v} for k, v in value.items()])
            else:
                value = json.dumps(text(value, tags=lambda tags: tags))
            members.append(f"{json.dumps(camel(name))}: {value}")
        return "{" + ", ".join(members) + "}"

    records = [record(row) for row in rows]
    (FOLDER / "array.json").write_text("[" + ",\n".join(records) + "]")
    (FOLDER / "lines.ndjson").write_text("\n".join(records) + "\n")
    (FOLDER / "envelope.json").write_text('{"nextLink": null, "value": [' + ",".join(records) + "]}")
    configs = [record(row, camel=lambda n: n if n.startswith("x_") else n[0].lower() + n[1:]) for row in rows]
    items = ",".join('{"kind": "FocusConfig", "spec": {"focusSpec": ' + config + "}}" for config in configs)
    (FOLDER / "focusconfigs.json").write_text('{"apiVersion": "v1", "items": [' + items + '], "kind": "List"}')

    at = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        {
            "BilledCost": pa.decimal128(38, 18),
            "BillingPeriodStart": at,
            "ChargePeriodStart": at,
            "ServiceName": pa.string(),
            "ResourceId": pa.string(),
            "Tags": pa.map_(pa.string(), pa.string()),
            "x_Note": pa.dictionary(pa.int8(), pa.string()),
        }
    )
    columns = {name: [row[name] for row in rows] for name in names}
    columns["Tags"] = [tags and list(tags.items()) for tags in columns["Tags"]]
    table = pa.table(columns, schema=schema)
    for codec in CODECS:
        pq.write_table(table, FOLDER / f"pyarrow-{codec}.parquet", compression=codec, row_group_size=999)
    pq.write_table(table, FOLDER / "pyarrow-plain.parquet", use_dictionary=False, data_page_version="2.0", version="1.0")

    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.register("rows", table)
    for codec in ["snappy", "zstd"]:
        target = FOLDER / f"duckdb-{codec}.parquet"
        database.execute(f"COPY (SELECT * FROM rows) TO '{target}' (FORMAT parquet, COMPRESSION {codec}, ROW_GROUP_SIZE 2048)")
    database.execute(
        "COPY (SELECT BilledCost, BillingPeriodStart::TIMESTAMP AS BillingPeriodStart,"
        " ChargePeriodStart::TIMESTAMP AS ChargePeriodStart, ServiceName, ResourceId, to_json(Tags)::VARCHAR AS Tags,"
        f" x_Note FROM rows) TO '{FOLDER}/duckdb-json.parquet' (FORMAT parquet)"
    )


def types():
    """A column of every type that may hold an amount, a time, tags, a text."""

    def write(name, columns):
        pq.write_table(pa.table(columns), FOLDER / name)

    many = "12345678901234567890.123456789012345678"
    write(
        "amounts.parquet",
        {
            "BilledCost": pa.array([Decimal(many), Decimal("1.5"), None, Decimal(1), Decimal(1)], pa.decimal128(38, 18)),
            "ListCost": pa.array([0.1, 1e-7, 1.0, float("nan"), 1.0], pa.float64()),
            "EffectiveCost": pa.array([0.1, 2.5, 1.0, 1.0, 1.0], pa.float32()),
            "ContractedCost": pa.array([1, -2, 3, 4, 5], pa.int32()),
            "PricingQuantity": pa.array([2**64 - 1, 1, 1, 1, 1], pa.uint64()),
            "ConsumedQuantity": pa.array([Decimal("1e-18"), Decimal(0), None, None, Decimal("1e-20")], pa.decimal256(60, 20)),
            "ListUnitPrice": pa.array([Decimal("9.99"), None, None, None, None], pa.decimal128(5, 2)),
            "ContractedUnitPrice": pa.array(["0.000000000000000001", "", "1", "1", "1"]),
        },
    )
    pq.write_table(
        pa.table(
            {
                "BilledCost": pa.array([1, 2], pa.int64()),
                "BillingPeriodStart": pa.array([date(2024, 9, 1), None], pa.date32()),
                "BillingPeriodEnd": pa.array([datetime(2024, 9, 1), datetime(2024, 9, 1, 1, 2, 3, 456_000)], pa.timestamp("ms")),
                "ChargePeriodStart": pa.array([0, 1_725_148_800_000_001_000], pa.timestamp("ns", tz="Europe/Berlin")),
                "ChargePeriodEnd": pa.array(["2024-09-01T00:00:00Z", "09/01/2024"]),
                "x_date": pa.array([date(2024, 9, 1), None], pa.date32()),
                "x_time": pa.array([1, 2], pa.time64("us")),
                "x_far": pa.array([2**62, 1], pa.timestamp("ms", tz="UTC")),
            }
        ),
        FOLDER / "times.parquet",
    )
    pair = pa.struct({"key": pa.string(), "value": pa.string()})
    write(
        "tags.parquet",
        {
            "BilledCost": pa.array([1, 2, 3, 4], pa.int64()),
            "Tags": pa.array([[("a", "1"), ("b", None)], [], None, [("a", 'x"y')]], pa.map_(pa.string(), pa.string())),
            "x_list": pa.array([[{"key": "k", "value": "v"}], [], None, [None]], pa.list_(pair)),
            "x_struct": pa.array([{"n": 1.5, "t": True, "d": Decimal("1.50")}, None, None, {"n": None}],
                                 pa.struct({"n": pa.float64(), "t": pa.bool_(), "d": pa.decimal128(5, 2)})),
        },
    )
    write(
        "texts.parquet",
        {
            "billedcost": pa.array(["1", "2", "3"]),
            "ServiceName": pa.array(["a", "", None]),
            "x_bytes": pa.array([b"text", b"\xff", None], pa.binary()),
            "x_bool": pa.array([True, False, None]),
            "x_int": pa.array([-1, 2, None], pa.int8()),
            "x_large": pa.array(["l", None, ""], pa.large_string()),
            "x_coded": pa.array(["c", None, "c"]).dictionary_encode(),
            "x_null": pa.nulls(3),
        },
    )
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.execute(
        f"""COPY (SELECT 0.1::DECIMAL(18,4) AS BilledCost, 1::HUGEINT AS ListCost, TIMESTAMP_NS '2024-09-01 00:00:00' AS BillingPeriodStart,
            TIMESTAMPTZ '2024-09-01 02:00:00+02' AS BillingPeriodEnd, DATE '2024-09-01' AS ChargePeriodStart,
            MAP {{'a': '1'}} AS Tags, {{'k': [1, 2]}} AS x_nested, 'e'::ENUM('d', 'e') AS x_enum,
            UUID '00000000-0000-0000-0000-000000000001' AS x_uuid, 'b'::BLOB AS x_blob, 0.1::DOUBLE AS EffectiveCost)
            TO '{FOLDER}/duckdb.parquet' (FORMAT parquet)"""
    )


def dictionary():
    """One long text in every row."""
    rows = {"BilledCost": pa.array([1] * 400), "x_text": pa.array(["x" * 900_000] * 400)}
    pq.write_table(pa.table(rows), FOLDER / "dictionary.parquet")


{"same": same, "types": types, "dictionary": dictionary}[WHAT]()
