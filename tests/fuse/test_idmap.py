"""Names and numbers of users and groups."""

from __future__ import annotations

import grp
import os
import pwd

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.tree import idmap
from cloudfs.tree.idmap import KEEP, ROOM, UNKNOWN, gid_of, group_of, uid_of, user_of, who_of


def test_everybody_here_reads_back() -> None:
    for entry in pwd.getpwall():
        assert uid_of(entry.pw_name) == entry.pw_uid
        assert uid_of(user_of(entry.pw_uid)) == entry.pw_uid
    for group in grp.getgrall():
        assert gid_of(group.gr_name) == group.gr_gid
        assert gid_of(group_of(group.gr_gid)) == group.gr_gid


def test_unknown_names_and_numbers() -> None:
    assert uid_of("nobody of this name") == UNKNOWN
    assert gid_of("nobody of this name") == UNKNOWN
    assert uid_of("none") == UNKNOWN
    assert user_of(987654) == "#987654"
    assert uid_of("#987654") == 987654
    assert group_of(987654) == "#987654"
    assert gid_of("#987654") == 987654
    assert uid_of("#4294967295") == 0xFFFFFFFE
    for word in ("#", "#-1", "#1x", "#٣", "#99999999999", ""):
        assert uid_of(word) == UNKNOWN


@given(st.text(max_size=40))
def test_any_name_has_a_number(name: str) -> None:
    assert 0 <= uid_of(name) < 0xFFFFFFFF
    assert 0 <= gid_of(name) < 0xFFFFFFFF


@given(st.integers(-(1 << 70), 1 << 70))
def test_any_number_has_a_name(number: int) -> None:
    assert user_of(number)
    assert group_of(number)


def test_who() -> None:
    root = who_of(0, {0})
    assert (root.user, root.uid, root.boss) == ("root", 0, True)
    gids = os.getgrouplist("root", pwd.getpwnam("root").pw_gid)
    assert root.groups == {group_of(gid) for gid in gids} | {"root"}
    assert not who_of(0, ()).boss
    stranger = who_of(987654, {0})
    assert (stranger.user, stranger.groups, stranger.boss) == ("#987654", {"#987654"}, False)


def test_answers_are_kept_for_a_while_and_not_without_bound() -> None:
    now = [0.0]
    asked: list[int] = []

    def lookup(key: int) -> int:
        asked.append(key)
        return -key

    kept = idmap._Kept(lookup, clock=lambda: now[0])
    assert [kept(1), kept(1)] == [-1, -1]
    assert asked == [1]
    now[0] = KEEP
    assert kept(1) == -1
    assert asked == [1, 1]
    for key in range(2, ROOM + 2):
        kept(key)
    assert len(kept._answers) == ROOM
    kept(1)
    assert asked[-1] == 1
