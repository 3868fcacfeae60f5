"""Views that cannot be kept: by name, what their files hold. Run as a module it prints what is said of each."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tallystream.errors import ViewError
from tallystream.views.loader import load_view

TUMBLE = "FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL"
BOTH = "orders AS o ASOF LEFT JOIN clicks AS c ON o.customer_id = c.user_id AND o.event_time >= c.event_time"

REFUSED: dict[str, str] = {
    # no query, or not one
    "empty": "",
    "only_a_comment": "-- nothing here",
    "syntax": "SELECT count(*) AS n\nFORM clicks",
    "unclosed": "SELECT count(* AS n FROM clicks",
    "two_statements": "SELECT count(*) AS n FROM clicks; SELECT 1",
    "ddl": "CREATE TABLE t (a INTEGER)",
    "drop": "DROP TABLE clicks",
    "insert": "INSERT INTO clicks SELECT * FROM clicks",
    "copy": "COPY (SELECT 1) TO 'out.csv'",
    "attach": "ATTACH 'other.duckdb'",
    "pragma": "PRAGMA database_list",
    "no_from": "SELECT 1 AS one",
    "values": "VALUES (1), (2)",
    # what it reads
    "unknown_table": "SELECT count(*) AS n\nFROM payments",
    "unknown_table_in_window": "SELECT window_start, count(*) AS n FROM tumble(payments, INTERVAL 1 MINUTE) GROUP BY ALL",
    "other_schema": "SELECT count(*) AS n FROM ledger.offsets",
    "another_view": "SELECT sum(clicks) AS n FROM clicks_per_minute",
    "a_file": "SELECT count(*) AS n FROM 'orders.csv'",
    "read_csv": "SELECT count(*) AS n FROM read_csv('/etc/passwd')",
    "read_text_in_where": "SELECT count(*) AS n FROM clicks WHERE url = (SELECT content FROM read_text('/etc/hostname'))",
    "range": "SELECT count(*) AS n FROM range(10)",
    "plain_join": "SELECT count(*) AS n FROM orders o JOIN clicks c ON o.customer_id = c.user_id",
    "cross_join": "SELECT count(*) AS n FROM orders, clicks",
    "subquery": "SELECT count(*) AS n FROM (SELECT * FROM clicks)",
    "in_subquery": "SELECT count(*) AS n FROM clicks\nWHERE user_id IN (SELECT customer_id FROM orders)",
    "exists": "SELECT count(*) AS n FROM clicks WHERE EXISTS (SELECT 1 FROM orders)",
    "with": "WITH c AS (SELECT * FROM clicks) SELECT count(*) AS n FROM c",
    "union": "SELECT count(*) AS n FROM clicks UNION ALL SELECT count(*) FROM orders",
    "unnest": "SELECT unnest(items) AS item, count(*) AS n FROM orders GROUP BY ALL",
    "lateral": "SELECT i.product_id, count(*) AS n FROM orders, unnest(items) AS u(i) GROUP BY ALL",
    "tablesample": "SELECT count(*) AS n FROM clicks TABLESAMPLE 10%",
    "text_in_window": "SELECT window_start, count(*) AS n FROM tumble('clicks', INTERVAL 1 MINUTE) GROUP BY ALL",
    "columns_renamed": "SELECT event_type, count(*) AS n FROM clicks AS c(event_type, event_id) GROUP BY ALL",
    "columns_renamed_in_join": "SELECT o.order_id, c.url FROM orders o ASOF LEFT JOIN clicks AS c(url, event_id) "
    "ON o.customer_id = c.user_id AND o.event_time >= c.event_time",
    # columns and names
    "unknown_column": "SELECT window_start,\n    sum(amount) AS n\n" + TUMBLE,
    "unknown_function": f"SELECT window_start, frobnicate(url) AS u, count(*) AS n {TUMBLE}",
    "star": "SELECT * FROM clicks",
    "no_aggregate": "SELECT DISTINCT user_id FROM clicks",
    "only_keys": f"SELECT window_start, user_id {TUMBLE}",
    "name_twice": f"SELECT window_start, count(*) AS n, sum(price_cents) AS N {TUMBLE}",
    "name_is_ours": f"SELECT window_start, count(*) AS is_final {TUMBLE}",
    "name_with_underscore": f"SELECT window_start, count(*) AS _n {TUMBLE}",
    "name_of_two": "SELECT brand AS category, category AS brand, count(*) AS n\nFROM clicks GROUP BY ALL\nHAVING brand IS NOT NULL",
    "any_of_list": "SELECT count(*) AS n FROM clicks WHERE price_cents = ANY([1, 2])",
    "collate": "SELECT brand COLLATE NOCASE AS b, count(*) AS n FROM clicks GROUP BY ALL",
    "bit_key": "SELECT price_cents::BIT AS b, count(*) AS n FROM clicks GROUP BY ALL",
    "sum_too_wide": f"SELECT window_start, sum(price_cents::HUGEINT) AS n {TUMBLE}",
    "decimals_too_wide": "SELECT sum(price_cents::DECIMAL(38, 0)) AS n FROM clicks",
    "distinct_tuple": f"SELECT window_start, count(DISTINCT (user_id, brand)) AS n {TUMBLE}",
    "try_of_try": "SELECT TRY(CAST(url AS INT)) AS u, count(*) AS n FROM clicks GROUP BY ALL",
    "ungrouped": "SELECT user_id, count(*) AS n FROM clicks",
    "grouped_not_selected": "SELECT window_start, count(*) AS n FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY window_start, user_id",
    "selected_not_grouped": "SELECT user_id, brand, count(*) AS n FROM clicks GROUP BY user_id",
    "rollup": "SELECT user_id, count(*) AS n FROM clicks GROUP BY ROLLUP (user_id)",
    "ambiguous": "SELECT o.order_id, event_id AS click_id FROM " + BOTH,
    # windows
    "window_not_selected": f"SELECT user_id, count(*) AS n {TUMBLE}",
    "window_renamed": f"SELECT window_start AS minute, count(*) AS n {TUMBLE}",
    "window_column_without_window": "SELECT window_start, count(*) AS n FROM clicks GROUP BY ALL",
    "window_in_where": "SELECT window_start, count(*) AS n FROM tumble(clicks, INTERVAL 1 MINUTE) WHERE window_start > TIMESTAMP '2026-01-01' GROUP BY ALL",
    "window_in_aggregate": f"SELECT window_start, max(event_time - window_start) AS n {TUMBLE}",
    "window_of_months": "SELECT window_start, count(*) AS n FROM tumble(clicks, INTERVAL 1 MONTH) GROUP BY ALL",
    "window_of_nothing": "SELECT window_start, count(*) AS n FROM tumble(clicks, INTERVAL 0 SECONDS) GROUP BY ALL",
    "window_of_a_number": "SELECT window_start, count(*) AS n FROM tumble(clicks, 60) GROUP BY ALL",
    "window_arguments": "SELECT window_start, count(*) AS n FROM hop(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "window_argument_name": "SELECT window_start, count(*) AS n FROM tumble(clicks, INTERVAL 1 MINUTE, origin := INTERVAL 1 SECOND) GROUP BY ALL",
    "unknown_window": "SELECT window_start, count(*) AS n FROM slide(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "session_without_its_key": "SELECT window_start, count(*) AS n FROM session(clicks, user_id, INTERVAL 1 MINUTE) GROUP BY ALL",
    # clauses
    "order_by": f"SELECT window_start, count(*) AS n {TUMBLE} ORDER BY n",
    "limit": f"SELECT window_start, count(*) AS n {TUMBLE} LIMIT 10",
    "offset": f"SELECT window_start, count(*) AS n {TUMBLE} OFFSET 10",
    "qualify": f"SELECT window_start, count(*) AS n {TUMBLE} QUALIFY row_number() OVER (ORDER BY count(*)) < 3",
    "over": f"SELECT window_start, count(*) AS n, sum(count(*)) OVER (ORDER BY window_start) AS upto {TUMBLE}",
    "having_a_column": "SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id HAVING brand = 'x'",
    "aggregate_in_where": "SELECT user_id, count(*) AS n FROM clicks WHERE count(*) > 1 GROUP BY ALL",
    "parameter": "SELECT count(*) AS n FROM clicks WHERE user_id = ?",
    # another answer each time
    "random": f"SELECT window_start, count(*) FILTER (WHERE random() < 0.5) AS n {TUMBLE}",
    "now": "SELECT count(*) AS n FROM clicks\nWHERE event_time > now() - INTERVAL 1 HOUR",
    "current_timestamp": "SELECT count(*) AS n FROM clicks WHERE event_time > current_timestamp",
    "current_date": "SELECT count(*) AS n FROM clicks WHERE event_time > current_date",
    "uuid": "SELECT uuid() AS u, count(*) AS n FROM clicks GROUP BY ALL",
    "getenv": "SELECT getenv('HOME') AS h, count(*) AS n FROM clicks GROUP BY ALL",
    "nextval": "SELECT nextval('s') AS h, count(*) AS n FROM clicks GROUP BY ALL",
    # aggregates that have no parts
    "median": f"SELECT window_start, median(price_cents) AS m {TUMBLE}",
    "percentile": f"SELECT window_start, percentile_cont(0.5) WITHIN GROUP (ORDER BY price_cents) AS m {TUMBLE}",
    "mode": f"SELECT window_start, mode(brand) AS m {TUMBLE}",
    "first": f"SELECT window_start, first(brand) AS b {TUMBLE}",
    "any_value": f"SELECT window_start, any_value(brand) AS b {TUMBLE}",
    "string_agg": f"SELECT window_start, string_agg(url, ',') AS urls {TUMBLE}",
    "list": f"SELECT window_start, list(url) AS urls {TUMBLE}",
    "stddev": f"SELECT window_start, stddev(price_cents) AS s {TUMBLE}",
    "sum_of_doubles": f"SELECT window_start, sum(price_cents * 1.5::DOUBLE) AS s {TUMBLE}",
    "avg_of_doubles": f"SELECT window_start,\n    avg(sqrt(price_cents)) AS s {TUMBLE}",
    "sum_of_text": f"SELECT window_start, sum(brand) AS s {TUMBLE}",
    "sum_distinct": f"SELECT window_start, sum(DISTINCT price_cents) AS s {TUMBLE}",
    "distinct_of_two": f"SELECT window_start, count(DISTINCT (user_id, brand)) AS s, count(DISTINCT user_id, brand) AS t {TUMBLE}",
    "distinct_for_ever": "SELECT count(DISTINCT user_id) AS users FROM clicks",
    "nested": f"SELECT window_start, sum(count(*)) AS s {TUMBLE}",
    "ordered": f"SELECT window_start, arg_max(url, event_time ORDER BY event_id) AS s {TUMBLE}",
    "arg_max_of_three": f"SELECT window_start, arg_max(url, event_time, 3) AS s {TUMBLE}",
    "quantile_of_a_column": f"SELECT window_start, approx_quantile(price_cents, price_cents) AS s {TUMBLE}",
    "quantile_beyond_one": f"SELECT window_start, approx_quantile(price_cents, 1.5) AS s {TUMBLE}",
    # attributions
    "asof_right": "SELECT o.order_id FROM orders o ASOF RIGHT JOIN clicks c ON o.customer_id = c.user_id AND o.event_time >= c.event_time",
    "asof_using": "SELECT o.order_id FROM orders o ASOF JOIN clicks c USING (event_id, event_time)",
    "asof_without_key": "SELECT o.order_id FROM orders o ASOF JOIN clicks c ON o.event_time >= c.event_time",
    "asof_on_price": "SELECT o.order_id FROM orders o ASOF JOIN clicks c ON o.customer_id = c.user_id AND o.total_cents >= c.price_cents",
    "asof_aggregate": f"SELECT count(*) AS n FROM {BOTH}",
    "asof_grouped": f"SELECT c.brand, count(*) AS n FROM {BOTH} GROUP BY ALL",
    "asof_where_right": f"SELECT o.order_id FROM {BOTH}\nWHERE c.brand = 'x'",
    "asof_forward_for_ever": "SELECT o.order_id, c.event_id FROM orders o ASOF LEFT JOIN clicks c ON o.customer_id = c.user_id AND o.event_time <= c.event_time",
    "asof_one_name": "SELECT c.event_id FROM clicks ASOF JOIN clicks ON user_id = user_id AND event_time >= event_time",
    "asof_two_joins": f"SELECT o.order_id FROM {BOTH} ASOF JOIN clicks AS d ON o.customer_id = d.user_id AND o.event_time >= d.event_time",
}  # fmt: skip


def told(name: str) -> str:
    """What is said of a view; empty when it is not refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.sql"
        path.write_text(REFUSED[name], encoding="utf-8")
        try:
            load_view(path)
        except ViewError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    for name in REFUSED:
        print(told(name))
