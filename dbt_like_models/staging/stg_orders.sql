-- Orders as their newest event says, with the flags that reports ask for. A row is an order.
SELECT
    order_id,
    customer_id,
    currency,
    status,
    status = 'PaymentCompleted' AS is_paid,
    status = 'OrderCancelled' AS is_cancelled,
    total_cents,
    first_event_time AS ordered_at,
    last_event_time AS changed_at
FROM order_status
