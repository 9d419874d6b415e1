"""Tokens: they only narrow, nobody makes them but the user, and they say nothing we do not know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from biscuit_auth import (
    Algorithm,
    AuthorizationError,
    AuthorizerBuilder,
    BiscuitBuilder,
    BlockBuilder,
    PrivateKey,
    PublicKey,
)
from biscuit_auth import Biscuit as Token
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import tokens
from cloudfs.factotum.tokens import Limits, Powers

NOW = 1_790_000_000.0
KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
SEED, PUBLIC = KEY.private_bytes_raw(), KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)


def mint(**more) -> bytes:
    return tokens.mint(SEED, "ana", "local", 3, "ed25519:ab", NOW, **more)


def verify(token: bytes, now: float = NOW, **more) -> Powers:
    given = {"cloud": "local", "epoch_of": lambda user: 3, **more}
    return tokens.verify(token, lambda user: PUBLIC, now, **given)


def with_block(source: str, token: bytes | None = None) -> bytes:
    read = Token.from_bytes(token or mint(), PublicKey.from_bytes(PUBLIC, Algorithm.Ed25519))
    return bytes(read.append(BlockBuilder(source)).to_bytes())


def test_a_token_says_who_and_is_unlimited_but_in_time() -> None:
    powers = verify(mint())
    assert (powers.user, powers.cloud, powers.epoch, powers.holder) == (
        "ana",
        "local",
        3,
        "ed25519:ab",
    )
    powers.check(NOW, op="kill", app="web")
    assert powers.budget is None
    assert powers.limits.until == NOW + tokens.LIFE


def test_narrowed_it_allows_what_all_blocks_allow() -> None:
    token = tokens.narrow(
        mint(), PUBLIC, Limits({"op": frozenset({"kill", "read"})}, price=500_000)
    )
    token = tokens.narrow(
        token,
        PUBLIC,
        Limits({"op": frozenset({"read", "exec"}), "app": frozenset({"web"})}, until=NOW + 60),
    )
    powers = verify(token)
    powers.check(NOW, op="read", app="web")
    for what in (
        {"op": "kill", "app": "web"},
        {"op": "exec", "app": "web"},
        {"op": "read", "app": "db"},
        {"op": "read"},
        {},
    ):
        with pytest.raises(CloudError, match="not allowed by it"):
            powers.check(NOW, **what)
    with pytest.raises(CloudError, match="it ended"):
        powers.check(NOW + 60, op="read", app="web")
    assert powers.budget == 0.5
    assert len(powers.ids) == 3


SETS = st.dictionaries(
    st.sampled_from(tokens.SETS), st.frozensets(st.sampled_from("abcd"), min_size=1), max_size=4
)
LIMITS = st.builds(
    Limits,
    SETS,
    st.none() | st.integers(-10, 100).map(lambda s: NOW + s),
    st.none() | st.integers(0, 5),
)


@given(
    st.lists(LIMITS, max_size=2),
    st.fixed_dictionaries({name: st.sampled_from("abcd") for name in tokens.SETS}),
    st.integers(0, 6),
    st.integers(0, 100),
)
@settings(deadline=None, max_examples=150)
def test_it_decides_as_the_biscuit_library_does(blocks, what, price, later) -> None:
    token = mint()
    for limits in blocks:
        token = tokens.narrow(token, PUBLIC, limits)
    now = NOW + later
    facts = "".join(f'{name}("{value}");' for name, value in what.items())
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    source = f'{facts} price({price}); holder("ed25519:ab"); time({when}); allow if user($u);'
    read = Token.from_bytes(token, PublicKey.from_bytes(PUBLIC, Algorithm.Ed25519))
    builder = AuthorizerBuilder(source)
    limits = builder.limits()
    limits.max_time = timedelta(seconds=10)  # one millisecond else, which a busy machine misses
    builder.set_limits(limits)
    try:
        builder.build(read).authorize()
        theirs = True
    except AuthorizationError:
        theirs = False
    try:
        powers = verify(token, now)
        powers.check(now, **what)
        ours = powers.budget is None or price / 1e6 <= powers.budget
    except CloudError as error:
        ours = error.kind != "denied"
    assert ours == theirs


@given(
    st.lists(LIMITS, min_size=1, max_size=2),
    st.fixed_dictionaries({name: st.sampled_from("abcd") for name in tokens.SETS}),
)
@settings(deadline=None, max_examples=60)
def test_tokens_only_narrow(blocks, what) -> None:
    def allows(token: bytes) -> bool:
        try:
            verify(token).check(NOW, **what)
        except CloudError:
            return False
        return True

    before = mint()
    for limits in blocks:
        after = tokens.narrow(before, PUBLIC, limits)
        assert allows(before) or not allows(after)
        before = after


@pytest.mark.parametrize(
    "block",
    [
        'user("bob")',
        "epoch(9)",
        'holder("ed25519:ff")',
        'check if holder($h), $h == "ed25519:ff"',
        'op("kill") <- user($u)',
        "check if true",
        'check if op($x), {"kill"}.contains($x) or true',
        'check if op($x), ["kill"].contains($x)',
        'check all op($x), {"kill"}.contains($x)',
        'reject if op("kill")',
        "check if time($t), $t > 2020-01-01T00:00:00Z",
        "check if price($p), $p <= -1",
        'check if op($x), $x.matches("(a+)+$")',
    ],
)
def test_a_block_that_says_anything_else_is_refused(block: str) -> None:
    with pytest.raises(CloudError) as caught:
        verify(with_block(block))
    assert caught.value.kind == "bad"


def test_a_first_block_of_another_form_is_refused() -> None:
    key = PrivateKey.from_bytes(SEED, Algorithm.Ed25519)
    for source in (
        'user("ana")',
        'user("ana"); cloud("local"); epoch(3)',
        'user("ana"); cloud("local"); epoch(3); admin(true)',
    ):
        with pytest.raises(CloudError) as caught:
            verify(bytes(BiscuitBuilder(source).build(key).to_bytes()))
        assert caught.value.kind == "bad"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"cloud": "other"}, "this is other"),
        ({"epoch_of": lambda user: 4}, "another epoch"),
        ({"revoked": lambda id: True}, "was revoked"),
        ({"now": NOW + tokens.LIFE}, "it ended 2026"),
    ],
)
def test_tokens_that_are_void(more, why) -> None:
    with pytest.raises(CloudError, match=why) as caught:
        verify(mint(), **more)
    assert caught.value.kind == "denied"


def test_a_block_alone_can_be_revoked() -> None:
    narrowed = tokens.narrow(mint(), PUBLIC, Limits(price=1))
    last = verify(narrowed).ids[-1]
    with pytest.raises(CloudError, match="revoked"):
        verify(narrowed, revoked=lambda id: id == last)
    verify(mint(), revoked=lambda id: id == last)


def test_only_the_users_key_makes_tokens() -> None:
    forged = tokens.mint(OTHER.private_bytes_raw(), "ana", "local", 3, "ed25519:ab", NOW)
    with pytest.raises(CloudError, match="signature does not fit"):
        verify(forged)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_changed_or_made_up_bytes_are_refused(data: st.DataObject) -> None:
    token = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(token) - 1))
        token[at] ^= data.draw(st.integers(1, 255))
    cut = bytes(token[: data.draw(st.integers(0, len(token)))])
    if cut == GOOD:
        return
    for wrong in (cut, data.draw(st.binary(max_size=200)), GOOD + b"\0"):
        try:
            powers = verify(wrong)
        except CloudError as error:
            refused = error.kind in ("bad", "denied", "toobig")
        else:  # protobuf has more than one form for the same message: it must say the same
            refused = powers == verify(GOOD)
        assert refused


GOOD = tokens.narrow(mint(), PUBLIC, Limits({"op": frozenset({"read"})}))


@pytest.mark.parametrize(
    "limits",
    [
        Limits({"colour": frozenset("a")}),
        Limits({"op": frozenset()}),
        Limits({"op": frozenset({'"; user("bob")'})}),
        Limits({"op": frozenset(map(str, range(33)))}),
        Limits(until=1e30),
    ],
)
def test_limits_that_make_no_sense(limits: Limits) -> None:
    with pytest.raises(CloudError) as caught:
        tokens.narrow(mint(), PUBLIC, limits)
    assert caught.value.kind == "bad"


def test_a_token_does_not_grow_without_end() -> None:
    token = mint()
    with pytest.raises(CloudError, match="at most 1536"):
        for i in range(100):
            token = tokens.narrow(token, PUBLIC, Limits({"app": frozenset({f"application-{i}"})}))
    with pytest.raises(CloudError, match="at most 1536 bytes"):
        verify(bytes(2000))
