-- Lines of new orders, each event once, from the archive: late orders included. A row is a product of an order.
WITH created AS (
    SELECT event_id, event_time, order_id, currency, items
    FROM archive.orders
    WHERE event_type = 'OrderCreated'
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY partition, "offset") = 1
),
lines AS (
    SELECT event_time AS ordered_at, order_id, currency, unnest(items) AS item
    FROM created
)
SELECT
    order_id,
    ordered_at,
    currency,
    item.product_id AS product_id,
    sum(item.quantity)::BIGINT AS quantity,
    sum(item.quantity * item.unit_price_cents)::BIGINT AS revenue_cents
FROM lines
GROUP BY ALL
