"""Holders: both kinds of keys sign, by names that say which."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import holders
from cloudfs.factotum.holders import Holder

FACTOTUM = Holder(Ed25519PrivateKey.from_private_bytes(b"\2" * 32))
NODE = Holder(ec.derive_private_key(7, ec.SECP256R1()))


@pytest.mark.parametrize("holder", [FACTOTUM, NODE])
def test_a_name_is_a_key(holder: Holder) -> None:
    assert holders.public_of(holder.name) == holder.public
    assert holders.name_of(holder.public) == holder.name


@pytest.mark.parametrize("holder", [FACTOTUM, NODE])
@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 63), st.integers(1, 255))
def test_a_signature_is_of_one_holder_over_one_text(
    holder: Holder, data: bytes, place: int, change: int
) -> None:
    signature = holder.sign(data)
    assert len(signature) == holders.SIGNATURE
    holders.check(holder.public, signature, data)
    wrong = bytearray(signature)
    wrong[place] ^= change
    other = NODE if holder is FACTOTUM else FACTOTUM
    for public, signed, text in (
        (holder.public, bytes(wrong), data),
        (holder.public, signature, data + b"x"),
        (other.public, signature, data),
        (holder.public, signature[:-1], data),
    ):
        with pytest.raises(CloudError, match="not signed by its holder"):
            holders.check(public, signed, text)


@pytest.mark.parametrize(
    "name", ["", "ed25519:", "ed25519:zz", "p256:" + "02" * 32, "rsa:" + "ab" * 32, "ab" * 32]
)
def test_a_holder_is_named_by_a_key(name: str) -> None:
    with pytest.raises(CloudError, match="names no holder"):
        holders.public_of(name)


def test_no_point_of_another_curve() -> None:
    with pytest.raises(CloudError, match=r"one of P-256"):
        holders.point(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(CloudError, match="not signed"):
        holders.check(b"\2" + b"\xff" * 32, bytes(64), b"")
