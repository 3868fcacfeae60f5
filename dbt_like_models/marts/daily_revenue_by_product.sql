-- What each product brought in on each day. A row is a day (UTC), a product and a currency.
SELECT
    ordered_at::DATE AS day,
    product_id,
    currency,
    count(DISTINCT order_id) AS orders,
    sum(quantity)::BIGINT AS quantity,
    sum(revenue_cents)::BIGINT AS revenue_cents
FROM stg_order_lines
GROUP BY ALL
ORDER BY day, revenue_cents DESC, product_id, currency
