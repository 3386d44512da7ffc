# Rows and the exact sum of BilledCost by currency of a Delta table, as another engine reads it.
# Arguments: the table's URL or folder, and the options of its object store as JSON.
import json
import os
import sys
from collections import defaultdict
from decimal import Decimal, getcontext

from deltalake import DeltaTable

getcontext().prec = 60
table = DeltaTable(sys.argv[1], storage_options=json.loads(sys.argv[2]))
rows, sums = defaultdict(int), defaultdict(Decimal)
columns = table.to_pyarrow_table(columns=["billingcurrency", "billedcost"]).to_pydict()
for currency, billed in zip(columns["billingcurrency"], columns["billedcost"]):
    rows[currency] += 1
    sums[currency] += billed
for currency in sorted(rows):
    print(f"{currency},{rows[currency]},{sums[currency]:f}")
# pyarrow's threads may still be at work, and C++ aborts a process that leaves while they are.
sys.stdout.flush()
os._exit(0)
