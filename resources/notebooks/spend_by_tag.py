# What each value of a tag has cost, by service.
#
#   curl -s --data-binary @spend_by_tag.py localhost:8088/compute/spend_by_tag/upload
#   curl -s -H 'Content-Type: application/json' -d '{"tag": "org"}' localhost:8088/compute/spend_by_tag
import json

import pandas as pd

parameters = dict(argument.split("=", 1) for argument in sys.argv[5:])
tag = parameters.get("tag", "org")

# A key is a name, not a value, and cannot be bound: in quotes, a quote in it is written twice.
key = tag.replace("'", "''")
cursor.execute(
    f"SELECT tags['{key}'] AS owner, servicename, billingcurrency, sum(billedcost) AS billed "
    f"FROM costs GROUP BY tags['{key}'], servicename, billingcurrency"
)
columns = [column[0] for column in cursor.description]
spend = pd.DataFrame(cursor.fetchall(), columns=columns)
if spend.empty:
    eprint("there are no costs yet")
    print("[]")
    sys.exit(0)
spend["owner"] = spend["owner"].fillna("nobody")
spend["billed"] = spend["billed"].astype(float).round(2)
spend = spend.sort_values(["billed", "owner", "servicename"], ascending=[False, True, True])
print(json.dumps(spend.to_dict(orient="records")))
