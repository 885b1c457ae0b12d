-- How many cost records there are up to the end of a second, for as few seconds as make pages of $count: an upper bound
-- for each page, so that looking for one does not look through all that follow.
SELECT least(max(second) * 1000 + 1000, $end_ms), max(seen)
FROM (
    SELECT record.{at} // 1000 AS second, sum(count(*)) OVER (ORDER BY second)::BIGINT AS seen
    FROM charge_rows AS record
    {joins}
    WHERE record.{at} >= $start_ms AND record.{at} < $end_ms AND {where}
    GROUP BY second
)
GROUP BY seen // $count
ORDER BY 2
