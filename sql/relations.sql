-- Relations over the topics, for views to read beside `orders` and `clicks`.
-- Each is rows of single events: a projection, a filter, an unnest; of two topics, their UNION ALL.

-- One row an item of an order's event.
CREATE OR REPLACE VIEW order_items AS
SELECT
    event_id,
    event_type,
    event_time,
    order_id,
    customer_id,
    currency,
    item.product_id AS product_id,
    item.quantity AS quantity,
    item.unit_price_cents AS unit_price_cents
FROM (SELECT *, unnest(items) AS item FROM orders);

-- What a user does: every click, and the creation of every order, as one stream by user.
CREATE OR REPLACE VIEW activity AS
SELECT
    event_id,
    event_type,
    event_time,
    user_id,
    session_id,
    product_id,
    category,
    brand,
    url,
    price_cents,
    CAST(NULL AS VARCHAR) AS order_id,
    CAST(NULL AS BIGINT) AS total_cents,
    CAST(NULL AS VARCHAR) AS currency
FROM clicks
UNION ALL
SELECT
    event_id,
    event_type,
    event_time,
    customer_id AS user_id,
    CAST(NULL AS VARCHAR) AS session_id,
    CAST(NULL AS VARCHAR) AS product_id,
    CAST(NULL AS VARCHAR) AS category,
    CAST(NULL AS VARCHAR) AS brand,
    CAST(NULL AS VARCHAR) AS url,
    CAST(NULL AS BIGINT) AS price_cents,
    order_id,
    total_cents,
    currency
FROM orders
WHERE event_type = 'OrderCreated';
