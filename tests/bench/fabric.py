"""What an engine costs that does nothing, in zones of 8 and 32, and how soon it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.measure import ROOT, Bench, Row, Skip

SIZES = (1, 8, 32)
WATCH = 20.0  # seconds that the zone is watched
LIMIT = 240.0  # seconds until a zone counts as hung


def measured(count: int) -> dict[str, float]:
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable]
    command += ["-m", "tests.bench.zone", str(count), str(WATCH)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError:
        raise Skip("there is no unshare; type: apt-get install util-linux") from None
    if done.returncode:
        raise Skip(f"a zone of {count} did not run: {done.stderr.strip()[-200:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(bench: Bench) -> Iterator[Row]:
    for count in SIZES:
        found = measured(count)
        zone = f"zone of {count}"
        yield Row(f"{zone}: RSS of a member", found["rss"], "memory")
        yield Row(f"{zone}: PSS of a member", found["pss"], "memory")
        yield Row(f"{zone}: CPU of a member, of a core", found["cpu"], "share")
        yield Row(f"{zone}: sent by a member", found["bytes"], "bytes")
        if count > 1:
            yield Row(f"{zone}: until all have heard all", found["whole"], "seconds")
            yield Row(f"{zone}: ask one", found["one"], "seconds")
            yield Row(f"{zone}: ask all", found["all"], "seconds")
