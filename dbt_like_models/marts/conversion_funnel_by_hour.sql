-- From looking to paying, hour by hour. A row is an hour of event time; an order counts in the hour it was made.
WITH clicks AS (
    SELECT
        hour,
        coalesce(sum(clicks) FILTER (WHERE event_type = 'view'), 0)::BIGINT AS views,
        coalesce(sum(clicks) FILTER (WHERE event_type = 'cart'), 0)::BIGINT AS carts,
        bool_and(is_final) AS clicks_are_final
    FROM stg_clicks_hourly
    GROUP BY ALL
),
orders AS (
    SELECT
        date_trunc('hour', ordered_at) AS hour,
        count(*) AS orders,
        count(*) FILTER (WHERE is_paid) AS paid,
        count(*) FILTER (WHERE is_cancelled) AS cancelled
    FROM stg_orders
    GROUP BY ALL
)
SELECT
    hour,
    coalesce(views, 0)::BIGINT AS views,
    coalesce(carts, 0)::BIGINT AS carts,
    coalesce(orders, 0)::BIGINT AS orders,
    coalesce(paid, 0)::BIGINT AS paid,
    coalesce(cancelled, 0)::BIGINT AS cancelled,
    round(carts / nullif(views, 0), 4) AS cart_rate,
    round(orders / nullif(carts, 0), 4) AS order_rate,
    round(paid / nullif(orders, 0), 4) AS paid_rate,
    coalesce(clicks_are_final, false) AS clicks_are_final
FROM clicks
FULL JOIN orders USING (hour)
ORDER BY hour
