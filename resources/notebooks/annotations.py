# Notes on resources, in a small table of this notebook's own: {"id": "vm-1", "owner": "ann"} keeps one, {"id": "vm-1",
# "delete": true} takes it away, {} shows them all.
#
#   curl -s --data-binary @annotations.py localhost:8088/compute/annotations/upload
#   curl -s -H 'Content-Type: application/json' -d '{"id": "vm-1", "owner": "ann"}' localhost:8088/compute/annotations
import json

parameters = dict(argument.split("=", 1) for argument in sys.argv[5:])

cursor.execute(
    "CREATE TABLE IF NOT EXISTS annotations (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')"
)
if "id" in parameters:
    name = parameters.pop("id")
    if parameters.pop("delete", "false") == "true":
        cursor.execute("DELETE FROM annotations WHERE id = ?", (name,))
    else:
        cursor.execute(
            "INSERT INTO annotations (id, keys) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys",
            (name, parameters),
        )
    cursor.execute("REFRESH TABLE annotations")
cursor.execute('SELECT id, keys FROM "doc"."annotations" ORDER BY id')
print(json.dumps([{"id": name, "keys": keys} for name, keys in cursor.fetchall()]))
