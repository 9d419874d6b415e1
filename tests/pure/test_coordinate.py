"""Network coordinates: what is measured moves them, what is false does not break them."""

import math
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import coordinate
from cloudfs.kernel.coordinate import DIMS, FARTHEST, LONGEST, NOWHERE, Coordinate, Position
from cloudfs.kernel.solve import solve

ANY = st.floats(allow_nan=True, allow_infinity=True)
IN = st.floats(-FARTHEST, FARTHEST)
SOUND = st.builds(
    Coordinate,
    st.lists(IN, min_size=DIMS, max_size=DIMS).map(tuple),
    st.floats(0, FARTHEST),
    st.floats(0, 1),
)
CLAIM = SOUND | st.builds(Coordinate, st.lists(ANY, max_size=DIMS + 1).map(tuple), ANY, ANY)
PLACES = ((0.0, 0.0), (0.03, 0.0), (0.0, 0.04), (0.03, 0.04), (0.1, 0.02), (0.05, 0.09))


def settled(rounds=120, both=True):
    """Six nodes in a plane that have measured each other."""
    nodes = [Position(i) for i in range(len(PLACES))]
    for turn in range(rounds):
        for i, node in enumerate(nodes):
            j = (i + 1 + turn % (len(nodes) - 1)) % len(nodes)
            rtt, mine = math.dist(PLACES[i], PLACES[j]) + 0.002, node.coordinate
            node.measured(str(j), rtt, nodes[j].coordinate, chosen=True)
            if both:
                nodes[j].measured(str(i), rtt, mine, chosen=False)
    return nodes


def test_nodes_of_a_plane_are_found():
    nodes, off = settled(), []
    for i, one in enumerate(nodes):
        for j, other in enumerate(nodes[:i]):
            true = math.dist(PLACES[i], PLACES[j]) + 0.002
            off.append(abs(one.coordinate.distance(other.coordinate) - true) / true)
    # Absolute errors are minimised: most pairs are right, and one may be given up.
    assert median(off) < 0.05
    assert sorted(off)[-2] < 0.2


def test_error_is_told_and_falls():
    nodes = settled()
    assert Position(1).coordinate.error == coordinate.WORST
    assert median(node.coordinate.error for node in nodes) < 0.1
    seconds, off = nodes[0].to(nodes[3].coordinate)
    assert seconds == pytest.approx(0.052, rel=0.15)
    assert 0 < off < seconds / 4


@given(SOUND, SOUND)
def test_distances_are_symmetric_and_finite(one, other):
    assert one.distance(other) == other.distance(one)
    assert 0 <= one.distance(other) < 100


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), ANY, CLAIM, st.booleans(), st.booleans()), max_size=60)
)
def test_nothing_poisons_a_coordinate(told):
    node = Position("n")
    for name, rtt, claim, chosen, trusted in told:
        taken = node.measured(str(name), rtt, claim, chosen=chosen, trusted=trusted)
        assert taken == (0 < rtt <= LONGEST and coordinate.sound(claim))
        node.heard(str(name), claim)
        assert coordinate.sound(node.coordinate)
    assert len(node.references) <= coordinate.CHOSEN + coordinate.UNINVITED


@settings(deadline=None, max_examples=30)
@given(SOUND, st.floats(1e-6, LONGEST))
def test_one_liar_moves_a_settled_node_little(claim, rtt):
    node = settled(60)[0]
    for i in range(6, 14):
        spot = node.coordinate
        node.measured(f"good{i}", 2 * spot.height + 1e-4, spot, chosen=True, trusted=True)
    before = node.coordinate
    for _ in range(10):
        node.measured("liar", rtt, claim, chosen=True)
    assert math.dist(before.place, node.coordinate.place) < 0.05


def test_a_step_is_never_longer_than_a_usual_time():
    node = Position("n")
    before = node.coordinate
    node.measured("far", 0.01, Coordinate((FARTHEST,) * DIMS, 0.0, 0.0), chosen=True)
    assert math.dist(before.place, node.coordinate.place) <= 0.01 + 1e-9


def test_the_uninvited_never_displace_the_chosen():
    node = Position("n")
    for i in range(coordinate.CHOSEN):
        node.measured(f"mine{i}", 0.01, NOWHERE, chosen=True)
    for i in range(200):
        node.measured(f"theirs{i}", 0.01, NOWHERE, chosen=False)
    assert sum(name.startswith("mine") for name in node.references) == coordinate.CHOSEN
    assert len(node.references) == coordinate.CHOSEN + coordinate.UNINVITED
    assert "theirs199" in node.references


def test_who_only_answers_stays():
    node = Position("n")
    before = node.coordinate
    assert node.measured("other", 0.01, NOWHERE, chosen=False)
    assert node.coordinate == before


def test_heard_and_forget():
    node = Position("n")
    assert not node.heard("other", NOWHERE)
    node.measured("other", 0.01, NOWHERE, chosen=True)
    there = Coordinate((0.1,) * DIMS, 0.001, 0.2)
    assert node.heard("other", there)
    assert node.references["other"].claim == there
    assert not node.heard("other", Coordinate((math.nan,) * DIMS, 0, 0))
    node.forget("other")
    assert not node.references


@given(SOUND)
def test_text_and_bytes_come_back(claim):
    for back in (coordinate.parse(str(claim)), coordinate.unpack(claim.pack())):
        assert coordinate.sound(back)
        assert math.dist(back.place, claim.place) < 1e-5
        assert back.error == pytest.approx(claim.error, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "place=1",
        "place=0,0,0,0,0,nan height=0 error=0",
        "place=0,0,0,0,0,9 height=0 error=0",
        "a 'b",
        "x",
    ],
)
def test_what_is_no_coordinate_is_refused(text):
    with pytest.raises(CloudError) as caught:
        coordinate.parse(text)
    assert caught.value.kind == "bad"


@given(st.binary(max_size=40))
def test_any_bytes_are_a_sound_coordinate_or_refused(data):
    try:
        claim = coordinate.unpack(data)
    except CloudError:
        return
    assert coordinate.sound(claim)


def test_solve():
    rows = [[4.0, 2.0, 0.6], [2.0, 5.0, 1.0], [0.6, 1.0, 3.0]]
    x = [1.0, -2.0, 3.0]
    right = [sum(a * b for a, b in zip(row, x, strict=True)) for row in rows]
    assert solve([row[:] for row in rows], right) == pytest.approx(x)


def test_solve_leaves_alone_what_is_not_definite():
    assert solve([[0.0, 0.0], [0.0, 2.0]], [1.0, 4.0]) == pytest.approx([0.0, 2.0])
