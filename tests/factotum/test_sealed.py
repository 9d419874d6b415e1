"""Sealed keys: opened by password or code, changed or old ones seen, forks kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import sealed, versions
from cloudfs.factotum.sealed import Blob

KEY = Ed25519PrivateKey.generate()
CODE = sealed.new_code()
HARD = b"\5" * 64


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with little memory; the last test here has all of it."""
    monkeypatch.setattr(sealed, "MEMORY", 64)


def seal(*last: Blob, content: bytes = b"key proto=cap25519") -> Blob:
    return sealed.seal(content, "ana", HARD, CODE, KEY, last)


def test_password_and_code_open_it_and_nothing_else_does() -> None:
    blob = sealed.parse(seal().text())
    blob.check(KEY.public_key())
    assert sealed.open_by_password(blob, HARD) == b"key proto=cap25519"
    assert sealed.open_by_code(blob, f" {CODE.upper()} ") == b"key proto=cap25519"
    with pytest.raises(CloudError, match="the password is wrong"):
        sealed.open_by_password(blob, b"\6" * 64)
    with pytest.raises(CloudError, match="the recovery code is wrong"):
        sealed.open_by_code(blob, sealed.new_code())
    with pytest.raises(CloudError, match="26 letters"):
        sealed.open_by_code(blob, "none")


def test_nothing_of_it_stands_in_the_blob() -> None:
    text = seal(content=b"sesame-sesame").text()
    assert "sesame" not in text
    assert CODE not in text


@given(st.data())
def test_a_changed_blob_is_seen(data: st.DataObject) -> None:
    text = FIXED.text()
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.sampled_from("0123456789abcdefABC=, '\n\x00é"))
    changed = text[:at] + byte + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(CloudError) as caught:
        sealed.parse(changed).check(KEY.public_key())
    assert caught.value.kind in ("bad", "denied")


@given(st.text(max_size=300))
def test_anything_else_is_no_blob(text: str) -> None:
    with pytest.raises(CloudError, match="no sealed key file"):
        sealed.parse(text)


def test_another_users_signature_does_not_do() -> None:
    with pytest.raises(CloudError, match="was changed"):
        seal().check(Ed25519PrivateKey.generate().public_key())


def test_slots_of_one_version_do_not_fit_another() -> None:
    one = seal()
    two = seal(one)
    with pytest.raises(CloudError):
        sealed.open_by_password(replace(two, password=one.password), HARD)


def test_the_newest_holds_in_whatever_order_they_come() -> None:
    one = seal()
    two = seal(one)
    three = seal(two)
    assert versions.newest([two, three, one]) == three
    assert versions.newest([one, one, two]) == two
    assert versions.newest([three], seen=one) == three
    assert versions.newest([three], seen=three) == three


def test_older_ones_than_were_seen_are_refused() -> None:
    one = seal()
    two = seal(one)
    with pytest.raises(CloudError, match="behind or lie") as caught:
        versions.newest([one], seen=two)
    assert caught.value.kind == "stale"
    with pytest.raises(CloudError) as caught:
        versions.newest([])
    assert caught.value.kind == "absent"


def test_a_fork_is_seen_and_both_are_kept() -> None:
    one = seal()
    left, right = seal(one), seal(one)
    assert set(versions.heads([one, left, right])) == {left, right}
    with pytest.raises(CloudError, match="parted in two"):
        versions.newest([one, left, right])
    with pytest.raises(CloudError, match="parted in two"):
        versions.newest([left], seen=right)
    settled = seal(left, right)
    settled.check(KEY.public_key())
    assert versions.newest([one, left, right, settled]) == settled


def test_versions_remember_sixteen_before_them() -> None:
    chain = [seal()]
    for _ in range(18):
        chain.append(seal(chain[-1]))
    assert len(chain[-1].before) == versions.BEFORE
    assert versions.newest(chain) == chain[-1]
    with pytest.raises(CloudError, match="parted"):
        versions.newest([chain[-1]], seen=chain[0])  # too far apart to tell


def test_too_much_to_seal() -> None:
    with pytest.raises(CloudError, match="at most"):
        seal(content=bytes(sealed.MOST + 1))


def test_with_all_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sealed.MEMORY == 64 << 10
    assert sealed.open_by_password(seal(), HARD) == b"key proto=cap25519"


_memory, sealed.MEMORY = sealed.MEMORY, 64
FIXED = seal()
sealed.MEMORY = _memory
