"""The order and the ends of a verb that goes through a group."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import groups
from cloudfs.kernel.groups import MOST, Item, Member, Run, back, plan, read
from cloudfs.kernel.verbs import OBJECT

NODES = {"n1": {"cluster": "paris", "cpus": 2}, "n2": {"cluster": "rome", "cpus": 8}}


def member(id, state="running", node="n1", app="", after=()):
    return Member(id, node, state, app, tuple(after))


def planned(line, members, nodes=NODES):
    verb, args, keep = read(OBJECT, line)
    return plan(verb, args, members, nodes, keep, verb.name in ("move", "copy", "checkpoint"))


def begin(line, members):
    items = planned(line, members)
    return Run("view/by-app/web", line, "ann", items, " -k" in line, 1000.0)


def finish(run, failing=()):
    """Conduct a run, what began first being over first; the ids in the order they began."""
    began, going, now = [], [], 0.0
    while run.state == "running":
        new = run.take(now)
        assert new or going or run.state != "running"
        going += new
        began += [item.id for item in new]
        assert len(going) <= MOST
        if going:
            item, now = going.pop(0), now + 1
            run.over(item, "failed" if item.id in failing else "done", now, "broken", "n2")
    return began


def states(run):
    return {id: item.state for id, item in run.items.items()}


def test_what_a_line_is():
    verb, args, keep = read(OBJECT, "move -k 'a b'")
    assert (verb.name, args, keep) == ("move", ["a b"], True)
    assert read(OBJECT, "note hello -k")[1:] == (["hello", "-k"], False)
    assert read(OBJECT, "  ") is None
    with pytest.raises(CloudError, match="no verb 'fly'"):
        read(OBJECT, "fly away")
    with pytest.raises(CloudError, match="takes not 0 arguments"):
        read(OBJECT, "move -k")


def test_all_of_a_group_are_done_few_at_a_time():
    run = begin("move n2", [member(f"o{n}") for n in range(10)])
    assert len(run.take(0.0)) == MOST
    assert run.take(0.0) == []
    run = begin("move n2", [member(f"o{n}") for n in range(10)])
    assert finish(run) == [f"o{n}" for n in range(10)]
    assert run.state == "done"
    head = ndb.parse(run.line(0))
    assert (head["total"], head["done"], head["failed"], head["left"]) == ("10", "10", "0", "0")
    assert ndb.parse(run.items["o3"].record(0))["to"] == "n2"


@pytest.mark.parametrize(("verb", "first"), [("move n2", "db"), ("stop", "web"), ("kill", "web")])
def test_what_depends_comes_after_or_before(verb, first):
    members = [
        member("w1", app="web", after=["app=db"]),
        member("d1", app="db"),
        member("x1", after=["w1", "app=nothing"]),
        member("d2", app="db"),
    ]
    began = finish(begin(verb, members))
    assert began == (["d1", "d2", "w1", "x1"] if first == "db" else ["x1", "w1", "d1", "d2"])


def test_those_of_one_app_do_not_wait_for_each_other():
    run = begin("move n2", [member(f"d{n}", app="db", after=["app=db"]) for n in range(3)])
    assert len(run.take(0.0)) == 3


def test_a_circle_is_refused_and_broken_by_k():
    members = [member("a", after=["b"]), member("b", after=["a"]), member("c", after=["b"])]
    with pytest.raises(CloudError, match="3 objects are to come after each other: a b c"):
        planned("move n2", members)
    run = begin("move -k n2", members)
    assert sorted(finish(run)) == ["a", "b", "c"]


def test_the_first_failure_ends_it_and_those_under_way_are_finished():
    run = begin("move n2", [member(f"o{n}") for n in range(9)])
    finish(run, failing={"o1"})
    assert run.state == "failed"
    assert run.why == "o1: broken"
    assert states(run) == {
        **{f"o{n}": "done" for n in range(5)},
        **{f"o{n}": "left" for n in range(5, 9)},
        "o1": "failed",
    }


def test_k_goes_on():
    run = begin("move -k n2", [member(f"o{n}") for n in range(9)])
    finish(run, failing={"o1", "o8"})
    assert run.state == "failed"
    assert run.count() == {"done": 7, "failed": 2}


def test_cancelled_between():
    run = begin("move n2", [member(f"o{n}") for n in range(9)])
    items = run.take(0.0)
    run.cancel("given up by ann")
    for item in items:
        run.over(item, "done", 1.0)
    assert run.take(1.0) == []
    assert (run.state, run.why) == ("cancelled", "given up by ann")
    assert run.count() == {"done": MOST, "left": 9 - MOST}


def test_what_is_left_out():
    members = [
        *(member("here"), member("there", node="n2"), member("over", "exited")),
        *(member("still", "stopped"), member("soon", "starting")),
    ]
    items = {item.id: (item.state, item.why) for item in planned("move n2", members)}
    assert items == {
        "here": ("waiting", ""),
        "there": ("skipped", "it is there already"),
        "over": ("skipped", "it is exited"),
        "still": ("waiting", ""),  # it refuses, and the run fails: it would be left behind
        "soon": ("waiting", ""),
    }
    items = {item.id: item.why for item in planned("move cluster=rome cpus>=4", members)}
    assert items["there"] == "it is there already"
    items = {item.id: item.why for item in planned("move sort=price", members)}
    assert items["there"] == ""
    items = {item.id: item.why for item in planned("start", members)}
    assert items["here"] == "it is running"
    assert items["still"] == ""


def test_a_group_that_is_too_large():
    members = [member(f"o{n}") for n in range(groups.LARGEST + 1)]
    with pytest.raises(CloudError, match="4097 objects are too many"):
        planned("kill", members)


def test_back_goes_the_other_way():
    members = [member("d1", app="db"), *(member(f"w{n}", after=["app=db"]) for n in range(3))]
    run = begin("move n2", members)
    finish(run, failing={"w2"})
    run.verb = "move n2"
    undo = Run("g", "undo", "ann", back(run), True, 0.0)
    assert finish(undo) == ["w2", "w1", "w0", "d1"]
    assert {item.line for item in undo.items.values()} == {"move n1"}
    assert undo.items["d1"].expected == "n2"
    assert undo.items["w2"].expected == ""
    again = Run("g", "undo", "ann", back(undo), True, 0.0)
    assert finish(again)[0] == "d1"
    assert again.items["d1"].line == "move n2"


def test_a_run_outlives_the_daemon():
    run = begin("move n2", [member(f"o{n}") for n in range(6)])
    items = run.take(5.0)
    run.over(items[0], "done", 6.0, target="n2")
    record = run.to_record()
    rows = [groups.item_record(item) for item in run.items.values()]
    found = Run.from_record(record, [Item(**row) for row in rows])
    found.interrupt("this node was restarted")
    assert (found.state, found.why) == ("interrupted", "this node was restarted")
    assert list(states(found).values()) == ["done", "unsure", "unsure", "unsure", "left", "left"]
    assert [item.id for item in back(found)] == ["o3", "o2", "o1", "o0"]


@st.composite
def some(draw):
    count = draw(st.integers(1, 12))
    ids = [f"o{n}" for n in range(count)]
    word = st.sampled_from([*ids, "app=a", "app=b", "app=none"])
    return [
        member(id, app=draw(st.sampled_from(["", "a", "b"])), after=draw(st.lists(word, max_size=3)))
        for id in ids
    ]  # fmt: skip


def circular(members):
    """Whether some of them wait for each other, found by walking all ways."""

    def before(one):
        for word in one.after:
            kind, _, name = word.rpartition("=")
            for other in members:
                meant = other.app == name != one.app if kind else other.id == word
                if meant and other is not one:
                    yield other

    def reaches(one, target, seen):
        for other in before(one):
            if other is target or (
                other.id not in seen and reaches(other, target, seen | {other.id})
            ):
                return True
        return False

    return any(reaches(one, one, frozenset()) for one in members)


@given(some(), st.sets(st.integers(0, 11)), st.booleans(), st.booleans())
def test_every_order_ends_and_is_kept(members, failing, keep, backwards):
    verb = "kill" if backwards else "move"
    line = f"{verb}{' -k' if keep else ''}{'' if backwards else ' n2'}"
    if not keep and circular(members):
        with pytest.raises(CloudError, match="to come after each other"):
            begin(line, members)
        return
    run = begin(line, members)
    waits = {item.id: set(item.needs) for item in run.items.values()}
    gives = {item.id: set(item.gives) for item in run.items.values()}
    failed = {f"o{n}" for n in failing}
    began = finish(run, failed)
    assert run.state == ("failed" if failed & set(began) else "done")
    if keep or not failed & set(began):
        assert sorted(began) == sorted(run.items)
    for index, id in enumerate(began):
        for later in began[index + 1 :]:
            assert not waits[id] & gives[later], (id, later)
    assert run.text(0).count("\n") == 1 + len(members)
