"""The load generator against our own server: every mode in every dialect, without a
protocol error.  No figure is looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from cloudfs.tree.space import Space
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server
from tests.bench.measure import HERE
from tests.synthetic import tree

MODES = {"stat": "hello", "cycle": "dir/a", "burst": "dir/a", "read": "big", "list": "many"}
SHAPES = (["-q1"], ["-q32"], ["-c8", "-i20"])


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    binary = tmp_path_factory.mktemp("bench") / "load"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", binary, HERE / "load.c"], check=True, timeout=60)
    return binary


async def run(load: Path, address: Path, *words: str) -> dict[str, object]:
    command = [str(load), "-w0", "-t5", "-n40", *words[:-2], str(address), *words[-2:]]
    with trio.fail_after(20):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("dialect", ["9P2000", "9P2000.u", "9P2000.L"])
async def test_every_mode_ends_without_an_error(load: Path, tmp_path: Path, dialect: str) -> None:
    address = tmp_path / "sock"
    async with trio.open_nursery() as nursery:
        root = tree()
        server = Server(lambda who: Space(root))
        await nursery.start(server.serve, [listen(str(address))])
        for mode, path in MODES.items():
            for shape in SHAPES:
                found = await run(load, address, "-d", dialect, *shape, mode, path)
                assert int(str(found["ops"])) >= 40, (mode, shape)
        nursery.cancel_scope.cancel()


async def test_a_refusal_ends_it_with_the_reason(load: Path, tmp_path: Path) -> None:
    address = tmp_path / "sock"
    async with trio.open_nursery() as nursery:
        root = tree()
        await nursery.start(Server(lambda who: Space(root)).serve, [listen(str(address))])
        command = [str(load), str(address), "stat", "nothing"]
        done = await trio.run_process(command, capture_stderr=True, check=False)
        assert done.returncode == 1
        assert b"No such file or directory" in done.stderr
        nursery.cancel_scope.cancel()


async def test_entries_of_a_listing_are_all_counted(load: Path, tmp_path: Path) -> None:
    address = tmp_path / "sock"
    async with trio.open_nursery() as nursery:
        root = tree()
        await nursery.start(Server(lambda who: Space(root)).serve, [listen(str(address))])
        for dialect in ("9P2000", "9P2000.L"):
            found = await run(load, address, "-d", dialect, "-m8192", "list", "many")
            assert found["units"] == 1000 * int(str(found["ops"]))
        nursery.cancel_scope.cancel()
