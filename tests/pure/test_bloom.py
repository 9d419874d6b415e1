"""The set of names that never denies one it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import bloom

SETS = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=12), max_size=40)


@given(SETS)
def test_what_is_in_is_never_denied_and_the_text_reads_back(names):
    found = bloom.of(names)
    assert all(bloom.holds(found, name) for name in names)
    assert bloom.parse(bloom.text(found)) == found
    assert bloom.error(found) < 1e-5


@given(SETS, SETS, SETS)
def test_joining_is_the_union_in_any_order(one, two, three):
    a, b, c = map(bloom.of, (one, two, three))
    assert (
        bloom.join(a, bloom.join(b, c))
        == bloom.join(bloom.join(c, a), b)
        == bloom.of(one | two | three)
    )


def test_false_positives_are_bounded_until_it_is_full():
    for count in (32, 600, 1300):
        found = bloom.of(f"node-{n}" for n in range(count))
        wrong = sum(bloom.holds(found, f"other-{n}") for n in range(20000)) / 20000
        assert wrong <= 2 * bloom.error(found) + 0.0005
        assert bloom.error(found) <= 1 / 16
    full = bloom.of(f"node-{n}" for n in range(10000))
    assert full == bloom.FULL
    assert bloom.holds(full, "anything")
    assert bloom.text(full) == "*"
    assert bloom.join(full, bloom.of(["a"])) == bloom.FULL
    assert bloom.parse("*") == bloom.FULL


def test_the_text_of_a_leaf_is_small():
    assert len(bloom.text(bloom.of(f"node-{n}" for n in range(32)))) < 360
    assert len(bloom.text(bloom.of(f"node-{n}" for n in range(1300)))) < 1400


@pytest.mark.parametrize("word", ["", "!", "AAAA", "eJwDAAAAAAE="])
def test_what_is_no_filter_is_refused(word):
    with pytest.raises(CloudError):
        bloom.parse(word)


def test_a_bomb_is_refused():
    import base64
    import zlib

    with pytest.raises(CloudError, match="1024 bytes"):
        bloom.parse(base64.b64encode(zlib.compress(bytes(10**8))).decode())
