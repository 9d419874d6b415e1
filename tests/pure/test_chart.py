"""The picture of the network."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.kernel import chart
from cloudfs.kernel.chart import Star
from cloudfs.kernel.coordinate import DIMS, Coordinate
from cloudfs.kernel.figure import Known

SVG = "{http://www.w3.org/2000/svg}"


def star(name, *place, rtt=None, how="measured"):
    full = (*place, *(0.0,) * (DIMS - len(place)))
    known = None if rtt is None else Known(rtt, 3.0, how, rtt / 10)
    return Star(name, Coordinate(full, 0.0005, 0.1), known)


def drawn(here, others):
    return ET.fromstring(chart.svg(here, others, len(others)))


def dots(root):
    """name → where its dot is"""
    found = {}
    for circle in root.iter(f"{SVG}circle"):
        title = circle.findtext(f"{SVG}title")
        found[title.rpartition(": access")[0]] = (float(circle.get("cx")), float(circle.get("cy")))
    return found


def test_nodes_stand_as_far_apart_as_their_coordinates():
    here = star("n1", 0.0, 0.0)
    others = [star("n2", 0.03, 0.0), star("n3", 0.0, 0.04), star("n4", 0.03, 0.04)]
    at = dots(drawn(here, others))
    assert at.keys() == {"n1", "n2", "n3", "n4"}
    pixels = math.dist(at["n1"], at["n3"]) / 0.04
    assert math.dist(at["n1"], at["n2"]) / 0.03 == pytest.approx(pixels, rel=0.01)
    assert math.dist(at["n2"], at["n3"]) / 0.05 == pytest.approx(pixels, rel=0.01)


def test_ways_tell_how_they_are_known_and_how_long_they_are():
    others = [star("near", 0.001, rtt=0.0004), star("far", 0.2, rtt=0.25, how="predicted")]
    others.append(star("unknown", 0.1))
    root = drawn(star("n1"), others)
    ways = {}
    for line in root.iter(f"{SVG}line"):
        title = line.findtext(f"{SVG}title")
        if title:
            ways[title.split(":")[0]] = (line, title)
    assert ways.keys() == {"n1 to near", "n1 to far"}
    near, said = ways["n1 to near"]
    assert near.get("stroke-dasharray") is None
    assert "0.4 ms ± 0.04 ms, measured 3 s ago" in said
    far, said = ways["n1 to far"]
    assert far.get("stroke-dasharray")
    assert near.get("stroke") == chart.COLOURS[0][1]
    assert far.get("stroke") == chart.COLOURS[-1][1]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for word in ("under 1 ms", "200 ms and more", "measured", "predicted", "3 other nodes"):
        assert word in texts


@given(
    st.lists(
        st.tuples(
            st.text(max_size=300),
            st.lists(st.floats(-5, 5), min_size=DIMS, max_size=DIMS),
            st.floats(0, 10),
            st.sampled_from(["measured", "predicted"]),
        ),
        max_size=9,
    )
)
def test_whatever_nodes_say_the_picture_is_well_formed(rows):
    others = [star(name, *place, rtt=rtt, how=how) for name, place, rtt, how in rows]
    root = drawn(star("</title><script>alert(1)</script>&\x00\ud800"), others)
    assert not list(root.iter(f"{SVG}script"))
    for x, y in dots(root).values():
        assert 0 <= x <= chart.WIDTH
        assert 0 <= y <= chart.HEIGHT


def test_nodes_at_one_place_have_names_beside_each_other():
    root = drawn(star("n1"), [star(f"m{n}") for n in range(20)])
    labels = [(t.get("x"), t.get("y")) for t in root.iter(f"{SVG}text") if t.text[0] in "nm"]
    assert len(set(labels)) == len(labels) >= 21


def test_ten_thousand_nodes_are_a_picture_of_bounded_size():
    names = [f"n{n}" for n in range(10_000)]
    chosen = chart.choose(names, lambda name: name == "n777")
    assert len(chosen) == chart.MOST
    assert "n777" in chosen
    assert chosen == chart.choose(names[::-1], lambda name: name == "n777")
    others = [star(name, n % 20 / 1000, n // 20 / 1000, rtt=0.01) for n, name in enumerate(chosen)]
    text = chart.svg(star("n"), others, len(names))
    assert len(text) < 250_000
    assert "n777: access" in text
    assert f"{chart.MOST} of 10000 other nodes" in text


def test_the_two_directions_are_those_along_which_most_lies():
    places = [(0.0, 0.0, 0.001 * n, 0.0, 0.1 * (n % 2), 0.0) for n in range(10)]
    for (x, y), place in zip(chart.flat(places), places, strict=True):
        assert abs(x) == pytest.approx(0.05, rel=0.05)
        assert abs(y) == pytest.approx(abs(place[2] - 0.0045), abs=0.001)
