"""Copies that have met are the same, whatever each missed before; digests tell."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.copies import BUCKETS, Copies, bucket_of, compare, lifetime_of
from cloudfs.fabric.packet import pack
from cloudfs.fabric.record import MAX_VALUE, Record, pack_record, unpack_record
from cloudfs.fabric.stamp import Stamp


def record(owner, key, time, value=b"v", lifetime=0.0, gone=False):
    return Record(key, owner, b"" if gone else value, Stamp(time, 0, owner), lifetime, gone)


RECORDS = st.builds(
    record,
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["a", "b", "c d", "ü'"]),
    st.integers(1, 6),
    gone=st.booleans(),
)
LISTS = st.lists(RECORDS, max_size=15).map(
    lambda found: list({(r.name, r.stamp): r for r in found}.values())
)


def filled(records):
    copies = Copies()
    for each in records:
        copies.merge(each, lifetime_of(each), 0.0)
    return copies


@given(LISTS, st.data())
def test_order_and_repetition_do_not_matter(records, data):
    one = filled(records)
    two = filled(data.draw(st.permutations(records + records[:3])))
    assert one.root() == two.root()
    keys = sorted(one.keys())
    assert keys == sorted(two.keys())
    for key in keys:
        assert one.get(key) == two.get(key)
        assert one.owned(key) == two.owned(key)


@given(LISTS, LISTS)
def test_one_comparison_makes_two_the_same(mine, theirs):
    both = {(r.name, r.stamp): r for r in mine + theirs}
    mine = [both[r.name, r.stamp] for r in mine]  # a stamp stands for one value
    theirs = [both[r.name, r.stamp] for r in theirs]
    one, two = filled(mine), filled(theirs)
    parts = [at for at in range(BUCKETS) if one.buckets()[at] != two.buckets()[at]]
    assert bool(parts) == (one.root() != two.root())
    take, give = compare(one.heads(parts), two.heads(parts))
    for name in take:
        one.merge(two.version(name), two.left(two.version(name), 0.0), 0.0)
    for name in give:
        two.merge(one.version(name), one.left(one.version(name), 0.0), 0.0)
    assert one.root() == two.root() == filled(mine + theirs).root()


@given(LISTS)
def test_the_digests_are_those_of_a_copy_made_at_once(records):
    copies = filled(records)
    last = {}
    for each in records:
        if each.name not in last or last[each.name].stamp < each.stamp:
            last[each.name] = each
    assert copies.buckets() == filled(last.values()).buckets()
    assert copies.heads(range(BUCKETS)) == {name: r.stamp for name, r in last.items()}
    assert all(0 <= bucket_of(name) < BUCKETS for name in last)


def test_the_last_owner_wins_and_the_other_stays_below():
    copies = filled([record("n1", "k", 5), record("n2", "k", 7)])
    assert copies.get("k").owner == "n2"
    assert [r.owner for r in copies.owned("k")] == ["n2", "n1"]
    copies.merge(record("n2", "k", 8, gone=True), None, 0.0)
    assert copies.get("k").owner == "n1"
    copies.merge(record("n1", "k", 9, gone=True), None, 0.0)
    assert copies.get("k") is None
    assert list(copies.keys()) == []


def test_lifetimes():
    copies, empty = Copies(), Copies().root()
    short = record("n1", "k", 1, lifetime=10.0)
    assert copies.merge(short, 10.0, 100.0)
    assert not copies.merge(short, 10.0, 105.0)  # a copy of it does not make it younger
    assert copies.left(short, 104.0) == 6.0
    assert copies.expire(109.9) == []
    again = record("n1", "k", 2, lifetime=10.0)
    assert copies.merge(again, 10.0, 109.9)
    assert copies.expire(119.0) == []
    assert copies.expire(120.0) == [again]
    assert (len(copies), copies.root(), copies.get("k")) == (0, empty, None)
    assert not copies.merge(again, 0.0, 121.0)
    gone = record("n1", "k", 3, lifetime=10.0, gone=True)
    copies.merge(gone, lifetime_of(gone), 200.0)
    assert copies.expire(300.0) == []  # it was no more before
    assert len(copies) == 0


@given(RECORDS, st.one_of(st.none(), st.integers(0, 10**6).map(float)), st.binary(max_size=20))
def test_records_on_the_way(record, left, value):
    record = replace(record, value=value, lifetime=float(left or 0))
    assert unpack_record(pack_record(record, left)) == (record, left)


GOOD = "key=k owner=n1 stamp=1.0@n1 lifetime=0 left="


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        pack("key=k"),
        pack("key=k owner=n1 stamp=1 lifetime=0 left=", ""),
        pack(GOOD.replace("lifetime=0", "lifetime=nan"), ""),
        pack(GOOD.replace("left=", "left=1e99"), ""),
        pack(GOOD, bytes(MAX_VALUE + 1)),
        pack(GOOD + "'", ""),
        pack(b"\xff", ""),
    ],
)
def test_records_that_are_none(data):
    with pytest.raises(CloudError) as caught:
        unpack_record(data)
    assert caught.value.kind == "proto"
