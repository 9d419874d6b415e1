"""Messages of parts: there and back, and anything else is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.packet import pack, pack_samples, unpack, unpack_samples
from cloudfs.fabric.stamp import Stamp


@given(st.lists(st.binary(max_size=40)))
def test_there_and_back(parts):
    assert unpack(pack(*parts)) == parts


@given(st.binary(max_size=60))
def test_what_can_be_read_is_what_was_written(data):
    with contextlib.suppress(CloudError):
        parts = unpack(data)
        assert pack(*parts) == data


def test_samples():
    samples = [Sample("a/ü", b"\0", Stamp(5, 1, "n1")), Sample("b", b"", Stamp(6, 0, "n2"))]
    gone = Sample("c", b"", Stamp(7, 0, "n2"), gone=True)
    assert unpack_samples(unpack(pack(*pack_samples([*samples, gone])))) == samples


@pytest.mark.parametrize("parts", [[b"a"], [b"a", b"no stamp", b""], [b"\xff", b"1.0@n", b""]])
def test_bad_samples(parts):
    with pytest.raises(CloudError) as caught:
        unpack_samples(parts)
    assert caught.value.kind == "proto"
