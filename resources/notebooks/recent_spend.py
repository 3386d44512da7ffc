# Spend a day over the last weeks: {"weeks": 2}.
#
#   curl -s --data-binary @recent_spend.py localhost:8088/compute/recent_spend/upload
#   curl -s -H 'Content-Type: application/json' -d '{"weeks": 2}' localhost:8088/compute/recent_spend
import datetime
import json

parameters = dict(argument.split("=", 1) for argument in sys.argv[5:])
weeks = int(parameters.get("weeks", "2"))

cursor.execute(
    "SELECT date_trunc('day', chargeperiodstart) AS day, billingcurrency, sum(billedcost) AS billed FROM costs "
    f"WHERE chargeperiodstart > CURRENT_TIMESTAMP - INTERVAL '{weeks} week' "
    "GROUP BY date_trunc('day', chargeperiodstart), billingcurrency ORDER BY 1, 2"
)
days = []
for day, currency, billed in cursor.fetchall():
    # Times come as milliseconds since 1970.
    day = datetime.datetime.fromtimestamp(day / 1000, datetime.timezone.utc).date().isoformat()
    days.append({"day": day, "currency": currency, "billed": billed})
print(json.dumps(days))
