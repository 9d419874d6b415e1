"""A mount served by a process of its own: a tree anywhere, over 9P, as one session."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from cloudfs.cli.up import until
from cloudfs.errors import CloudError
from cloudfs.fuse import stale

START = 20.0  # seconds to connect and mount
STOP = 10.0  # seconds to end


def start(address: str, directory: str, *options: str) -> subprocess.Popen[bytes]:
    """Mount the tree at a 9P address at a directory, served by a process of its own;
    returns once it is there.  Raises CloudError with that process's words if it ends."""
    command = [sys.executable, "-m", "cloudfs", "mount", "--foreground", *options]
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            [*command, address, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd="/",
            start_new_session=True,
        )
        there = os.path.realpath(directory)

        def mounted() -> bool:
            found = stale.mounted_at(there)
            return (found is not None and found.ours) or server.poll() is not None

        if until(mounted, START) and server.poll() is None:
            return server
        server.terminate()
        server.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip().removeprefix("cloudfs: ")
    raise CloudError("io", words or f"{address} was not mounted within {START:g} s")


@contextlib.contextmanager
def attached(address: str, directory: str) -> Iterator[None]:
    """A mount for as long as the context lasts; it goes with this process, however that
    ends, since its server watches the pipe that we hold."""
    server = start(address, directory, "--until-eof")
    try:
        yield
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(STOP)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        with contextlib.suppress(CloudError):
            stale.unmount(directory)
