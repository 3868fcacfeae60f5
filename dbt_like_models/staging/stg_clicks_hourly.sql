-- Clicks of each hour, by event type: the minutes of clicks_per_minute added up. A row is an hour and a type.
SELECT
    date_trunc('hour', window_start) AS hour,
    event_type,
    sum(clicks)::BIGINT AS clicks,
    bool_and(is_final) AS is_final
FROM clicks_per_minute
GROUP BY ALL
