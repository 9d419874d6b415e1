"""One node's core, without a net: what it asks for, what it answers, what it refuses."""

from hypothesis import given
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import introduce, reports
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.beats import Ask, Changed, Enter, Exit, Publish
from cloudfs.kernel.membership import Member

ID = "0123456789abcdef" * 2


def member(*seeds, name="n1", cluster="paris", boot=1000):
    found = Member(name, cluster, ID, boot, f"{name}:5640", seeds)
    assert found.set_record({"cpus": 4, "load": 0.5, "arch": "x86_64"}, 0.0) == []
    return found


def ticks(found, begin, end):
    """All actions of the ticks between two times."""
    actions, now = [], begin
    while now < end:
        actions += found.tick(now)
        now += 0.5
    return actions


def kind(actions, what):
    return [action for action in actions if isinstance(action, what)]


def first():
    """A member that is the first of its cloud, 20 s old."""
    found = member()
    return found, ticks(found, 0.0, 20.0)


def test_the_first_node_founds_its_cluster_and_stands_in_the_root():
    found, actions = first()
    assert kind(actions, Enter) == [Enter("paris", ()), Enter("", ())]
    assert [(c.node, c.new) for c in kind(actions, Changed)] == [("n1", "alive")]
    assert found.digest("", 20.0).digest.nodes == 1
    assert [known.name for known in found.members(20.0)] == ["n1"]
    told = {(p.zone, p.key) for p in kind(actions, Publish)}
    assert told == {
        ("paris", "beat/n1"), ("paris", "node/n1"), ("", "beat/n1"), ("", "node/n1"), ("", "zone/paris"), ("", "zone-news/paris"), ("paris", "up/"),
    }  # fmt: skip


def test_a_whole_record_stays_in_the_leaf():
    _, actions = first()
    for action in kind(actions, Publish):
        if action.key == "node/n1":
            assert ("cpus" in ndb.parse(action.value.decode())) is (action.zone == "paris")


def test_a_node_asks_its_seeds_and_enters_where_it_is_told():
    seed, _ = first()
    found = member("n1:5640", name="n2")
    assert found.tick(0.0) == [Ask("n1:5640")]
    actions = found.introduced(seed.introduction("paris", "n2", 20.0), 0.1)
    assert kind(actions, Enter) == [Enter("paris", ("n1:5640",))]
    assert kind(actions, Changed)[0].why == "n1 knew its place"


def test_the_first_of_another_cluster_founds_it_and_knows_the_root():
    seed, _ = first()
    found = member("n1:5640", name="n2", cluster="rome")
    found.tick(0.0)
    actions = found.introduced(seed.introduction("rome", "n2", 20.0), 0.1)
    assert kind(actions, Enter) == [Enter("rome", ())]
    assert kind(ticks(found, 0.5, 8.0), Enter) == [Enter("", ("n1:5641",))]


def test_seeds_that_do_not_answer_are_tried_in_turn_and_then_it_goes_alone():
    found = member("a:1", "b:1")
    actions = ticks(found, 0.0, 60.0)
    assert [action.address for action in kind(actions, Ask)][:3] == ["a:1", "b:1", "a:1"]
    assert kind(actions, Enter)[0] == Enter("paris", ("a:1", "b:1"))


def test_a_name_that_another_key_holds_is_refused_and_tried_again():
    found = member("s:1")
    found.tick(0.0)
    actions = found.introduced(
        "node=s leaf=paris nodes=3\nenter=paris\ntaken=n1 id=ffffffff boot=5000\n", 0.1
    )
    assert [(c.new, c.why) for c in kind(actions, Changed)] == [
        ("refused", "a node named n1 with another key lives in the cloud")
    ]
    actions = ticks(found, 0.5, 15.0)
    assert set(kind(actions, Ask)) == {Ask("s:1")}
    assert not kind(actions, Enter)


def test_its_own_key_from_an_earlier_start_is_no_obstacle():
    found = member("s:1")
    found.tick(0.0)
    assert kind(
        found.introduced(
            f"node=s leaf=paris nodes=3\nenter=paris\ntaken=n1 id={ID[:8]} boot=999\n", 0.1
        ),
        Enter,
    )


