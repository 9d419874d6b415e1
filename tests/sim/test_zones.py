"""The simulator of large clouds, at small sizes: its figures are within the promises."""

from tests.sim.table import growth, show
from tests.sim.zones import leaves_of, simulate


def test_small_clouds_keep_the_promises():
    small, large = simulate(60), simulate(200)
    for found in (small, large):
        assert found.gone[1] <= 10
        assert found.gone_root <= 12
        assert found.joined_root <= 30
        assert found.received[0] < 4000
        assert found.memory[0] < 400e3
    assert large.received[0] < 2 * small.received[0]
    assert "| nodes | 60 | 200 |" in show([small, large])
    assert growth([small, large]).startswith("growth from 60 to 200 nodes")


def test_leaves_hold_all_nodes_once():
    names = [(f"n{n}", f"c{n % 3}") for n in range(1000)]
    leaves = leaves_of(names)
    assert sorted(pair for pairs in leaves.values() for pair in pairs) == sorted(names)
    assert max(map(len, leaves.values())) <= 32
