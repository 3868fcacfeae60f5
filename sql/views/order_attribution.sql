-- Each order with the last click of its customer at or before it, at most 30 minutes older. One row an order.
SELECT
    o.order_id,
    o.customer_id,
    o.event_time AS order_time,
    o.total_cents,
    CASE WHEN c.event_time >= o.event_time - INTERVAL 30 MINUTES THEN c.event_id END AS click_id,
    CASE WHEN c.event_time >= o.event_time - INTERVAL 30 MINUTES THEN c.event_type END AS click_type,
    CASE WHEN c.event_time >= o.event_time - INTERVAL 30 MINUTES THEN c.event_time END AS click_time,
    CASE WHEN c.event_time >= o.event_time - INTERVAL 30 MINUTES THEN c.product_id END AS click_product_id
FROM orders AS o
ASOF LEFT JOIN clicks AS c
    ON o.customer_id = c.user_id AND o.event_time >= c.event_time
WHERE o.event_type = 'OrderCreated'
