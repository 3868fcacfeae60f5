"""The month's figures as a page and a plot: SVG by hand, a panel for each figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    ("rows in hot tables (windows)", ("hot",), 1.0, ""),
    ("commit, CPU time, p50 and p99", ("commit_cpu_p50_ms", "commit_cpu_p99_ms"), 1.0, " ms"),
    ("file", ("file_bytes",), 1e-6, " MB"),
    ("rows in cold tables", ("cold",), 1.0, ""),
)
COLOURS = ("#1f6feb", "#d1495b")
WIDTH, HEIGHT, GAP = 340, 150, 60


def plot(days: list[dict[str, Any]]) -> str:
    """Four panels, two a row; each from zero to its maximum."""
    parts = []
    for number, (title, names, scale, unit) in enumerate(PANELS):
        x0, y0 = 70 + number % 2 * (WIDTH + GAP + 20), 40 + number // 2 * (HEIGHT + GAP)
        top = max(d[n] * scale for d in days for n in names) or 1.0
        parts.append(f'<text x="{x0}" y="{y0 - 12}" font-weight="bold">{title}</text>')
        parts.append(f'<rect x="{x0}" y="{y0}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y0 + 10}" text-anchor="end">{top:,.0f}{unit}</text>')
        parts.append(f'<text x="{x0 - 6}" y="{y0 + HEIGHT}" text-anchor="end">0</text>')
        parts.append(f'<text x="{x0 + WIDTH}" y="{y0 + HEIGHT + 16}" text-anchor="end">day {days[-1]["day"]}</text>')
        for colour, name in zip(COLOURS, names, strict=False):
            step = WIDTH / max(len(days) - 1, 1)
            line = " ".join(
                f"{x0 + i * step:.1f},{y0 + HEIGHT * (1 - d[name] * scale / top):.1f}" for i, d in enumerate(days)
            )
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    size = f'width="{2 * (WIDTH + GAP) + 80}" height="{2 * (HEIGHT + GAP) + 40}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def write(days: list[dict[str, Any]], events: dict[str, int], docs: Path) -> None:
    """docs/benchmarks-month.md and docs/img/month.svg."""
    (docs / "img").mkdir(exist_ok=True)
    (docs / "img" / "month.svg").write_text(plot(days))
    columns = (
        "day",
        "hot",
        "cold",
        "others",
        "commit_rows",
        "file_bytes",
        "commit_p50_ms",
        "commit_p99_ms",
        "commit_cpu_p50_ms",
        "commit_cpu_p99_ms",
        "compact_ms",
        "longest_step_ms",
    )
    shown = [d for d in days if d["day"] in (1, 2) or d["day"] % 5 == 0]
    lines = [
        "# A month of stream",
        "",
        f"`python -m benchmarks.month`: {len(days)} days of event time; a commit holds an hour "
        f"({' and '.join(f'{n} {t}' for t, n in events.items())}), compaction runs each twelve hours of it. All shipped views.",
        "",
        "![State, commits and file over a month](img/month.svg)",
        "",
        "`hot`: rows of open windows. `others`: members and clicks kept for a week to amend final rows, and `order_status`, which has "
        "a row for each order there ever was. `cold`: final rows, which are the history itself. CPU time is that of "
        "all threads of the process: other work on the machine does not show in it. `longest_step_ms`: how long a live commit "
        "would have waited at most for one step of a compaction, wall time.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "--:|" * len(columns),
        *(
            "| " + " | ".join(f"{d[c]:,.1f}" if isinstance(d[c], float) else f"{d[c]:,}" for c in columns) + " |"
            for d in shown
        ),
        "",
    ]
    (docs / "benchmarks-month.md").write_text("\n".join(lines))
