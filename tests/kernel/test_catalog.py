"""What a node knows of the objects of others, beside its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import Stamp
from cloudfs.kernel.catalog import Catalog, Seen, summary
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.twin import Twin
from cloudfs.who import Who

ANN = Who("ann", 1001)
FAR = "aaaaaaaaaaaaaaaa"
CLUSTERS = {"n1": "paris", "n2": "tokyo"}


@pytest.fixture
def objects(tmp_path, autojump_clock):
    return Objects(Twin(), Records(":memory:"), tmp_path, "n1", "ann")


@pytest.fixture
def catalog(objects):
    return Catalog(objects, lambda node: CLUSTERS.get(node, ""))


def told(id=FAR, **more):
    pairs = {"id": id, "state": "running", "user": "bob", "app": "web", **more}
    return " ".join(f"{name}={value}" for name, value in pairs.items())


async def test_objects_of_both_stand_side_by_side(catalog, objects):
    made = objects.get(objects.promise(ANN, None, []), ANN)
    catalog.put("n2", told(**{"label.tier": "front"}))
    assert catalog.values("node") == ["n1", "n2"]
    assert catalog.values("cluster") == ["paris", "tokyo"]
    assert catalog.values("user") == ["ann", "bob"]
    assert catalog.values("state") == ["new", "running"]
    assert catalog.group("label", "tier=front").keys() == {FAR}
    assert catalog.group("node", "n1") == {made.id: made}
    assert catalog.member("node", "n1", made.id) is made
    assert catalog.member("node", "n1", FAR) is None
    assert isinstance(catalog.member("app", "web", FAR), Seen)


async def test_only_its_node_speaks_for_an_object(catalog):
    catalog.put("n2", told())
    catalog.drop("n3", FAR)
    assert catalog.find(FAR).state == "running"
    catalog.put("n1", told(state="exited"))  # this node itself, by way of another
    assert catalog.find(FAR).state == "running"
    catalog.drop("n2", FAR)
    assert catalog.find(FAR) is None
    assert catalog.values("node") == []


async def test_an_object_that_moved_is_where_it_was_told_of_last(catalog):
    catalog.put("n2", told())
    catalog.put("n3", told(state="stopped"))
    assert catalog.values("node") == ["n3"]
    assert catalog.find(FAR).node == "n3"


class OfN1:
    """As much of a node's own objects as a catalog of only others' asks for."""

    node, version, moves = "n1", 0, 0
    all, index = {}, {}


STATES = ("starting", "running", "moving", "exited", "")  # "": it tells no more
SAID = st.lists(st.tuples(st.sampled_from(["n2", "n3"]), st.sampled_from(STATES)), max_size=12)


@settings(deadline=None)
@given(SAID, st.data())
def test_whatever_order_words_of_two_nodes_come_in_the_last_of_those_that_stand_is_known(
    said, data
):
    """Of each node they come in its own order.  The place in the list is the time."""
    words = {node: [] for node in ("n2", "n3")}
    for at, (node, state) in enumerate(said, 1):
        words[node].append((at, state))
    stand = [of[-1] + (node,) for node, of in words.items() if of and of[-1][1]]
    catalog = Catalog(OfN1(), lambda node: "")
    while any(words.values()):
        node = data.draw(st.sampled_from([node for node in words if words[node]]))
        at, state = words[node].pop(0)
        if state:
            catalog.put(node, told(state=state), Stamp(at, 0, node))
        else:
            catalog.drop(node, FAR)
    found = catalog.find(FAR)
    best = max(stand, default=None)
    assert (found and (found.at.time, found.state, found.node)) == best
    assert catalog.values("node") == ([] if best is None else [best[2]])
    kept = {node for others in catalog._besides.values() for node in others}
    assert kept == {node for _, _, node in stand if best[2] != node}
    assert not (FAR in catalog.left and best)


async def test_one_that_moved_is_known_where_it_is_when_the_old_place_was_heard_last(catalog):
    catalog.put("n2", told(state="moving"), Stamp(3, 0, "n2"))
    catalog.put("n3", told(state="running"), Stamp(2, 0, "n3"))  # it came late
    assert catalog.find(FAR).node == "n2"
    catalog.drop("n2", FAR)
    assert (catalog.find(FAR).node, catalog.find(FAR).state) == ("n3", "running")
    catalog.drop("n3", FAR)
    assert catalog.find(FAR) is None
    assert catalog.left[FAR].node == "n3"


async def test_what_the_last_node_decided_on_tells_is_believed_for_as_long_as_it_does(catalog):
    catalog.put("n3", told(epoch="2"), Stamp(1, 0, "n3"))
    catalog.put("n2", told(epoch="1"), Stamp(9, 0, "n2"))  # it was cut off meanwhile
    assert catalog.find(FAR).node == "n3"
    catalog.put("n2", told(epoch="1", state="stopped"), Stamp(10, 0, "n2"))
    catalog.drop("n3", FAR)
    assert (catalog.find(FAR).node, catalog.find(FAR).state) == ("n2", "stopped")


async def test_a_node_that_is_gone_is_not_asked_what_it_told_before(objects):
    gone = set()
    catalog = Catalog(objects, lambda node: "", gone.__contains__)
    catalog.put("n2", told(), Stamp(1, 0, "n2"))
    gone.add("n2")
    catalog.node_is("n2", "gone")
    catalog.put("n3", told(), Stamp(2, 0, "n3"))
    catalog.drop("n3", FAR)
    assert catalog.find(FAR) is None
    gone.clear()
    catalog.node_is("n2", "alive")
    assert (catalog.find(FAR).node, catalog.find(FAR).state) == ("n2", "running")
    catalog.put("n3", told(), Stamp(3, 0, "n3"))
    catalog.node_is("n2", "left")
    catalog.drop("n3", FAR)
    assert catalog.find(FAR) is None


async def test_what_a_node_told_before_does_not_come_back_after_its_last_word(objects):
    gone = {"n2"}
    catalog = Catalog(objects, lambda node: "", gone.__contains__)
    catalog.put("n2", told(state="moving"), Stamp(1, 0, "n2"))
    catalog.put("n3", told(), Stamp(2, 0, "n3"))
    catalog.drop("n3", FAR)
    assert catalog.find(FAR) is None
    gone.clear()
    catalog.put("n2", told(), Stamp(9, 0, "n2"))  # it is heard before membership says so
    catalog.node_is("n2", "alive")
    catalog.drop("n2", FAR)
    assert catalog.find(FAR) is None


async def test_one_whose_node_is_heard_of_is_believed_rather_than_one_of_a_lost_node(objects):
    gone = set()
    catalog = Catalog(objects, lambda node: "", gone.__contains__)
    catalog.put("n3", told(), Stamp(5, 0, "n3"))
    catalog.put("n2", told(state="moving"), Stamp(7, 0, "n2"))
    assert catalog.find(FAR).node == "n2"
    gone.add("n2")
    catalog.node_is("n2", "gone")
    assert (catalog.find(FAR).node, catalog.find(FAR).state) == ("n3", "running")
    catalog.put("n2", told(state="stopped"), Stamp(8, 0, "n2"))
    assert catalog.find(FAR).node == "n3"


async def test_hearsay_counts_of_nodes_that_are_not_heard_themselves(objects):
    near = {"n2", "n4"}
    catalog = Catalog(objects, lambda node: "", near=near.__contains__)
    catalog.put("n2", told())  # n2 would tell that itself
    assert catalog.find(FAR) is None
    catalog.put("n4", told(), Stamp(9, 0, "n4"))
    catalog.put("f3", told(state="moving"), by="n2")  # n2 has not heard of the last move
    assert catalog.find(FAR).node == "n4"
    catalog.put("f3", told(state="moving"), by="n4")
    assert catalog.find(FAR).node == "f3"
    catalog.node_is("n4", "alive")
    assert catalog.find(FAR).node == "f3"
    catalog.deny("n4", FAR)
    catalog.deny("f3", "b" * 16)
    assert catalog.find(FAR).node == "f3"
    catalog.deny("f3", FAR)
    assert catalog.find(FAR).node == "n4"
    near.clear()  # it is of another zone now, where others may hear more
    catalog.put("f5", told())
    assert catalog.find(FAR).node == "f5"


async def test_hearsay_is_over_once_its_node_is_heard(objects):
    near = set()
    catalog = Catalog(objects, lambda node: "", near=near.__contains__)
    catalog.put("n2", told())
    catalog.put("n3", told(id="b" * 16))
    catalog.put("n3", told(id="b" * 16, state="exited"), Stamp(1, 0, "n3"))  # before its record
    catalog.put("n3", told(id="b" * 16))
    near |= {"n2", "n3"}
    catalog.node_is("n2", "alive")
    catalog.node_is("n3", "alive")
    assert [(seen.id, seen.state) for seen in catalog.others()] == [("b" * 16, "exited")]


async def test_a_node_that_is_heard_again_is_believed_again(objects):
    gone = set()
    catalog = Catalog(objects, lambda node: "", gone.__contains__)
    catalog.put("n3", told(epoch="2"), Stamp(1, 0, "n3"))
    catalog.put("n2", told(epoch="1"), Stamp(9, 0, "n2"))
    gone.add("n3")
    catalog.node_is("n3", "gone")
    assert catalog.find(FAR).node == "n2"
    gone.clear()
    catalog.node_is("n3", "alive")
    assert (catalog.find(FAR).node, catalog.find(FAR).state) == ("n3", "running")


async def test_one_heard_before_its_node_is_in_that_nodes_cluster_then(objects):
    clusters = {}
    catalog = Catalog(objects, lambda node: clusters.get(node, ""))
    catalog.put("n2", told(), Stamp(1, 0, "n2"))
    clusters["n2"] = "tokyo"
    catalog.node_is("n2", "alive")
    assert catalog.group("cluster", "tokyo").keys() == {FAR}


async def test_hearsay_takes_nothing_from_what_the_node_has_told_itself(catalog):
    catalog.put("n3", told(), Stamp(2, 0, "n3"))
    catalog.put("n3", told(state="moving"), by="n2")  # told of the state it had there
    catalog.put("n2", told(state="moving"), Stamp(1, 0, "n2"))
    assert catalog.find(FAR).node == "n3"
    catalog.put("n2", told(state="moving"), Stamp(3, 0, "n2"))
    assert catalog.find(FAR).node == "n2"
    catalog.put("n3", told(state="moving"), by="n2")
    assert catalog.find(FAR).node == "n3"
    catalog.put("n2", told(state="moving"), Stamp(4, 0, "n2"))
    catalog.drop("n2", FAR)
    assert catalog.find(FAR).node == "n3"
    catalog.put("n2", told(epoch="3"), Stamp(5, 0, "n2"))
    catalog.put("n3", told())
    assert catalog.find(FAR).node == "n2"
    catalog.drop("n2", FAR)
    assert catalog.find(FAR).node == "n3"


async def test_what_a_gone_node_ran_is_lost_until_it_is_heard_again(catalog):
    catalog.put("n2", told())
    catalog.put("n2", told(id="b" * 16, state="exited", exit=0))
    catalog.node_is("n2", "gone")
    assert catalog.values("state") == ["exited", "lost"]
    status = catalog.find(FAR).status(12.34)
    assert f"id={FAR} state=lost node=n2 user=bob" in status
    assert status.endswith("age=12.3\n")
    catalog.node_is("n2", "alive")
    assert catalog.find(FAR).state == "running"
    catalog.node_is("n2", "left")
    assert list(catalog.others()) == []
    assert catalog.values("state") == []


async def test_a_repeated_record_changes_no_listing(catalog):
    catalog.put("n2", told())
    before = catalog.version
    catalog.put("n2", told())
    assert catalog.version == before
    catalog.put("n2", told(state="stopped"))
    assert catalog.version != before


async def test_nonsense_is_refused_and_names_that_are_no_names_make_no_directory(catalog):
    for record in ("state=running", "id='", "", *(told(id=n) for n in ("a/b", "clone", "a" * 17))):
        with pytest.raises((CloudError, KeyError)):
            catalog.put("n2", record)
    catalog.put("n2", told(app="../../etc", user="a/b", state="."))
    catalog.put("n2", told(app=chr(0x10000) * 64, user="a\x07b", state="\x7f"))
    assert catalog.values("app") == catalog.values("user") == catalog.values("state") == []


async def test_a_summary_tells_what_a_catalog_takes(catalog, objects):
    made = objects.get(objects.promise(ANN, None, []), ANN)
    made.app, made.labels, made.why = "web", {"k": "it's"}, "two\nlines"
    catalog.put("n2", summary(made).replace(made.id, FAR))
    seen = catalog.find(FAR)
    assert (seen.user, seen.told["app"], seen.labels) == ("ann", "web", {"k": "it's"})
    assert seen.told["why"] == "two lines"
