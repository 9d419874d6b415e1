"""A secret in shares: given by t, checked by all, dealt anew to others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import shares
from cloudfs.factotum.ristretto import ORDER, base

SETS = st.sets(st.integers(1, 65535), min_size=1, max_size=6)


@given(st.integers(1, ORDER - 1), SETS, st.data())
@settings(deadline=None, max_examples=40)
def test_t_shares_give_the_secret_and_all_are_what_was_committed(secret, numbers, data) -> None:
    need = data.draw(st.integers(1, len(numbers)))
    dealt = shares.deal(secret, need, numbers)
    assert dealt.commitments[0] == base(secret)
    for number, share in dealt.shares.items():
        shares.check_share(share, dealt.commitments, number)
        with pytest.raises(CloudError, match=f"holder {number}"):
            shares.check_share(share % (ORDER - 1) + 1, dealt.commitments, number)
    some = data.draw(st.permutations(sorted(numbers)))[:need]
    assert shares.restore({n: dealt.shares[n] for n in some}) == secret


@given(st.integers(1, 3), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=30)
def test_dealt_anew_the_secret_is_the_same_and_old_shares_do_not_mix(need, then, data) -> None:
    secret = data.draw(st.integers(1, ORDER - 1))
    old = shares.deal(secret, need, range(1, need + 3))
    left = data.draw(st.permutations(sorted(old.shares)))[:need]
    new = range(1, then + 2)
    parts = {n: shares.deal(old.shares[n], then, new) for n in left}
    made = {}
    told = set()
    for number in new:
        got = {n: (dealt.shares[number], dealt.commitments) for n, dealt in parts.items()}
        made[number], commitments = shares.join(number, got, old.commitments, then)
        shares.check_share(made[number], commitments, number)
        told.add(commitments)
    assert len(told) == 1, "all joined the same"
    assert told.pop()[0] == base(secret)
    some = data.draw(st.permutations(list(new)))[:then]
    assert shares.restore({n: made[n] for n in some}) == secret
    if need > 1 and then > 1:
        mixed = (
            {n: made[n] for n in some[1:]} | {some[0]: old.shares[some[0]]}
            if some[0] in old.shares
            else {}
        )
        assert not mixed or shares.restore(mixed) != secret


def test_a_holder_that_deals_another_secret_is_named() -> None:
    old = shares.deal(77, 2, (1, 2, 3))
    good, bad = shares.deal(old.shares[1], 2, (1, 2)), shares.deal(99, 2, (1, 2))
    got = {1: (good.shares[1], good.commitments), 2: (bad.shares[1], bad.commitments)}
    with pytest.raises(CloudError, match="holder 2 deals anew what was not its share"):
        shares.join(1, got, old.commitments, 2)
    with pytest.raises(CloudError, match="1 holders deal anew, it takes 2"):
        shares.join(1, {1: got[1]}, old.commitments, 2)


@pytest.mark.parametrize(
    ("need", "numbers"),
    [(0, (1, 2)), (3, (1, 2)), (2, (1, 1)), (1, (0,)), (1, (70000,)), (2, range(1, 18))],
)
def test_a_dealing_that_makes_no_sense(need, numbers) -> None:
    with pytest.raises(CloudError) as caught:
        shares.deal(5, need, list(numbers))
    assert caught.value.kind == "bad"
