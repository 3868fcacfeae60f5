-- The read model of an order: one row an order, as its newest event says.
SELECT
    order_id,
    arg_max(customer_id, event_time) AS customer_id,
    arg_max(event_type, event_time) AS status,
    arg_max(total_cents, event_time) AS total_cents,
    arg_max(currency, event_time) AS currency,
    min(event_time) AS first_event_time,
    max(event_time) AS last_event_time,
    count(*) AS events
FROM orders
GROUP BY ALL
