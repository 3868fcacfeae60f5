-- Visits: what one user does with less than 30 minutes in between, and whether they ordered.
SELECT
    user_id,
    window_start,
    window_end,
    count(*) FILTER (WHERE event_type <> 'OrderCreated') AS clicks,
    count(*) FILTER (WHERE event_type = 'cart') AS carts,
    arg_min(url, event_time) AS first_url,
    arg_max(url, event_time) AS last_url,
    count(DISTINCT product_id) AS products,
    bool_or(event_type = 'OrderCreated') AS ordered
FROM session(activity, user_id, INTERVAL 30 MINUTES)
GROUP BY ALL
