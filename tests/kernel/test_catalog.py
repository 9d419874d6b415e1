"""What a node knows of the objects of others, beside its own."""

import pytest

from cloudfs.errors import CloudError
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
    for record in ("state=running", "id='", ""):
        with pytest.raises((CloudError, KeyError)):
            catalog.put("n2", record)
    catalog.put("n2", told(app="../../etc", user="a/b", state="."))
    assert catalog.values("app") == catalog.values("user") == catalog.values("state") == []


async def test_a_summary_tells_what_a_catalog_takes(catalog, objects):
    made = objects.get(objects.promise(ANN, None, []), ANN)
    made.app, made.labels, made.why = "web", {"k": "it's"}, "two\nlines"
    catalog.put("n2", summary(made).replace(made.id, FAR))
    seen = catalog.find(FAR)
    assert (seen.user, seen.told["app"], seen.labels) == ("ann", "web", {"k": "it's"})
    assert seen.told["why"] == "two lines"
