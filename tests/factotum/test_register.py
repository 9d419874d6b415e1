"""What a node knows of users and groups: checked, newest, and the same in any order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, register
from cloudfs.factotum.accounts import Group, User
from cloudfs.factotum.register import Register
from tests.factotum.people import TRUST, dealt, key, user
from tests.factotum.test_authority import PARIS, ROME

ANA = user("ana", key(1))
BOB = user("bob", key(2))
WEB = accounts.make_group("web", "ana", ["ana", "bob"], key(1))


def filled(*records: object) -> Register:
    made = Register(lambda: TRUST)
    for record in records:
        assert made.put(record.text())  # type: ignore[attr-defined]
    return made


def put(known: Register, text: str, *kinds: str) -> None:
    """Put a record that may also be refused in these ways."""
    try:
        known.put(text)
    except CloudError as error:
        if error.kind not in kinds:
            raise


def refused(made: Register, record: object, kind: str) -> str:
    before = made.hashes()
    with pytest.raises(CloudError) as caught:
        made.put(record if isinstance(record, str) else record.text())  # type: ignore[attr-defined]
    assert caught.value.kind == kind, caught.value
    assert made.hashes() == before
    return caught.value.why


def test_users_groups_and_epochs() -> None:
    known = filled(ANA, BOB, WEB)
    assert known.user("ana") == ANA
    assert known.user("eve") is None
    assert known.groups_of("bob") == {"web"}
    assert known.groups_of("eve") == frozenset()
    assert (known.epoch("ana"), known.epoch("eve")) == (1, 0)
    assert known.put(accounts.change_user([ANA], key(1), epoch=True).text())
    assert known.epoch("ana") == 2
    assert known.put(accounts.make_group("web", "ana", ["ana"], key(1), [WEB]).text())
    assert known.groups_of("bob") == frozenset()
    assert (known.users(), known.groups()) == (["ana", "bob"], ["web"])
    assert known.put(known.user("ana").text()) is False  # type: ignore[union-attr]


def test_forged_truncated_replayed_and_older_ones_are_refused() -> None:
    two = accounts.change_user([ANA], key(1), epoch=True)
    known = filled(ANA, two)
    assert "not the newest" in refused(known, ANA, "stale")
    forged = accounts.make_user(replace(PARIS, key=ROME.key), "eve", key(3))
    refused(known, forged, "denied")
    refused(known, accounts.change_user([two], key(3)), "denied")
    refused(known, two.text()[:-9], "bad")
    refused(known, two.text().replace("epoch=2", "epoch=9"), "denied")
    refused(known, "x" * 9000, "toobig")
    refused(known, "nonsense=1\n", "bad")
    refused(known, accounts.make_group("web", "ana", ["eve"], key(3)), "denied")
    refused(known, accounts.make_group("x", "nobody", ["eve"], key(3)), "absent")
    refused(Register(lambda: None), ANA, "absent")


def test_a_record_does_not_go_back_an_epoch() -> None:
    two = accounts.change_user([ANA], key(1), epoch=True)
    back = replace(accounts.change_user([two], key(1)), epoch=1)
    back = replace(back, sign=key(1).sign(back.signed().encode()))
    assert "goes back an epoch" in refused(filled(ANA, two), back, "denied")


def test_a_replaced_key_makes_nothing_any_more() -> None:
    two = accounts.change_user([ANA], key(1), new_key=key(9))
    known = filled(ANA, two)
    thief = accounts.change_user([ANA], key(1), epoch=True, more="mine")
    assert "another key since" in refused(known, thief, "stale")
    late = filled(ANA, thief)
    assert late.put(two.text())  # whoever heard the thief first comes to the same
    assert late.versions("user", "ana") == [two]


def test_a_fork_is_kept_shown_and_ended_by_its_owner() -> None:
    left = accounts.change_user([ANA], key(1), more="left")
    right = accounts.change_user([ANA], key(1), more="right", epoch=True)
    known = filled(ANA, left, right)
    assert known.forks() == [("user", "ana")]
    assert known.user("ana") == left  # the first one holds,
    assert known.epoch("ana") == 2  # but a token that either has voided is void
    ended = accounts.change_user([right, left], key(1))
    assert known.put(ended.text())
    assert (known.forks(), known.versions("user", "ana")) == ([], [ended])
    refused(known, left, "stale")


def test_of_a_group_that_parted_only_who_is_in_both_is_in_it() -> None:
    one = accounts.make_group("web", "ana", ["ana"], key(1), [WEB])
    two = accounts.make_group("web", "ana", ["ana", "bob"], key(1), [WEB])
    known = filled(ANA, BOB, WEB, one, two)
    assert known.members("web") == {"ana"}
    assert known.forks() == [("group", "web")]


def test_nobody_takes_a_name_by_making_it_again() -> None:
    other = user("ana", key(5), by=ROME)
    claims = accounts.change_user([replace(other, before=(ANA.digest,))], key(5))
    claims = replace(claims, before=(ANA.digest,))
    claims = replace(claims, sign=key(5).sign(claims.signed().encode()))
    known = filled(ANA, claims)
    assert known.user("ana") == ANA
    assert known.forks() == [("user", "ana")]
    poisoned = filled(claims)
    assert poisoned.put(ANA.text())  # that the other names it makes it none the older
    group = accounts.make_group("web", "bob", ["bob"], key(2), [WEB])
    known = filled(ANA, BOB, WEB, group)
    assert known.members("web") == {"ana", "bob"}
    known = filled(BOB, group, ANA)
    assert known.put(WEB.text())
    assert known.members("web") == {"bob"}


def test_a_group_has_no_users_name() -> None:
    evil = accounts.make_group("bob", "ana", ["ana"], key(1))
    assert "a user's name" in refused(filled(ANA, BOB), evil, "denied")
    late = filled(ANA, evil)
    assert late.groups_of("ana") == {"bob"}
    assert late.put(BOB.text())
    assert late.groups_of("ana") == frozenset()


def test_who_is_gone_is_gone_with_groups_and_cannot_be_replayed() -> None:
    gone = accounts.make_gone(PARIS, ANA)
    known = filled(ANA, BOB, WEB, gone)
    assert (known.users(), known.groups_of("bob")) == (["bob"], frozenset())
    assert "is gone" in refused(known, ANA, "stale")
    refused(known, WEB, "absent")
    assert known.put(accounts.make_gone(PARIS, ANA).text()) is False
    again = user("ana", key(7))
    assert known.put(again.text())
    with pytest.raises(CloudError, match="was made in the cluster paris"):
        accounts.make_gone(ROME, ANA)
    romes = replace(gone, made=user("x", key(8), by=ROME).made[0])
    romes = replace(romes, sign=b"")
    refused(filled(ANA), romes, "denied")
    other = user("ana", key(5), by=ROME)
    both = filled(ANA, other, accounts.make_gone(PARIS, ANA))
    assert both.versions("user", "ana") == [other]  # which is how two of a name are settled


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "USERS", 2)
    known = filled(ANA, BOB)
    assert "2 names" in refused(known, user("eve", key(3)), "toomany")
    monkeypatch.setattr(register, "OWN", 2)
    for name in ("a", "b"):
        known.put(accounts.make_group(name, "ana", ["ana"], key(1)).text())
    assert "owns 2 groups" in refused(
        known, accounts.make_group("c", "ana", ["ana"], key(1)), "toomany"
    )
    forks = [accounts.change_user([ANA], key(1), more=str(n)) for n in range(30)]
    known = filled(ANA)
    for fork in forks:
        put(known, fork.text(), "toomany")
    assert len(known.versions("user", "ana")) == register.HEADS


# --- dealings -------------------------------------------------------------------------------


def successor(last: dealings.Dealing, by: tuple[int, ...], **more: object) -> dealings.Dealing:
    made = replace(last, number=last.number + 1, before=last.digest, signs=(), **more)  # type: ignore[arg-type]
    return dealings.with_signs(made, {n: made.sign(n, key(100 + n)) for n in by})


def test_dealings_follow_each_other_by_the_word_of_enough_holders() -> None:
    first, _ = dealt("ana", ("n1", "n2", "n3"), 2)
    ana = user("ana", key(1), first)
    known = filled(ana, first)
    two = successor(first, (1, 3), holders=("n1", "n4", "n3"))
    refused(known, successor(first, (1,), holders=("n1", "n9", "n3")), "denied")
    refused(known, dealings.with_signs(two, {1: two.signs[0][1], 2: b"x" * 64}), "denied")
    assert known.put(two.text())
    assert known.dealing("ana") == two
    assert known.dealings("ana") == [first, two]
    assert "newer holders" in refused(known, dealt("ana", ("n8", "n9"), 2)[0], "stale")
    other = successor(replace(two, points=two.points[::-1]), (1, 3))
    refused(known, other, "stale" if other.number <= two.number else "absent")
    three = successor(two, (2, 3))
    late = filled(ana)
    refused(late, three, "absent")
    for one in sorted((three.text(), two.text(), first.text()), key=register.order):
        assert late.put(one)
    anchored = accounts.change_user(
        [ana], key(1), more=dealings.Notes(three.digest, three.public).text()
    )
    assert late.put(anchored.text())
    assert late.dealings("ana") == [three]  # those before it are not needed any more
    newcomer = filled(anchored, three)
    assert newcomer.dealing("ana") == three
    refused(newcomer, first, "stale")


def test_two_dealings_at_once_end_in_the_same_one() -> None:
    first, _ = dealt("ana", ("n1", "n2", "n3"), 2)
    ana = user("ana", key(1), first)
    one = successor(first, (1, 2), holders=("n1", "n4", "n3"))
    two = successor(first, (2, 3), holders=("n1", "n5", "n3"))
    ends = set()
    for pair in ((one, two), (two, one)):
        known = filled(ana, first)
        for each in pair:
            put(known, each.text(), "stale")
        ends.add(known.dealing("ana").digest)  # type: ignore[union-attr]
    assert len(ends) == 1


# --- any order ------------------------------------------------------------------------------


def history(dice: random.Random) -> list[User | Group]:
    """Versions of two users and a group, forks and their ends among them."""
    heads: list[list[User]] = [[ANA], [BOB]]
    found: list[User | Group] = [ANA, BOB, WEB]
    group = WEB
    for _ in range(dice.randrange(8)):
        which = dice.randrange(2)
        last, secret = heads[which], key(which + 1)
        if dice.random() < 0.3:  # two devices at once
            heads[which] = [
                accounts.change_user([one], secret, more=f"{dice.random()}") for one in last * 2
            ][:4]
        else:
            heads[which] = [accounts.change_user(last, secret, epoch=dice.random() < 0.5)]
        found += heads[which]
        if dice.random() < 0.3:
            group = accounts.make_group("web", "ana", ["ana"], key(1), [group])
            found.append(group)
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_the_same_records_in_any_order_come_to_the_same(seed: int) -> None:
    dice = random.Random(seed)
    records = [one.text() for one in history(dice)]
    ends = []
    for _ in range(3):
        known = Register(lambda: TRUST)
        dice.shuffle(records)
        for text in [*records, *sorted(records, key=register.order), *records]:
            put(known, text, "stale", "absent")
        ends.append((known.hashes(), known.epoch("ana"), known.epoch("bob"), known.members("web")))
    assert ends[0] == ends[1] == ends[2]
