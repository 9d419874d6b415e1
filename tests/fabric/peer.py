"""An engine in a process of its own, for tests that kill or stop one.

    python -m tests.fabric.peer NODE ZONE LISTEN SEEDS FOLDER

It publishes `from/NODE`, answers `name` and says "up" once it runs.
"""

import sys
from pathlib import Path

import trio

from cloudfs.fabric import session, zenoh
from cloudfs.factotum.nodekeys import files_in

LEASE = 1.5  # seconds


async def main():
    node, zone, listen, seeds, folder = sys.argv[1:]
    files = files_in(Path(folder))
    engine = zenoh.ZenohEngine(node, zone, listen, seeds.split(), files)

    async def name(key, payload):
        return [("name", node.encode())]

    engine.serve("name", name)
    engine.publish(f"from/{node}", b"here")
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        print("up", flush=True)


if __name__ == "__main__":
    session.LEASE = zenoh.LEASE = LEASE
    trio.run(main)
