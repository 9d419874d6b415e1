"""A picture of the network: nodes at their coordinates, ways coloured by their time.  Pure.

A coordinate has more than two dimensions; the picture shows the two along which the nodes
lie farthest apart (principal components, by power iteration), in one scale, so that a
distance on it is at most the time between two places.  What a node's access link adds, its
height, is in its title only.  The text is SVG of a bounded size however many nodes there
are: those that were measured are drawn first, then others by chance, but always the same.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.figure import Known

MOST = 400  # nodes that are drawn
NAMED = 120  # nodes drawn with their names; with more, names are in titles only
WIDTH, HEIGHT, EDGE = 900, 640, 60  # pixels; the legend stands below
LABEL, LINE = 7, 13  # pixels of a letter, and from one name to the next
NAME = 24  # letters of a name that are shown
LEAST = 1e-4  # seconds that the picture is wide at least
ROUNDS = 32  # of power iteration
# Seconds up to which a way has a colour: from green over yellow to red, also in grey.
COLOURS = (
    (0.001, "#1a9850"),
    (0.005, "#66bd63"),
    (0.02, "#a6d96a"),
    (0.05, "#fdc05f"),
    (0.1, "#f98e52"),
    (0.2, "#e34a33"),
    (math.inf, "#a50026"),
)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Star:
    """A node to draw.  known: the time to it from here, None where nobody knows."""

    name: str
    place: Coordinate
    known: Known | None = None


def svg(here: Star, others: Sequence[Star], of: int) -> str:
    """The picture, from the node `here`.  of: how many other nodes there are."""
    stars = [here, *others]
    points = _fit(flat([star.place.place for star in stars]))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT + EDGE}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT + EDGE}" font-family="sans-serif" font-size="12">',
        f"<title>The network as {_safe(here.name)} knows it</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT + EDGE}" fill="#fff"/>',
    ]
    far_first = sorted(zip(others, points[1:], strict=True), key=lambda pair: _seconds(pair[0]))
    for star, point in reversed(far_first):
        lines += _way(points[0], point, here, star)
    names = len(stars) <= NAMED
    taken: list[Point] = []
    for star, point in zip(stars, points, strict=True):
        lines += _dot(star, point, star is here, names, taken)
    lines += _legend(len(others), of)
    return "\n".join([*lines, "</svg>"]) + "\n"


def choose(names: Collection[str], first: Callable[[str], bool]) -> list[str]:
    """The nodes that are drawn: those that are first, then others by chance."""
    if len(names) <= MOST:
        return sorted(names)

    def order(name: str) -> tuple[bool, bytes]:
        lot = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()
        return not first(name), lot

    return sorted(heapq.nsmallest(MOST, names, key=order))


def flat(places: Sequence[Sequence[float]]) -> list[Point]:
    """The places seen so that they lie farthest apart, around (0, 0)."""
    dims = len(places[0])
    middle = [sum(place[d] for place in places) / len(places) for d in range(dims)]
    rows = [[x - m for x, m in zip(place, middle, strict=True)] for place in places]
    matrix = [[sum(row[i] * row[j] for row in rows) for j in range(dims)] for i in range(dims)]
    first = _axis(matrix, [])
    second = _axis(matrix, first)
    return [(_dot_product(row, first), _dot_product(row, second)) for row in rows]


def _axis(matrix: Sequence[Sequence[float]], beside: Sequence[float]) -> list[float]:
    """The direction in which most lies, at a right angle to another."""
    dims = len(matrix)
    best = [0.0] * dims
    for start in range(dims):  # one of the axes is not at a right angle to what is sought
        vector = [float(d == start) for d in range(dims)]
        for _ in range(ROUNDS):
            vector = [_dot_product(row, vector) for row in matrix]
            if beside:
                part = _dot_product(vector, beside)
                vector = [x - part * b for x, b in zip(vector, beside, strict=True)]
            length = math.hypot(*vector)
            if length < 1e-30:
                break
            vector = [x / length for x in vector]
        else:
            found = _dot_product(vector, [_dot_product(row, vector) for row in matrix])
            most = _dot_product(best, [_dot_product(row, best) for row in matrix])
            best = vector if found > most * (1 + 1e-9) else best
    return best


def _dot_product(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _fit(points: Sequence[Point]) -> list[Point]:
    """The points in pixels, both directions in one scale."""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    wide, high = WIDTH - 2 * EDGE - NAME * LABEL // 2, HEIGHT - 2 * EDGE
    scale = min(wide / max(right - left, LEAST), high / max(bottom - top, LEAST))
    x0 = EDGE + (wide - (right - left) * scale) / 2
    y0 = EDGE + (high - (bottom - top) * scale) / 2
    return [(x0 + (x - left) * scale, y0 + (y - top) * scale) for x, y in points]


def _seconds(star: Star) -> float:
    return star.known.value if star.known else math.inf


def _way(start: Point, end: Point, here: Star, star: Star) -> Iterator[str]:
    """The line from here to a node: solid where it was measured, dashed where predicted."""
    if star.known is None:
        return
    dash = "" if star.known.how == "measured" else ' stroke-dasharray="5 4"'
    colour = next(colour for limit, colour in COLOURS if star.known.value < limit)
    yield (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        f' stroke="{colour}" stroke-width="1.5"{dash}>'
        f"<title>{_safe(here.name)} to {_safe(star.name)}: {_told(star.known)}</title></line>"
    )


def _dot(star: Star, at: Point, here: bool, named: bool, taken: list[Point]) -> Iterator[str]:
    """A node, with its name where there is room."""
    x, y = at
    known = f", {_told(star.known)}" if star.known else ""
    title = f"{_safe(star.name)}: access {_time(star.place.height)}{known}"
    look = 'r="6" fill="#08306b"' if here else 'r="4" fill="#2171b5"'
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}><title>{title}</title></circle>'
    if named or here:
        wide = NAME * LABEL
        while any(abs(x - a) < wide and abs(y - b) < LINE for a, b in taken):
            y += LINE
        taken.append((x, y))
        weight = ' font-weight="bold"' if here else ""
        yield f'<text x="{x + 8:.1f}" y="{y + 4:.1f}"{weight}>{_safe(star.name)}</text>'


def _legend(drawn: int, of: int) -> Iterator[str]:
    y, x = HEIGHT + 20, EDGE
    below = 0.0
    for limit, colour in COLOURS:
        text = f"under {_time(limit)}" if limit < math.inf else f"{_time(below)} and more"
        yield f'<rect x="{x}" y="{y - 9}" width="18" height="9" fill="{colour}"/>'
        yield f'<text x="{x + 23}" y="{y}">{text}</text>'
        below, x = limit, x + 112
    y += 22
    solid, dashed = EDGE, EDGE + 112
    line = 'stroke="#333" stroke-width="1.5"'
    yield f'<line x1="{solid}" y1="{y - 4}" x2="{solid + 18}" y2="{y - 4}" {line}/>'
    yield f'<text x="{solid + 23}" y="{y}">measured</text>'
    yield (
        f'<line x1="{dashed}" y1="{y - 4}" x2="{dashed + 18}" y2="{y - 4}" {line}'
        ' stroke-dasharray="5 4"/>'
    )
    yield f'<text x="{dashed + 23}" y="{y}">predicted</text>'
    more = f"{drawn} of {of} other nodes" if drawn < of else f"{of} other nodes"
    yield f'<text x="{dashed + 112}" y="{y}">{more}</text>'


def _told(known: Known) -> str:
    return f"{_time(known.value)} ± {_time(known.error)}, {known.how} {known.age:.0f} s ago"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _safe(name: str) -> str:
    """A name as text of XML: printable, and not for ever."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return escape(shown if len(shown) <= NAME else shown[: NAME - 1] + "…")
