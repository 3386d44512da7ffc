-- Spend by provider and currency. A statement is answered by the handler itself, as JSON or, with Accept: text/csv, as CSV.
--
--   curl -s --data-binary @spend.sql localhost:8088/compute/spend.sql/upload
--   curl -s -H 'Accept: text/csv' -X POST localhost:8088/compute/spend.sql
SELECT providername, billingcurrency, sum(billedcost) AS billed, count(*) AS charges
FROM costs
GROUP BY providername, billingcurrency
ORDER BY billed DESC
