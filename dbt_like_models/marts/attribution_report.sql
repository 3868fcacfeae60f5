-- Which kind of click an order followed, within 30 minutes. A row is an hour, a kind of click ('none' without) and a currency.
SELECT
    date_trunc('hour', a.order_time) AS hour,
    coalesce(a.click_type, 'none') AS click_type,
    o.currency,
    count(*) AS orders,
    sum(a.total_cents)::BIGINT AS order_cents,
    count(*) FILTER (WHERE o.is_paid) AS paid_orders,
    coalesce(sum(a.total_cents) FILTER (WHERE o.is_paid), 0)::BIGINT AS paid_cents
FROM order_attribution AS a
LEFT JOIN stg_orders AS o USING (order_id)
GROUP BY ALL
ORDER BY hour, click_type, currency
