"""What each message costs in the session alone: frames in, replies out, no socket.

    python -m tests.bench.session [ROUNDS]

Prints microseconds a message for the cases of wire.py, 32 of a kind fed at a time, the
least of all rounds: that is what holds on a machine that others use as well, so it tells
two versions of the code apart where the rates of the bench do not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import trio

from cloudfs.tree.space import Space
from cloudfs.who import Who
from cloudfs.wire.codec import codec
from cloudfs.wire.messages import NOFID, NOTAG
from cloudfs.wire.session import Session
from tests.tree.test_cloud import Cloud

DEPTH = 32  # messages fed together, as wire.py's clients do
ROUNDS = 1000
FILE, FIRST = 1, 16  # fids: of what is asked for its attributes, and the first of a cycle's


def spoken(cloud: Cloud, key: str, path: list[str]) -> Iterator[tuple[str, float]]:
    """(case, microseconds) for one dialect and file."""
    who = Who("ann", 0, boss=True)
    session = Session(who, lambda who: Space(cloud.root, cloud.errors))
    encode = codec(key).encode

    def feed(data: bytes) -> None:
        session.feed(data)
        while session.step():
            pass
        session.take()

    def many(ask: Callable[[int], bytes]) -> bytes:
        return b"".join(ask(tag) for tag in range(DEPTH))

    number = (0,) if key == "L" else ()
    opening, asking = ("Tlopen", "Tgetattr") if key == "L" else ("Topen", "Tstat")
    mask = (0x7FF,) if key == "L" else ()
    feed(encode["Tversion"](NOTAG, 65536, codec(key).version))
    feed(encode["Tattach"](0, 0, NOFID, "ann", "", *number))
    feed(encode["Twalk"](0, 0, FILE, path))
    cycle = {
        "walk": many(lambda tag: encode["Twalk"](tag, 0, FIRST + tag, path)),
        "open": many(lambda tag: encode[opening](tag, FIRST + tag, 0)),
        "read": many(lambda tag: encode["Tread"](tag, FIRST + tag, 0, 4096)),
        "clunk": many(lambda tag: encode["Tclunk"](tag, FIRST + tag)),
    }
    cases = {"stat": many(lambda tag: encode[asking](tag, FILE, *mask))} | cycle
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS if len(sys.argv) < 2 else int(sys.argv[1])):
        for case, data in cases.items():
            began = perf_counter()
            feed(data)
            best[case] = min(best[case], perf_counter() - began)
    yield from ((case, took / DEPTH * 1e6) for case, took in best.items())
    yield "cycle", sum(best[case] for case in cycle) / DEPTH * 1e6


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            cloud = Cloud(Path(folder))
            await nursery.start(cloud.objects.run)
            made = await cloud.run("tick 100 100000")
            for key in "L9":
                for path in (["version"], ["proc", made, "status"]):
                    found = dict(spoken(cloud, key, path))
                    text = "  ".join(f"{case} {took:.2f}" for case, took in found.items())
                    print(f"{codec(key).version:9} {path[-1]:8} {text}")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
