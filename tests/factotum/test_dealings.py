"""Dealings as records, and who is chosen to hold a user's shares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, ristretto, shares
from cloudfs.factotum.dealings import Notes, choose, notes, size
from tests.factotum.people import dealt, key
from tests.factotum.test_authority import PARIS

CLOUDS = st.dictionaries(
    st.text("abcdef0123456789", min_size=1, max_size=6),
    st.sampled_from(["paris", "rome", "tokyo"]),
    min_size=1,
    max_size=40,
)
FIRST, SHARES = dealt("ana", ("n1", "n2", "n3"), 2)


def test_a_dealing_comes_back_from_its_line() -> None:
    made = dealings.parse(FIRST.text())
    assert made == FIRST
    assert (made.share_of("n2"), made.share_of("n9")) == (2, 0)
    for number, share in SHARES.items():
        assert ristretto.base(share) == made.point_of(number)
    signed = dealings.with_signs(FIRST, {1: b"x" * 64})
    assert signed.digest == FIRST.digest
    assert dealings.parse(signed.text()).signs == ((1, b"x" * 64),)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_wrong_byte_is_seen_or_changes_what_it_is_known_by(data: st.DataObject) -> None:
    text = FIRST.text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("0123456789abcdef=,: '\n")) + text[at + 1 :]
    if changed == text:
        return
    try:
        made = dealings.parse(changed)
    except CloudError as error:
        if error.kind not in ("bad",):
            raise
    else:
        assert made.digest != FIRST.digest or made.signs


@given(st.text(max_size=300))
def test_other_text_is_no_dealing(text: str) -> None:
    with pytest.raises(CloudError, match="no record of a dealing"):
        dealings.parse(text)


def test_what_is_not_sound_is_refused() -> None:
    for bad in (
        replace(FIRST, need=4),
        replace(FIRST, need=0, points=()),
        replace(FIRST, number=0),
        replace(FIRST, holders=("n1", "n1", "n3")),
        replace(FIRST, holders=("n1", "n2")),
        replace(FIRST, holders=("n1", "n/2", "n3")),
        replace(FIRST, points=FIRST.points[:1]),
        replace(FIRST, keys=(b"x", *FIRST.keys[1:])),
        replace(FIRST, user="../ana"),
    ):
        with pytest.raises(CloudError):
            dealings.parse(bad.text())


def test_the_users_record_tells_of_it() -> None:
    said = Notes(FIRST.digest, FIRST.public, "ab" * 32, (bytes(32), b"\1" * 32))
    record = accounts.make_user(PARIS, "ana", key(1), said.text())
    assert notes(record) == said
    many = replace(said, devices=tuple(bytes([n]) * 32 for n in range(40)))
    assert (
        len(notes(accounts.make_user(PARIS, "ana", key(1), many.text())).devices)
        == dealings.DEVICES
    )
    for more in ("", "'", "public=zz", "devices=1", "x=y"):
        assert notes(accounts.make_user(PARIS, "ana", key(1), more)) == Notes()
    full = Notes("f" * 64, bytes(32), "f" * 64, (bytes(32),) * dealings.DEVICES)
    assert len(accounts.make_user(PARIS, "a" * 32, key(1), full.text()).text()) < accounts.MOST / 2


# --- choosing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "wanted"), [(1, (1, 1)), (2, (1, 1)), (3, (2, 3)), (4, (2, 3)), (5, (3, 5)),
                          (1000, (3, 5))]
)  # fmt: skip
def test_how_many_hold_depends_on_the_cloud(nodes: int, wanted: tuple[int, int]) -> None:
    assert size(nodes) == wanted


@given(CLOUDS, st.randoms())
def test_all_who_see_the_same_nodes_choose_the_same(nodes: dict[str, str], dice: object) -> None:
    need, holders = choose("ana", nodes)
    order = list(nodes.items())
    dice.shuffle(order)  # type: ignore[attr-defined]
    assert choose("ana", dict(order)) == (need, holders)
    assert (need, len(holders)) == size(len(nodes))
    assert len(set(holders)) == len(holders)
    assert set(holders) <= set(nodes)


@given(CLOUDS)
def test_no_cluster_has_more_than_its_part_where_others_have_nodes(nodes: dict[str, str]) -> None:
    _, holders = choose("ana", nodes)
    here = {name: list(nodes.values()).count(name) for name in set(nodes.values())}
    part = -(-len(holders) // len(here))
    for cluster in here:
        count = sum(nodes[node] == cluster for node in holders)
        others = sum(min(has, part) for name, has in here.items() if name != cluster)
        assert count <= max(part, len(holders) - others)


@given(CLOUDS, st.data())
def test_those_that_are_there_stay(nodes: dict[str, str], data: st.DataObject) -> None:
    _, first = choose("ana", nodes)
    lost = data.draw(st.sampled_from(first))
    left = {name: cluster for name, cluster in nodes.items() if name != lost}
    if not left:
        with pytest.raises(CloudError, match="no node is there"):
            choose("ana", left, first)
        return
    _, second = choose("ana", left, [node for node in first if node != lost])
    stay = [node for node in first if node != lost]
    assert lost not in second
    assert set(second) <= set(left)
    if len(second) >= len(stay):
        assert set(stay) <= set(second)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_dealt_anew_any_way_it_is_the_same_key(need: int, more: int, data: st.DataObject) -> None:
    """Any sizes, any dealers, several times: enough shares of one dealing have the secret."""
    secret = ristretto.scalar()
    numbers = range(1, need + more + 1)
    last = shares.deal(secret, need, numbers)
    held, points = dict(last.shares), last.commitments
    for _ in range(2):
        dealers = data.draw(
            st.lists(st.sampled_from(sorted(held)), min_size=len(points), max_size=len(points),
                     unique=True)
        )  # fmt: skip
        new_need = data.draw(st.integers(1, 5))
        new = range(1, new_need + data.draw(st.integers(0, 3)) + 1)
        parts = {n: shares.deal(held[n], new_need, new) for n in dealers}
        told = {n: part.commitments for n, part in parts.items()}
        joined = {
            n: shares.join(n, {d: (parts[d].shares[n], told[d]) for d in dealers}, points, new_need)
            for n in new
        }
        assert len({made for _, made in joined.values()}) == 1
        held, points = {n: share for n, (share, _) in joined.items()}, joined[1][1]
        assert points[0] == ristretto.base(secret)
        some = data.draw(
            st.lists(st.sampled_from(sorted(held)), min_size=new_need, max_size=new_need,
                     unique=True)
        )  # fmt: skip
        assert shares.restore({n: held[n] for n in some}) == secret
