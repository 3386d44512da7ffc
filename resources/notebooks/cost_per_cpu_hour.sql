-- What an hour of CPU used costs, machine by machine: the billed cost of the days that usage is known of, by the hours for
-- which the machine's CPU would have been fully busy. A machine that is paid for and idle stands first.
--
--   curl -s --data-binary @cost_per_cpu_hour.sql localhost:8088/compute/cost_per_cpu_hour.sql/upload
--   curl -s -H 'Accept: text/csv' -X POST localhost:8088/compute/cost_per_cpu_hour.sql
WITH billed AS (
    -- Providers write one resource's id in several ways.
    SELECT LOWER(resourceid) AS machine, DATE_TRUNC('day', chargeperiodstart) AS day, billingcurrency,
           SUM(billedcost) AS billed
    FROM costs
    WHERE resourcetype = 'Virtual machine'
    GROUP BY 1, 2, 3
), used AS (
    -- Each point is the average of a quarter of an hour, in percent of the whole machine.
    SELECT LOWER(resourceid) AS machine, DATE_TRUNC('day', "timestamp") AS day, SUM(average) AS percent_quarters
    FROM usage
    WHERE metricname = 'Percentage CPU'
    GROUP BY 1, 2
)
SELECT machine, billingcurrency, SUM(billed) AS billed, CAST(SUM(percent_quarters) AS DOUBLE) / 400 AS cpu_hours,
       CAST(SUM(billed) AS DOUBLE) / (CAST(SUM(percent_quarters) AS DOUBLE) / 400) AS cost_per_cpu_hour
FROM billed JOIN used USING (machine, day)
GROUP BY machine, billingcurrency
ORDER BY cost_per_cpu_hour DESC, machine
