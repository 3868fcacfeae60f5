"""A writer loads its views in several threads: for a redrive, a compaction and a promotion at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tallystream.views.loader import load_views


def test_threads_do_not_disturb_each_other():
    alone = load_views()
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load_views(), range(12)))
    assert all(plans == alone for plans in loaded)
