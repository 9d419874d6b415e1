"""A part of this machine that takes itself for a whole one: own network, processes, mounts,
host name, IPC and /run, and another clock if asked for.  Root only.

Its process 1 is a shell that does nothing but collect the dead, and ends when the pipe
at its standard input does, that is when whoever made it closes it or dies; with process 1
the kernel ends all others, and takes the mounts.  Files of the machine are shared: what
must be apart has a path of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.netns import HOME, comes, tool

START = 20.0  # seconds to begin
STOP = 10.0  # seconds to end

# $1: the host name.  A shell reaps what falls to it only while it waits for a command of
# its own, so it is cat that reads the pipe.
INIT = """
mount -t tmpfs -o mode=755 none /run && echo "$1" >/proc/sys/kernel/hostname && echo ready &&
cat >/dev/null
"""


class Enclosure:
    """One, begun at once; `ready` waits until it can be used.

    space: the name of its network namespace.  clock: seconds by which its monotonic clock
    is ahead (they may be negative, but the clock not below 0).
    """

    def __init__(self, name: str, space: str, clock: float = 0.0) -> None:
        self.name = name
        time_apart = ["--time", "--monotonic", f"{clock:.0f}"] if clock else []
        self._holder = subprocess.Popen(
            [
                *(tool("nsenter"), f"--net={HOME / space}"),
                *(tool("unshare"), *time_apart, "--pid", "--mount", "--uts", "--ipc"),
                *("--fork", "--kill-child", "--mount-proc", "/bin/sh", "-c", INIT, "sh", name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,  # ^C at a terminal is not for it
        )
        self.pid = 0  # of its process 1, as this machine counts

    def ready(self) -> None:
        """Wait until it has begun.  Raises CloudError."""
        assert self._holder.stdout is not None
        said = b""
        end = time.monotonic() + START
        while not said.endswith(b"ready\n"):
            left = max(0.0, end - time.monotonic())
            if not comes(self._holder.stdout.fileno(), left):
                raise CloudError("timeout", f"{self.name} did not begin in {START:g} s")
            more = os.read(self._holder.stdout.fileno(), 4096)
            if not more:
                words = said.decode(errors="replace").strip()
                raise CloudError("io", f"{self.name} cannot be set apart: {words}")
            said += more
        holder = self._holder.pid
        self.pid = int(Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0])

    @property
    def root(self) -> Path:
        """Its file tree with its mounts, as seen from this machine."""
        return Path(f"/proc/{self.pid}/root")

    def command(self, *words: str) -> list[str]:
        """The command that runs these words inside."""
        return [tool("nsenter"), "--target", str(self.pid), "--all", "--", *words]

    def close(self) -> None:
        """End it with all that runs in it; never fails."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with contextlib.suppress(OSError):
            self._holder.stdin.close()
        for number in (signal.SIGKILL, None):
            try:
                self._holder.wait(STOP)
                break
            except subprocess.TimeoutExpired:
                if number is not None and self.pid:
                    os.kill(self.pid, number)
        self._holder.stdout.close()
