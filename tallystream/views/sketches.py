"""Approximate counts and quantiles, as lists in a column that merge in any order to the same bytes.

- approx_count_distinct keeps the `SMALLEST` least hashes of the values (k minimum values; Bar-Yossef et al. 2002):
  exact below that many, then with a relative standard error of 1/sqrt(SMALLEST), 2.2 %.
- approx_quantile keeps a histogram with logarithmic buckets (DDSketch; Masson et al. 2019): the value it
  gives is within 1 % of the one that has the rank.

Both are functions of the set of events alone, and of nothing that a release of DuckDB may change: md5, counts, logarithms.
"""

from __future__ import annotations

from math import log

SMALLEST = 2048
ACCURACY = 0.01
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
# Buckets of positive numbers are above 0 whatever the number: ln(5e-324) / ln(GAMMA) is -37,200.
SHIFT = 40_000


def hashed(value: str) -> str:
    """64 bits of a value's MD5."""
    return f"md5_number_lower(CAST({value} AS VARCHAR))"


def smallest(hashes: str) -> str:
    """The least hashes of a list that may hold one twice."""
    return f"list_slice(list_sort(list_distinct({hashes})), 1, {SMALLEST})"


def distinct_of(least: str) -> str:
    """The estimate: the count itself while all hashes are kept."""
    n = f"coalesce(len({least}), 0)"
    spread = f"round({SMALLEST - 1} * (18446744073709551616.0::DOUBLE / ({least}[{SMALLEST}]::DOUBLE + 1)))"
    return f"CAST(CASE WHEN {n} < {SMALLEST} THEN {n} ELSE {spread} END AS BIGINT)"


def bucket(value: str) -> str:
    """The bucket of a number; NULL for infinity and NaN, which have no place among the others."""
    number = f"CAST({value} AS DOUBLE)"
    size = f"CAST(ceil(ln(abs({number})) / {log(GAMMA)!r}) AS INTEGER) + {SHIFT}"
    return (
        f"CASE WHEN NOT isfinite({number}) THEN NULL WHEN {number} = 0 THEN 0 "
        f"WHEN {number} > 0 THEN {size} ELSE -({size}) END"
    )


def buckets_of(value: str, keep: str) -> str:
    """The histogram of a group of rows: a list of (key: bucket, value: count); `keep`: its FILTER clause."""
    return f"map_entries(histogram({bucket(value)}){keep})"


def merged_buckets(entries: str) -> str:
    """One histogram of a list that holds buckets several times, in the order of the buckets."""
    summed = (
        f"SELECT u.key AS key, CAST(sum(u.value) AS UBIGINT) AS value FROM (SELECT unnest({entries}) AS u) GROUP BY 1"
    )
    return f"(SELECT list(struct_pack(key := key, value := value) ORDER BY key) FROM ({summed}))"


def quantile_of(entries: str, q: str) -> str:
    """The number with rank q of a histogram, NULL when it is empty."""
    ranked = (
        f"SELECT u.key AS key, sum(u.value) OVER (ORDER BY u.key) AS upto, sum(u.value) OVER () AS n "
        f"FROM (SELECT unnest({entries}) AS u)"
    )
    found = f"(SELECT min(key) FILTER (WHERE upto > ({q}) * (n - 1)) FROM ({ranked}))"
    size = f"2 * pow({GAMMA!r}, abs({found}) - {SHIFT}) / {GAMMA + 1!r}"
    return f"(CASE WHEN {found} = 0 THEN 0 ELSE sign({found}) * {size} END)"