def test_a_node_started_again_elsewhere_makes_this_one_give_way():
    found, _ = first()
    for seq in range(1, 4):
        value = f"id={ID[:8]} boot=2000 seq={seq} leaf=paris rev=1 sum=0".encode()
        actions = found.heard("paris", "beat/n1", value, None, 20.0)
    assert kind(actions, Changed)[0].new == "refused"
    assert {a.zone for a in kind(ticks(found, 20.5, 25.0), Exit)} == {"paris", ""}


def test_leaving_says_so_first_and_then_closes_all():
    found, _ = first()
    actions = found.leave(20.0)
    assert all(b"bye=left" in p.value for p in kind(actions, Publish) if p.key == "beat/n1")
    assert ndb.parse(kind(actions, Publish)[0].value.decode())["state"] == "left"
    later = ticks(found, 20.5, 30.0)
    assert {a.zone for a in kind(later, Exit)} == {"paris", ""}
    assert not kind(later, Publish)


def test_a_record_is_told_on_change_and_not_on_every_flutter():
    found, _ = first()
    actions = []
    for n in range(20):
        found.set_record({"cpus": 4, "load": 0.5 + n / 1000, "arch": "x86_64"}, 20.0 + n)
        actions += ticks(found, 20.0 + n, 21.0 + n)
    assert not [p for p in kind(actions, Publish) if p.key == "node/n1"]
    ticks(found, 40.0, 41.0)
    found.set_record({"cpus": 4, "load": 0.5, "arch": "x86_64", "state": "drained"}, 41.0)
    told = [p for p in kind(ticks(found, 41.0, 42.0), Publish) if p.key == "node/n1"]
    assert {ndb.parse(p.value.decode())["state"] for p in told} == {"drained"}
    assert found.members(42.0)[0].state == "drained"
    assert kind(found.set_record({"cpus": 4, "load": 9, "arch": "x86_64"}, 60.0), Publish) == []
    assert [p for p in kind(ticks(found, 60.0, 61.0), Publish) if p.key == "node/n1"]


@given(
    st.sampled_from(
        ["beat/n2", "node/n2", "zone/paris.0", "zone/x", "up/", "up/x", "odd", "beat/n1"]
    ),
    st.binary(max_size=80),
)
def test_rubbish_from_the_net_does_no_harm(key, data):
    found, _ = first()
    for zone in ("paris", "", "elsewhere"):
        found.heard(zone, key, data, None, 20.0)
        found.heard(zone, key, None, None, 20.0)
    assert found.digest("", 21.0).digest.nodes == 1
    found.tick(21.0)


@given(st.text(max_size=80))
def test_rubbish_for_an_introduction_is_no_answer(text):
    found = member("a:1", "b:1")
    found.tick(0.0)
    found.introduced(text, 0.1)
    assert found.phase == "asking"


def test_an_introduction_reads_back():
    seed, _ = first()
    read = introduce.parse(seed.introduction("paris", "n1", 20.0))
    assert (read.node, read.leaf, read.nodes, read.enter) == ("n1", "paris", 1, "paris")
    assert read.peers == {"paris": [("n1", "n1:5640")], "": [("n1", "n1:5640")]}
    assert introduce.parse("") is None


@given(st.floats(1.0, 1e5), st.booleans())
def test_a_report_reads_back_with_its_age(age, leaf):
    value = reports.text(
        "c.01", Digest(), by="n1", address="h:1", leaf=leaf, doors=[("a", "h:2")], age=age
    )
    read = reports.parse(value, 1e6, None)
    assert (read.zone, read.by, read.address, read.leaf, read.doors) == (
        "c.01",
        "n1",
        "h:1",
        leaf,
        (("a", "h:2"),),
    )
    assert abs(1e6 - age - read.at) < 0.1


def test_routes_and_places_of_a_single_node():
    found, _ = first()
    assert found.where_is("n1", 20.0) == ["paris"]
    assert found.where_is("other", 20.0) == []
    assert found.routes("paris") == ["n1"]
    assert found.address_of("n1") == "n1:5640"
    assert found.digest("rome", 20.0) is None


def test_what_is_no_report_is_refused():
    for wrong in (b"", b"zone=c.2 by=a", b"zone=c age=x\nnodes=0 leaves=0 cut=", b"\xff"):
        try:
            reports.parse(wrong, 0.0, None)
        except CloudError:
            continue
        raise AssertionError(wrong)
