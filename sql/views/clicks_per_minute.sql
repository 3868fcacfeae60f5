-- Clicks of each minute, by event type and category.
SELECT
    window_start,
    window_end,
    event_type,
    category,
    count(*) AS clicks
FROM tumble(clicks, INTERVAL 1 MINUTE)
GROUP BY ALL
