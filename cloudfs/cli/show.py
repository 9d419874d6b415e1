"""How people like to see numbers and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table; the last column is as long as it is.  What a terminal might take
    for orders is shown as ?, since others may have written it."""
    rows = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def size(count: float) -> str:
    """Bytes as 12M."""
    for unit in ("", "K", "M", "G", "T"):
        if count < 1000:
            return f"{count:.1f}{unit}" if unit and count < 10 else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.0f}P"


def duration(seconds: float) -> str:
    """Seconds of a way as 0.25ms, 12.3ms, 1.20s."""
    if seconds >= 1:
        return f"{seconds:.2f}s"
    return f"{seconds * 1e3:.1f}ms" if seconds >= 0.01 else f"{seconds * 1e3:.2f}ms"


def rate(bytes_a_second: float) -> str:
    """As networks are sold: 100Mbit/s, 1.5Gbit/s."""
    bits = bytes_a_second * 8
    for unit in ("", "k", "M", "G"):
        if bits < 999.5:
            return f"{bits:.3g}{unit}bit/s"
        bits /= 1000
    return f"{bits:.3g}Tbit/s"


def span(seconds: float) -> str:
    """Seconds as 1.2s, 45s, 12m, 3h, 6d."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    for unit, length in (("s", 60), ("m", 60), ("h", 48)):
        if seconds < length:
            return f"{seconds:.0f}{unit}"
        seconds /= 24 if unit == "h" else 60
    return f"{seconds:.0f}d"
