"""The closest node by few probes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.kernel.coordinate import DIMS, Coordinate
from cloudfs.kernel.nearest import MOST, Search, likeness


def at(x, y=0.0, height=0.001):
    return Coordinate((x, y) + (0.0,) * (DIMS - 2), height, 0.1)


def drive(search, rtt, heard=lambda name: ()):
    order = []
    while (name := search.next()) is not None:
        order.append(name)
        time = rtt(name)
        search.missed(name) if time is None else search.answered(name, time, heard(name))
    return order


LINE = {f"n{i}": at(0.01 * i) for i in range(100)}


def test_probes_decide_among_the_nearest():
    search = Search(at(0.5), LINE)
    order = drive(search, lambda name: 0.001 if name == "n52" else 0.02)
    found = search.found()
    assert (found.node, found.seconds, found.how) == ("n52", 0.001, "measured")
    assert len(order) == len(set(order)) == MOST
    assert set(found.probed) == set(order)


def test_a_neighbour_in_the_same_room_is_alike_though_predicted_far():
    own = at(0.5, height=0.02)
    room = at(0.5, height=0.02)
    lower = {f"low{i}": at(0.5 + 0.0001 * i, height=0.0001) for i in range(50)}
    assert own.distance(room) > own.distance(lower["low49"])
    assert likeness(own, room) < likeness(own, lower["low0"])
    search = Search(own, {**lower, "room": room})
    assert drive(search, lambda name: 0.0002 if name == "room" else 0.02)[0] == "room"
    assert search.found().node == "room"


def test_what_was_known_is_tried_first_and_hearsay_followed():
    search = Search(at(0.0), LINE, {"n90": 0.003, "nobody": 0.001})
    times = {"n90": 0.003, "n91": 0.0005}
    order = drive(
        search,
        lambda name: times.get(name, 0.1),
        lambda name: [("n91", 0.001)] if name == "n90" else [],
    )
    assert order[:2] == ["n90", "n91"]
    assert search.found().node == "n91"


def test_a_liars_hearsay_costs_a_bounded_number_of_probes():
    search = Search(at(0.5), LINE)
    lies = [(f"n{i}", 1e-6) for i in range(100)]
    drive(search, lambda name: 0.02 if name == "n50" else 0.03, lambda name: lies)
    assert search.found().node == "n50"
    assert len(search.probed) == MOST


def test_triangles_speak_against_nodes_that_look_alike():
    alike = {f"n{i}": at(0.5) for i in range(40)}
    search = Search(at(0.5), {**alike, "witness": at(0.9)})
    # A witness 0.02 from the target measured all but one of them to be 0.3 away.
    search.told(0.02, [(name, 0.3) for name in alike if name != "n37"])
    order = drive(search, lambda name: 0.0002 if name == "n37" else 0.03)
    assert order[0] == "n37"
    # So a candidate that answers is a witness as well.
    search = Search(at(0.5), {**alike, "n": at(0.5)}, {"n": 0.02})
    lists = {"n": [(name, 0.3) for name in alike if name != "n37"]}
    assert drive(search, lambda name: 0.02, lambda name: lists.get(name, []))[:2] == ["n", "n37"]


def test_a_lying_witness_hides_nobody_for_good():
    search = Search(at(0.5), {"n1": at(0.5), "n2": at(0.501)}, most=2)
    search.told(0.02, [("n1", 5.0), ("nobody", 5.0), ("n2", math.nan)])
    assert drive(search, lambda name: 0.001 if name == "n1" else 0.02) == ["n2", "n1"]
    assert search.found().node == "n1"


def test_no_answers_no_candidates():
    search = Search(at(0.5), LINE)
    drive(search, lambda name: None)
    found = search.found()
    assert found.how == "predicted"
    assert found.node not in found.probed
    assert all(time is None for time in found.probed.values())
    nobody = Search(at(0.5), {})
    assert nobody.next() is None
    assert nobody.found().node == ""


@given(st.dictionaries(st.text(max_size=3), st.floats(), max_size=30), st.integers(0, 12))
def test_any_answers_leave_a_sound_search(times, most):
    search = Search(at(0.5), LINE, times, most)
    drive(search, lambda name: times.get(name, math.nan), lambda name: list(times.items()))
    assert len(search.probed) <= most
    found = search.found()
    assert found.node in LINE
    assert 0 < found.seconds < 10
    search.answered("nobody", 0.1)
    assert "nobody" not in search.probed
