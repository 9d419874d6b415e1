"""When a question has enough."""

import pytest

from cloudfs.fabric.asking import FAILED, NONE, OK, Asking
from cloudfs.fabric.packet import pack

ALL = frozenset(["n1", "n2", "n3"])


def test_all_must_answer():
    asking = Asking(ALL, None)
    asking.open = {1}
    for node in ("n1", "n2"):
        asking.heard(node, pack(OK, "k", node))
        assert not asking.done(ALL)
    assert asking.missing(ALL) == {"n3"}
    asking.heard("n3", pack(NONE))
    assert asking.done(ALL)
    assert asking.whole
    answer = asking.answer()
    assert [(r.key, r.value, r.node) for r in answer.replies] == [
        ("k", b"n1", "n1"),
        ("k", b"n2", "n2"),
    ]
    assert answer.nodes == ALL


def test_who_left_is_not_waited_for_but_missed():
    asking = Asking(ALL, None)
    asking.heard("n1", pack(NONE))
    asking.heard("n2", pack(NONE))
    assert not asking.done(ALL)
    assert asking.done(ALL - {"n3"})
    asking.open = {7}  # its answer may yet come
    assert not asking.done(ALL - {"n3"})
    assert not asking.whole


def test_a_count_is_of_those_that_serve_it():
    asking = Asking(ALL, 1)
    asking.heard("n1", pack(NONE))
    assert not asking.done(ALL)
    asking.heard("n2", pack(OK))
    assert asking.done(ALL)
    assert asking.whole


@pytest.mark.parametrize("data", [b"", b"junk", pack(), pack(FAILED, "why"), pack(FAILED, b"\xff")])
def test_what_is_no_answer_is_a_failure(data):
    asking = Asking(frozenset(["n1"]), None)
    asking.heard("n1", data)
    assert asking.done(ALL)
    assert not asking.whole
    assert set(asking.answer().failed) == {"n1"}


def test_only_the_first_answer_counts():
    asking = Asking(ALL, None)
    asking.heard("n1", pack(OK, "k", "1"))
    asking.heard("n1", pack(OK, "k", "2"))
    asking.heard("n1", pack(FAILED, ""))
    assert [r.value for r in asking.answer().replies] == [b"1"]
