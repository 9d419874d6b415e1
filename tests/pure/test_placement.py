"""Which node an object goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import query
from cloudfs.kernel.placement import Wish, order, score, stays
from cloudfs.kernel.reserve import amount


def node(idle=4.0, cpus=4, **more):
    found = {"cpus": cpus, "cpu.idle": idle, "load": cpus - idle, "cpu.unreserved": float(cpus)}
    found |= {"mem.total": 8e9, "mem.unreserved": 8e9, "state": "alive", "cluster": "paris"}
    return found | {name.replace("_", "."): value for name, value in more.items()}


def wish(require=(), prefer=(), id="a" * 16, **more):
    return Wish(id, require=tuple(map(query.parse, require)), prefer=tuple(map(query.parse, prefer)), **more)  # fmt: skip


NODES = {
    "n1": node(price=3.0, label_gpu="a100"),
    "n2": node(price=1.0, cluster="rome"),
    "n3": node(price=2.0, cpus=8, idle=8.0),
}


# --- what will do


def test_every_expression_must_be_met():
    assert order(wish(["cluster=paris", "cpus>=8"]), NODES, "n2") == ["n3"]
    assert order(wish(["price<3", "cluster=rome"]), NODES, "n1") == ["n2"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (wish(["cpus>=16", "label.gpu=a100"]), "none of 3 nodes will do: cpus>=16 fails on 3, label.gpu=a100 fails on 2"),
        (wish(want=amount(6, 0)), "none of 2 nodes will do: limit cpu=6 fails on 2"),
        (wish(want=amount(0, 10**12)), "limit mem=1000000000000 fails on 3"),
        (wish(["cpus>=16"], on="n1"), r"node n1 does not meet cpus>=16 \(it has 4\)"),
        (wish(on="n9"), "there is no node 'n9'"),
    ],
)  # fmt: skip
def test_what_none_meets_is_told_with_how_many_fail(asked, said):
    nodes = {k: v for k, v in NODES.items() if k != "n3"} if asked.want.cpu else NODES
    with pytest.raises(CloudError, match=said) as caught:
        order(asked, nodes, "n1")
    assert caught.value.kind == "unreachable"


def test_a_drained_node_takes_nothing_and_says_so():
    nodes = NODES | {"n1": node(state="drained", drained="new disk"), "n3": node(state="left")}
    assert order(wish(), nodes, "n1") == ["n2"]
    with pytest.raises(CloudError, match=r"state=alive \(it has drained: new disk\)"):
        order(wish(on="n1"), nodes, "n2")


def test_a_node_that_tells_nothing_will_do():
    assert order(wish(want=amount(6, 0)), {"n1": {}}, "n1") == ["n1"]


# --- what is best


def test_home_unless_it_is_busy_and_another_has_half_a_machine_more():
    def first(home, other, age=0):
        return order(wish(), {"n1": node(home), "n2": node(other, age=age)}, "n1")[0]

    assert first(4, 4) == "n1"
    assert first(2, 4) == "n1"
    assert first(1.5, 4) == "n2"
    assert first(1.5, 3) == "n1"
    assert first(1.5, 4, age=60) == "n1"
    assert first(0.2, 1) == "n2"
    assert first(0, 0) == "n1"


def test_what_is_reserved_is_not_idle():
    nodes = {"n1": node(cpu_unreserved=0.0), "n2": node(mem_unreserved=0), "n3": node(2.5)}
    assert order(wish(), nodes, "n1")[0] == "n3"


def test_prefer_counts_before_sort_before_load():
    nodes = NODES | {"n4": node(1.0, price=1.0, cluster="rome")}
    assert order(wish(prefer=["cluster=rome"]), nodes, "n1") == ["n2", "n4", "n1", "n3"]
    assert order(wish(prefer=["sort=price"]), nodes, "n1") == ["n2", "n4", "n3", "n1"]
    assert order(wish(prefer=["label.gpu=a100", "sort=price"]), NODES, "n2")[0] == "n1"


def test_nodes_that_do_not_tell_what_is_sorted_by_come_last():
    nodes = {"n1": node(), "n2": node(rtt="unknown"), "n3": node(rtt=5), "n4": node(rtt=10)}
    assert order(wish(prefer=["sort=rtt"]), nodes, "n1") == ["n3", "n4", "n2", "n1"]


def test_many_who_place_at_once_do_not_all_choose_the_same():
    nodes = {"n0": node(0.0)} | {f"n{i}": node() for i in range(1, 9)}
    firsts = {order(wish(id=str(i)), nodes, "n0")[0] for i in range(100)}
    assert firsts == set(nodes) - {"n0"}


def test_spread_goes_where_the_fewest_are():
    nodes = {f"n{i}": node(cluster=f"c{i % 3}") for i in range(6)}
    where = []
    for number in range(7):
        asked = wish(id=str(number), spread="cluster")
        found = order(asked, nodes, "n0", where)[0]
        where.append(found)
    counts = [sum(n in (f"n{i}", f"n{i + 3}") for n in where) for i in range(3)]
    assert sorted(counts) == [2, 2, 3]
    assert max(map(where.count, where)) <= 2


ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.integers(0, 64),
        "cpu.idle": st.floats(0, 64),
        "load": st.floats(0, 1000),
        "cpu.unreserved": st.one_of(st.floats(0, 64), st.text()),
        "mem.total": st.integers(0, 1 << 40),
        "mem.unreserved": st.integers(0, 1 << 40),
        "age": st.floats(-1, 1e6),
    },
)


@given(st.dictionaries(st.text(min_size=1), ATTRIBUTES, min_size=1), ATTRIBUTES)
def test_any_attributes_give_an_order_and_a_bounded_score(nodes, own):
    nodes["home"] = own
    found = order(wish(), nodes, "home")
    assert sorted(found) == sorted(nodes)
    assert all(0 <= score(has, name == "home") <= 1.5 for name, has in nodes.items())
    if stays(wish(), own):
        assert found[0] == "home"
