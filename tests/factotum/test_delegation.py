"""Credentials: a token goes on only by the word of each holder, and never to more than it was."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import delegation, tokens
from cloudfs.factotum.delegation import Credential
from cloudfs.factotum.holders import Holder

NOW = 1_790_000_000.0
HOUR = 3600.0
USER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
# A factotum, and nodes.
HOLDERS = [Holder(Ed25519PrivateKey.from_private_bytes(b"\2" * 32))]
HOLDERS += [Holder(ec.derive_private_key(number, ec.SECP256R1())) for number in range(7, 13)]
PUBLIC = [holder.public for holder in HOLDERS]
NAMES = [holder.name for holder in HOLDERS]
HOP = 1 + 33 + 8 + 64  # bytes of a delegation to a node
SEED, USER_PUBLIC = USER.private_bytes_raw(), USER.public_key().public_bytes_raw()


def token() -> bytes:
    return tokens.mint(SEED, "ana", "local", 3, NAMES[0], NOW)


def handed_on(hops: int, until: float = NOW + HOUR) -> bytes:
    """A token of holder 0 that went on to holder `hops`."""
    credential = token()
    for number in range(hops):
        credential = delegation.delegate(credential, HOLDERS[number], PUBLIC[number + 1], until)
    return credential


def verify(credential: bytes, now: float = NOW) -> Credential:
    def read(bare: bytes) -> tokens.Powers:
        return tokens.verify(
            bare, lambda user: USER_PUBLIC, now, cloud="local", epoch_of=lambda user: 3
        )

    return delegation.verify(credential, now, read)


@pytest.mark.parametrize("hops", range(delegation.HOPS + 1))
def test_a_token_goes_from_holder_to_holder(hops: int) -> None:
    found = verify(handed_on(hops))
    assert found.holders == tuple(NAMES[: hops + 1])
    assert found.used_at("p256:00").user == "ana"
    assert found.used_at("p256:00").holder == NAMES[hops]


def test_where_it_was_lent_to_the_one_before_uses_it() -> None:
    found = verify(handed_on(2))
    assert found.used_at(NAMES[2]).holder == NAMES[1]
    assert found.used_at(NAMES[1]).holder == NAMES[2]
    assert delegation.last(handed_on(2)) == PUBLIC[2]
    assert delegation.last(token()) == delegation.last(b"\0nothing") == b""
    assert verify(token()).used_at(NAMES[0]).holder == NAMES[0]


def test_it_ends_when_the_first_of_its_ends_comes() -> None:
    short = delegation.delegate(handed_on(1), HOLDERS[1], PUBLIC[2], NOW + 60)
    long = delegation.delegate(short, HOLDERS[2], PUBLIC[3], NOW + 24 * HOUR)
    assert verify(long).powers.limits.until == NOW + 60
    with pytest.raises(CloudError, match="hop 2 is over"):
        verify(long, NOW + 60)
    with pytest.raises(CloudError, match="it ended"):
        verify(handed_on(1, NOW + 48 * HOUR), NOW + tokens.LIFE)


def test_a_hop_needs_the_holder_before_it() -> None:
    thief = delegation.delegate(handed_on(1), HOLDERS[5], PUBLIC[5], NOW + HOUR)
    with pytest.raises(CloudError, match="hop 2 is not signed"):
        verify(thief)


def test_no_hop_can_be_taken_out_put_in_or_used_for_another_token() -> None:
    whole = handed_on(3)
    start = len(whole) - 3 * HOP
    hops = [whole[start + HOP * number : start + HOP * (number + 1)] for number in range(3)]
    for left in ([hops[0], hops[2]], [hops[1], hops[2]], [hops[1], hops[0], hops[2]]):
        with pytest.raises(CloudError):
            verify(whole[:start] + b"".join(left))
    other = tokens.mint(SEED, "ana", "local", 3, NAMES[0], NOW + 1)
    with pytest.raises(CloudError, match="hop 1 is not signed"):
        verify(b"\0" + len(other).to_bytes(2, "big") + other + b"".join(hops))


def test_who_had_it_before_may_shorten_it_to_his_own() -> None:
    """A holder always has what he was given himself; that is no more than his."""
    whole = handed_on(2)
    assert verify(whole[:-HOP]).holders == tuple(NAMES[:2])


def test_hops_and_size_are_bounded() -> None:
    with pytest.raises(CloudError, match="4 times at most"):
        handed_on(delegation.HOPS + 1)
    names = frozenset(f"{'a' * 30}{number}" for number in range(24))
    wide = tokens.narrow(token(), USER_PUBLIC, tokens.Limits({"app": names}))
    with pytest.raises(CloudError, match="restrict it less"):
        for number in range(delegation.HOPS):
            wide = delegation.delegate(wide, HOLDERS[number], PUBLIC[number + 1], NOW + HOUR)
    with pytest.raises(CloudError, match="at most 1536 bytes"):
        verify(b"\0" * 2000)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
@example(124, 1)  # of which biscuit says that it cannot be deserialized
def test_a_changed_byte_is_seen(place: int, change: int) -> None:
    whole = bytearray(handed_on(2))
    whole[place % len(whole)] ^= change
    with pytest.raises(CloudError):
        verify(bytes(whole))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_noise_is_refused(noise: bytes, marked: bool) -> None:
    with pytest.raises(CloudError):
        verify(b"\0" + noise if marked else noise)
