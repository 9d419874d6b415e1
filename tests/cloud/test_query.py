"""Queries of real nodes in two clusters: attributes, the nearest by probes, a dead node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.net import Net, can, eventually, expect

pytestmark = pytest.mark.skipif(not can(), reason="only root can make networks")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "e1 e2", "west": "w1"}) as found:
        eventually(lambda: expect(found["e1"].ls("nodes"), ["e1", "e2", "help", "w1"]), 30)
        found["w1"].write("nodes/w1/ctl", "label gpu=a100")
        yield found


