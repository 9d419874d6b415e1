"""Names, clusters and ports of nodes on one machine."""

from __future__ import annotations

import socket
from collections import Counter
from itertools import pairwise

from cloudfs.cli.local import APART, clusters, free_ports


def test_two_or_three_clusters_of_like_size() -> None:
    assert clusters(1) == [("n1", "east")]
    assert [cluster for _, cluster in clusters(5)] == ["east", "east", "east", "west", "west"]
    for count in range(2, 61):
        named = clusters(count)
        assert [name for name, _ in named] == [f"n{n + 1}" for n in range(count)]
        sizes = Counter(cluster for _, cluster in named)
        assert len(sizes) == (3 if count >= 6 else 2)
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_ports_where_somebody_listens_are_left_out() -> None:
    first = free_ports(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", first[0] + 1))  # a level above
        assert first[0] not in free_ports(2)
    ports = free_ports(10)
    assert all(b - a >= APART for a, b in pairwise(ports))
