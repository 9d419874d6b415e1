"""Measuring bandwidth over ways of any kind, with nodes of any kind, in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cloudfs.errors import CloudError
from cloudfs.kernel import gauge
from cloudfs.kernel.bandwidth import CAR_ON_WIRE, SHARE
from cloudfs.kernel.figure import Known
from cloudfs.kernel.gauge import Gauge
from cloudfs.kernel.network import Network
from tests.kernel.test_cloud import make


class Way:
    """Both ways to a node.  rate: bytes/s; trip: seconds there and back; buffer: bytes before
    the narrowest link; loss: of every car; claims(stamps, proved): what the node makes of it."""

    def __init__(
        self,
        rate: float = 1.25e6,
        back: float = 1.25e6,
        trip: float = 0.02,
        buffer: int = 10**9,
        loss: float = 0.0,
    ) -> None:
        self.rate, self.back_rate, self.trip = rate, back, trip
        self.buffer, self.loss = buffer, loss
        self.sent = 0
        self.sessions = 0
        self.refuses: CloudError | None = None
        self._dice = random.Random(7)

    def claims(self, stamps: list[float], proved: bool) -> tuple[Sequence[float], bool]:
        return stamps, proved

    @asynccontextmanager
    async def session(self, node: str) -> AsyncIterator[Way]:
        await trio.sleep(self.trip)
        if self.refuses is not None:
            raise self.refuses
        self.sessions += 1
        yield self

    def _through(self, length: int, rate: float) -> tuple[list[float], bool]:
        self.sent += length * CAR_ON_WIRE
        fits = [n for n in range(length) if n * CAR_ON_WIRE < self.buffer]
        came = [n for n in fits if self._dice.random() >= self.loss]
        return [(n + 1) * CAR_ON_WIRE / rate for n in came], length - 1 in came

    async def send(self, length: int, seconds: float) -> tuple[float, Sequence[float], bool] | None:
        stamps, whole = self._through(length, self.rate)
        takes = self.trip + (stamps[-1] if stamps else 0.0) + (0.0 if whole else 0.25)
        if not stamps or takes > seconds:
            await trio.sleep(seconds)
            return None
        await trio.sleep(takes)
        first = stamps[0]
        return takes, *self.claims([at - first for at in stamps], whole)

    async def fetch(self, length: int, seconds: float) -> Sequence[float]:
        stamps, _ = self._through(length, self.back_rate)
        await trio.sleep(self.trip + (stamps[-1] if stamps else seconds))
        return stamps


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(make(tmp_path / "n1", "n1", "paris"))


@pytest.mark.parametrize("rate", [1.25e4, 1.25e6, 1.25e7, 6.25e7])
@pytest.mark.parametrize("trip", [0.001, 0.2])
async def test_both_ways(
    autojump_clock: trio.testing.MockClock, network: Network, rate: float, trip: float
) -> None:
    way = Way(rate, rate / 3, trip)
    measure = Gauge(network, way)
    there = await measure.measure("n2")
    assert there.value == pytest.approx(rate, rel=0.02)
    back = network.back("n2")
    assert back is not None
    assert back.value == pytest.approx(rate / 3, rel=0.02)
    assert way.sent < 1e6


async def test_cars_that_are_lost(autojump_clock: trio.testing.MockClock, network: Network) -> None:
    measure = Gauge(network, Way(loss=0.05))
    there = await measure.measure("n2")
    assert there.value == pytest.approx(1.25e6, rel=0.1)


async def test_short_buffers(autojump_clock: trio.testing.MockClock, network: Network) -> None:
    measure = Gauge(network, Way(buffer=20_000))
    there = await measure.measure("n2")
    assert there.value == pytest.approx(1.25e6, rel=0.05)
    assert network.back("n2") is not None


async def test_a_way_that_lets_nothing_through(
    autojump_clock: trio.testing.MockClock, network: Network
) -> None:
    measure = Gauge(network, Way(loss=1.0))
    with pytest.raises(CloudError, match="no datagram came through") as caught:
        await measure.measure("n2")
    assert caught.value.kind == "unreachable"
    assert network.back("n2") is None


async def test_a_node_that_refuses(
    autojump_clock: trio.testing.MockClock, network: Network
) -> None:
    way = Way()
    way.refuses = CloudError("again", "it is busy")
    measure = Gauge(network, way)
    with pytest.raises(CloudError, match="it is busy"):
        await measure.measure("n2")
    way.refuses = None
    await measure.measure("n2")  # what sent nothing need not wait


async def test_measuring_takes_its_share_and_no_more(
    autojump_clock: trio.testing.MockClock, network: Network
) -> None:
    way = Way()
    measure = Gauge(network, way)
    start = trio.current_time()
    await measure.measure("n2")
    with pytest.raises(CloudError, match="just now") as caught:
        await measure.measure("n2")
    assert caught.value.kind == "again"
    await measure.measure("n3")  # another way
    sent = way.sent / 2
    await trio.sleep(sent / (SHARE * 1.25e6) - (trio.current_time() - start) + 1)
    await measure.measure("n2")
    assert way.sessions == 3


async def test_one_at_a_time_and_not_too_many_wait(
    autojump_clock: trio.testing.MockClock, network: Network
) -> None:
    way = Way()
    measure = Gauge(network, way)
    errors: list[CloudError] = []

    async def one(name: str) -> None:
        try:
            await measure.measure(name)
        except CloudError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(gauge.WAITING + 3):
            nursery.start_soon(one, f"m{number}")
    assert [error.kind for error in errors] == ["toomany"] * 2
    assert way.sessions == gauge.WAITING + 1


# --- nodes that lie ---------------------------------------------------------------------------


class Fast(Way):
    """Says that all came a thousand times as fast."""

    def claims(self, stamps: list[float], proved: bool) -> tuple[Sequence[float], bool]:
        return [at / 1000 for at in stamps], proved


class Unproved(Way):
    """The same, and never proves anything but single cars."""

    def claims(self, stamps: list[float], proved: bool) -> tuple[Sequence[float], bool]:
        return [at / 1000 for at in stamps], len(stamps) == 1


class Clipper(Way):
    """The same, and says that it loses the ends of all but the shortest trains."""

    def claims(self, stamps: list[float], proved: bool) -> tuple[Sequence[float], bool]:
        short = len(stamps) < 5
        return [at / 1000 for at in stamps[: None if short else len(stamps) // 2]], short


class Nonsense(Way):
    """Stamps in any order, of any size."""

    def claims(self, stamps: list[float], proved: bool) -> tuple[Sequence[float], bool]:
        return [self._dice.uniform(-9, 1e9) for _ in stamps], proved


@pytest.mark.parametrize("kind", [Fast, Clipper])
async def test_no_claim_is_believed_beyond_what_the_own_clock_allows(
    autojump_clock: trio.testing.MockClock, network: Network, kind: type[Way]
) -> None:
    measure = Gauge(network, kind())
    there = await measure.measure("n2")
    assert there.value < 1.25e6 * 1.25
    assert there.error > 100 * 1.25e6
    back = network.back("n2")
    assert back is not None
    assert back.value == pytest.approx(1.25e6, rel=0.02)  # which was seen here


@pytest.mark.parametrize("kind", [Unproved, Nonsense])
async def test_what_is_no_claim_tells_nothing(
    autojump_clock: trio.testing.MockClock, network: Network, kind: type[Way]
) -> None:
    way = kind()
    measure = Gauge(network, way)
    with pytest.raises(CloudError, match="tell no rate") as caught:
        await measure.measure("n2")
    assert caught.value.kind == "nodata"
    assert network.back("n2") is not None
    assert way.sent < 1e6


async def test_bulk_shows_that_a_way_carries_more(
    autojump_clock: trio.testing.MockClock, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.cloud, "clock", trio.current_time)

    async def bulk(rate: float, seconds: float = 3) -> Known:
        for _ in range(int(seconds * 100)):
            network.carried("n2", int(rate / 100))
            await trio.sleep(0.01)
        found = network.back("n2")
        assert found is not None
        return found

    slow = await bulk(1e6)
    assert slow.value == pytest.approx(1e6, rel=0.02)
    assert slow.error >= slow.value / 2  # it may well carry more
    network.took_back("n2", Known(5e6, 0.0, "measured", 1e5))
    assert (await bulk(4e6)).value == 5e6  # which was known better
    assert (await bulk(2e7)).value == pytest.approx(2e7, rel=0.02)
