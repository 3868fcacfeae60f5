-- What each customer has paid so far. A row is a customer and a currency; cents of two currencies are never added.
SELECT
    customer_id,
    currency,
    count(*) AS orders,
    count(*) FILTER (WHERE is_paid) AS paid_orders,
    count(*) FILTER (WHERE is_cancelled) AS cancelled_orders,
    coalesce(sum(total_cents) FILTER (WHERE is_paid), 0)::BIGINT AS paid_cents,
    (sum(total_cents) FILTER (WHERE is_paid) // nullif(count(*) FILTER (WHERE is_paid), 0))::BIGINT AS average_paid_cents,
    min(ordered_at) AS first_order_at,
    max(ordered_at) AS last_order_at
FROM stg_orders
GROUP BY ALL
ORDER BY paid_cents DESC, customer_id, currency
