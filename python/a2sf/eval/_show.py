"""Tables for terminals."""

from __future__ import annotations

from ._kinds import Table


def as_markdown(table: Table) -> str:
    """Write a table so that it reads well as it is, and as Markdown."""
    lines = [[str(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    text = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"{table.title}\n", *text, *([f"\n{table.note}"] if table.note else [])])
