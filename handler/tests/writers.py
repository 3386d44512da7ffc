"""Clients that write through the SQL door, as their users have them write: `writers.py <url>`. The DB-API cursor,
SQLAlchemy through `sqlalchemy-cratedb`, pandas. Silent when all is well."""

import datetime as dt
import sys
import warnings
from decimal import Decimal

import pandas as pd
import sqlalchemy as sa
from crate import client
from crate.client.exceptions import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session, declarative_base
from sqlalchemy_cratedb import ObjectArray, ObjectType
from sqlalchemy_cratedb.support import insert_bulk

# pandas asks for an index that CrateDB does not have.
warnings.filterwarnings("ignore", message="CrateDB does not support `CREATE INDEX`")

url = sys.argv[1]
NOVEMBER = 1793491200000


def same(got, expected, what):
    if got != expected:
        sys.exit(f"{what}: {got!r} instead of {expected!r}")


def fails(kind, text, call, *args):
    try:
        call(*args)
    except kind as error:
        if text not in str(error):
            sys.exit(f"{args}: {error} does not say {text}")
    else:
        sys.exit(f"{args} did not fail")


def cursors():
    connection = client.connect(url, timeout=60)
    cursor = connection.cursor()

    def rows(statement, *args):
        cursor.execute(statement, args)
        return cursor.fetchall()

    # As a published notebook has it, word for word.
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS annotations (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')"
    )
    same(cursor.rowcount, 1, "a table")
    upsert = "INSERT INTO annotations (id, keys) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys"
    for keys in [{"team": "blue"}, {"team": "red", "n": 1, "more": {"list": [1, 2]}}]:
        cursor.execute(upsert, ("a", keys))
        same(cursor.rowcount, 1, "an upsert")
    cursor.execute("REFRESH TABLE annotations")
    same(rows("SELECT id, keys FROM annotations"), [["a", {"team": "red", "n": 1, "more": {"list": [1, 2]}}]], "a row")
    same(rows("SELECT keys['team'], keys['n'], keys['nobody'] FROM annotations WHERE keys['n'] = ?", 1), [["red", 1, None]], "keys")

    results = cursor.executemany(upsert, [("a", {"team": "x"}), ("b", {"team": "y"}), ("b", {"team": "z"})])
    same([result["rowcount"] for result in results], [1, 1, 1], "many upserts")
    same(cursor.rowcount, 3, "their number")
    same(rows("SELECT keys['team'] FROM annotations ORDER BY id"), [["x"], ["z"]], "what they leave")
    results = cursor.executemany("INSERT INTO annotations (id, note) VALUES (?, ?)", [("b", "no"), ("c", "yes")])
    same([result["rowcount"] for result in results], [-2, 1], "a row that is there, and one that is not")
    same(results[0]["error"]["code"], 4091, "its error")
    fails(IntegrityError, "DuplicateKeyException", cursor.execute, "INSERT INTO annotations (id) VALUES ('c')")
    fails(ProgrammingError, "RelationAlreadyExists", cursor.execute, "CREATE TABLE annotations (id int)")
    same(rows("SELECT note FROM annotations WHERE id = 'c'"), [["yes"]], "a column that came with its first value")

    # Names and values with whatever is in them.
    strange = "'; DROP TABLE annotations; -- \" \U0001f600\u0000\n" + "x" * 10_000
    cursor.execute('INSERT INTO annotations (id, "Strange Name") VALUES (?, ?)', (strange, strange))
    same(rows('SELECT "Strange Name" FROM annotations WHERE id = ?', strange), [[strange]], "strange text")
    fails(ProgrammingError, "InvalidColumnName", cursor.execute, f'INSERT INTO annotations (id, "{"x" * 10_000}") VALUES (1, 1)')

    # Types.
    cursor.execute("CREATE TABLE typed (n numeric(38, 18), at timestamp with time zone, day timestamp, l array(text))")
    exact = Decimal("12345678901234567890.123456789012345678")
    now = dt.datetime(2026, 11, 1, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    cursor.execute("INSERT INTO typed VALUES (?, ?, ?, ?)", (exact, now, dt.date(2026, 11, 1), ["a", None]))
    same(rows("SELECT n::text, at, day, l FROM typed"), [[str(exact), NOVEMBER + 41_400_000, NOVEMBER, ["a", None]]], "types")
    same(rows("SELECT count(*) FROM typed WHERE at > CURRENT_TIMESTAMP - INTERVAL '100 year'"), [[1]], "an interval")

    # From one table into another, and away again.
    cursor.execute("CREATE TABLE sums (service text PRIMARY KEY, billed numeric(38, 18))")
    cursor.execute("INSERT INTO sums (SELECT servicename, sum(billedcost) FROM costs GROUP BY servicename)")
    same(cursor.rowcount, 2, "rows of a query")
    cursor.execute("UPDATE sums SET billed = billed * 2 WHERE service = %(service)s", {"service": "storage"})
    same(rows("SELECT billed FROM sums WHERE service = 'storage'"), [[3.0]], "an update")
    cursor.execute("DELETE FROM sums WHERE service = ?", ("compute",))
    same((cursor.rowcount, rows("SELECT count(*) FROM sums")), (1, [[1]]), "a deletion")
    for table in ["annotations", "typed", "sums"]:
        cursor.execute(f"DROP TABLE {table}")
    same(rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'doc'"), [["costs"]], "tables")
    connection.close()


def sqlalchemy():
    engine = sa.create_engine(f"crate://{url.removeprefix('http://')}", connect_args={"timeout": 60})
    base = declarative_base()

    class Note(base):
        __tablename__ = "notes"
        id = sa.Column(sa.String, primary_key=True)
        keys = sa.Column(ObjectType)
        number = sa.Column(sa.Integer, default=1)
        cost = sa.Column(sa.Numeric(20, 4))
        at = sa.Column(sa.DateTime, server_default=sa.func.now())
        parts = sa.Column(ObjectArray)

    base.metadata.create_all(engine)
    base.metadata.create_all(engine)
    before = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - dt.timedelta(minutes=5)
    with Session(engine) as session:
        session.add(Note(id="a", keys={"x": 1, "y": "z"}, cost=Decimal("1.2345")))
        session.commit()
        session.add_all([Note(id="b", keys={"x": 2}, parts=[{"p": 1}]), Note(id="c", number=7)])
        session.commit()
        same([note.id for note in session.query(Note).filter(Note.keys["x"] == 2)], ["b"], "a note by its key")
        note = session.query(Note).filter_by(id="a").one()
        same((note.keys, note.number, note.cost, note.at > before), ({"x": 1, "y": "z"}, 1, Decimal("1.2345"), True), "a note")
        note.keys["x"] = 5
        session.commit()
        session.refresh(note)
        same(note.keys, {"x": 5, "y": "z"}, "a note whose key was changed")
        session.execute(sa.update(Note).where(Note.id == "b").values(number=Note.number + 1))
        session.commit()
        same(session.query(Note.number, Note.parts).filter_by(id="b").one(), (2, [{"p": 1}]), "an update")
        session.delete(session.query(Note).filter_by(id="c").one())
        session.commit()
        same(session.query(sa.func.count(Note.id)).scalar(), 2, "a deletion")
    inspector = sa.inspect(engine)
    same([column["name"] for column in inspector.get_columns("notes")], ["id", "keys", "number", "cost", "at", "parts"], "columns")
    same(set(inspector.get_pk_constraint("notes")["constrained_columns"]), {"id"}, "the key")
    same("notes" in inspector.get_table_names(), True, "the table")
    base.metadata.drop_all(engine)
    same(sa.inspect(engine).get_table_names(), ["costs"], "tables")
    return engine


def frames(engine):
    frame = pd.DataFrame(
        {
            "id": range(2500),
            "Service Name": [f"service {number % 7}" if number % 5 else None for number in range(2500)],
            "cost": [number / 4 if number % 3 else float("nan") for number in range(2500)],
            "at": pd.date_range("2026-11-01", periods=2500, freq="h"),
            "ok": [number % 2 == 0 for number in range(2500)],
        }
    )

    def read(query):
        return pd.read_sql(query, engine, parse_dates={"at": {"unit": "ms"}})

    for method in [None, "multi", insert_bulk]:
        frame.to_sql("frame", engine, if_exists="replace", index=False, method=method, chunksize=1000)
        stored = read("SELECT * FROM frame ORDER BY id")
        same(list(stored.columns), list(frame.columns), "columns of a frame")
        for column in ["id", "cost", "ok"]:
            same(stored[column].equals(frame[column]), True, f"{column} of a frame by {method}")
        same((stored["at"] == frame["at"]).all(), True, f"times of a frame by {method}")
        same((stored["Service Name"].fillna("") == frame["Service Name"].fillna("")).all(), True, "text of a frame")
    frame.head(10).to_sql("frame", engine, if_exists="append", index=False)
    same(int(pd.read_sql("SELECT count(*) AS n FROM frame", engine)["n"][0]), 2510, "an appended frame")
    same(len(pd.read_sql_table("frame", engine, columns=["id", "at"])), 2510, "a table as a frame")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE frame"))
    services = pd.read_sql("SELECT servicename, billedcost FROM costs WHERE x_row > 1", engine)
    same(services.groupby("servicename")["billedcost"].sum().to_dict(), {"compute": 0.25, "storage": 1.5}, "costs as a frame")


cursors()
frames(sqlalchemy())
