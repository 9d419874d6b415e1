"""Users and groups as signed records: made by authorities alone, changed by their owners alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, versions
from cloudfs.factotum.accounts import Group, User
from tests.factotum.test_authority import PARIS, ROME, ROOT

KEY, NEW, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
ANA = accounts.make_user(PARIS, "ana", KEY, "secstore='3 of 5'")


def check(user: User) -> None:
    accounts.check_user(accounts.parse_user(user.text()), ROOT.cert, "local")


def refused(user: User) -> str:
    with pytest.raises(CloudError) as caught:
        check(user)
    assert caught.value.kind in ("bad", "denied")
    return caught.value.why


def test_a_user_made_by_any_clusters_authority_is_known() -> None:
    check(ANA)
    check(accounts.make_user(ROME, "bob", OTHER))
    assert accounts.made_in(ANA) == "paris"
    assert len(ANA.text()) < 1500


def test_keys_epochs_and_more_change_by_the_owners_hand() -> None:
    two = accounts.change_user([ANA], KEY, epoch=True, more="secstore='2 of 3'")
    three = accounts.change_user([two], KEY, new_key=NEW)
    four = accounts.change_user([three], NEW, epoch=True)
    for one in (two, three, four):
        check(one)
    assert (four.epoch, four.version, four.more) == (3, 4, "secstore='2 of 3'")
    assert four.key == NEW.public_key().public_bytes_raw()
    assert versions.newest([three, ANA, four, two]) == four


def test_nobody_else_changes_a_user() -> None:
    assert "not made by who may" in refused(accounts.change_user([ANA], OTHER))
    assert "not made by who may" in refused(accounts.change_user([ANA], OTHER, new_key=NEW))
    three = accounts.change_user([ANA], KEY, new_key=NEW)
    assert "not made by who may" in refused(accounts.change_user([three], KEY))


def test_a_name_is_of_whom_an_authority_gave_it_to() -> None:
    """A node, or another user, cannot be ana: neither by a word of its own nor by a taken one."""
    forged = accounts.make_user(replace(PARIS, key=ROME.key), "ana", OTHER)
    assert "not made by who may" in refused(forged)
    mallory = accounts.make_user(PARIS, "mallory", OTHER)
    renamed = replace(mallory, user="ana")
    assert "not made by who may" in refused(accounts.change_user([renamed], OTHER))
    mixed = replace(mallory, user="ana", made=ANA.made)
    assert "not made by who may" in refused(accounts.change_user([mixed], OTHER))


def test_a_certificate_that_cannot_even_be_read_is_refused_like_others() -> None:
    cert, key, word = ANA.made
    strange = cert[:12] + bytes([cert[12] ^ 1]) + cert[13:]  # of an X.509 that there is not
    assert "not made by who may" in refused(replace(ANA, made=(strange, key, word)))


def test_records_of_another_cloud_do_not_hold() -> None:
    with pytest.raises(CloudError, match="not made by who may"):
        accounts.check_user(ANA, ROOT.cert, "other")


def test_a_fork_is_ended_by_its_owner() -> None:
    left = accounts.change_user([ANA], KEY, more="left")
    right = accounts.change_user([ANA], KEY, more="right", epoch=True)
    with pytest.raises(CloudError, match="parted in two"):
        versions.newest([ANA, left, right])
    ended = accounts.change_user([left, right], KEY)
    check(ended)
    assert versions.newest([ANA, left, right, ended]) == ended
    assert (ended.more, ended.epoch) == ("left", 2)


@pytest.mark.parametrize(
    "name", ["", "Ana", "none", "root", "a b", "a/b", "a\nb", "ä", "x" * 33, "1a"]
)
def test_names_that_nobody_has(name: str) -> None:
    with pytest.raises(CloudError, match="no name of a user"):
        accounts.make_user(PARIS, name, KEY)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_record_with_a_wrong_byte(data: st.DataObject) -> None:
    text = ANA.text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("0123456789abcdefA=, '+/\n")) + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(CloudError) as caught:
        accounts.check_user(accounts.parse_user(changed), ROOT.cert, "local")
    assert caught.value.kind in ("bad", "denied")


@given(st.text(max_size=300))
def test_other_text_is_no_record(text: str) -> None:
    for parse in (accounts.parse_user, accounts.parse_group):
        with pytest.raises(CloudError, match="that is no record"):
            parse(text)


def test_bounds() -> None:
    with pytest.raises(CloudError, match="at most 8192"):
        accounts.make_user(PARIS, "ana", KEY, "x" * 8192)
    with pytest.raises(CloudError, match="at most 256 members"):
        accounts.make_group("web", "ana", [f"u{n}" for n in range(300)], KEY)
    user, keys = ANA, [KEY, NEW]
    for turn in range(accounts.KEYS):
        user = accounts.change_user([user], keys[turn % 2], new_key=keys[1 - turn % 2])
    check(user)
    with pytest.raises(CloudError, match="changed keys 16 times"):
        accounts.change_user([user], KEY, new_key=NEW)


# --- groups ---------------------------------------------------------------------------------


def check_group(group: Group) -> None:
    accounts.check_group(accounts.parse_group(group.text()), {"ana": ANA}.__getitem__)


def test_a_group_is_its_owners() -> None:
    one = accounts.make_group("web", "ana", ["bob", "ana", "bob"], KEY)
    check_group(one)
    assert one.members == ("ana", "bob")
    two = accounts.make_group("web", "ana", ["ana"], KEY, [one])
    check_group(two)
    assert versions.newest([two, one]) == two
    with pytest.raises(CloudError, match="not signed by ana"):
        check_group(accounts.make_group("web", "ana", ["mallory"], OTHER, [two]))
