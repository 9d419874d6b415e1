"""One node of a Net, as a test handles it: its tree by shell commands that run inside it,
its daemon by signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cloudfs import ndb
from cloudfs.cli.local import START, LocalNode
from cloudfs.cli.up import until
from cloudfs.errors import CloudError
from tests.persons import PATH

SECONDS = 10.0  # for a command, unless told
LATE = (124, 137)  # how timeout(1) ends
WHERE = ("on", "require", "prefer", "spread")  # lines of a ctl that say where an object goes


class Machine:
    """A node; seeds gives the addresses at which it looks for others when it starts."""

    def __init__(self, node: LocalNode, seeds: Callable[[], list[str]]) -> None:
        self.local = node
        self.name = node.name
        self.cluster = node.cluster
        self._seeds = seeds
        assert node.mount is not None
        self.mount = node.mount  # as commands inside it see it
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{PATH}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(node.state.parent),
            "CLOUDFS_STATE": str(node.state),
            "CLOUDFS_MOUNT": str(node.mount),
            "cloud": str(node.mount),
            **{name: text for name, text in os.environ.items() if name.startswith("CLOUDFS_TEST")},
        }

    # --- commands ---------------------------------------------------------------------

    def command(self, *words: str) -> list[str]:
        """The words that run a command inside this node.  It dies with the process of ours
        that stands for it out here, whatever kills that."""
        assert self.local.enclosure is not None
        return self.local.enclosure.command("setpriv", "--pdeathsig", "KILL", "--", *words)

    def start_command(self, *words: str, **more: object) -> subprocess.Popen[str]:
        """A command inside, going on beside the test."""
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            self.command(*words), env=self.env, cwd="/", text=True, **more
        )

    def run(
        self, *words: str, stdin: str = "", status: int | None = 0, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, to its end.  status: the one wanted, None for any.  To take
        longer than it may is always a failure."""
        limit = ("timeout", "--kill-after=1", f"{seconds:g}")
        try:
            done = subprocess.run(
                self.command(*limit, *words),
                env=self.env,
                cwd="/",
                input=stdin,
                capture_output=True,
                text=True,
                timeout=seconds + 10,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(self._said(words, f"hung for {seconds + 10:g} s")) from None
        if done.returncode in LATE and done.returncode != status:
            raise AssertionError(self._said(words, f"did not end in {seconds:g} s"))
        if status is not None and done.returncode != status:
            text = f"status {done.returncode}, not {status}\n{done.stdout}{done.stderr}"
            raise AssertionError(self._said(words, text))
        return done

    def _said(self, words: tuple[str, ...], what: str) -> str:
        return f"on {self.name}, {' '.join(words)}: {what}\nits log:\n{self.local.tail()}"

    def sh(self, line: str, **more: object) -> str:
        """What a shell line prints; $cloud is the mount."""
        return self.run("sh", "-c", line, **more).stdout  # type: ignore[arg-type]

    # --- the tree ---------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        return str(self.mount.joinpath(*parts))

    def read(self, *parts: str, seconds: float = SECONDS) -> str:
        return self.run("cat", self.path(*parts), seconds=seconds).stdout

    def status(self, *parts: str, seconds: float = SECONDS) -> dict[str, str]:
        """A file that is one record."""
        return ndb.parse(self.read(*parts, seconds=seconds))

    def ls(self, *parts: str, seconds: float = SECONDS) -> list[str]:
        """The names in a directory, help left out."""
        names = self.run("ls", self.path(*parts), seconds=seconds).stdout.split()
        return [name for name in names if name != "help"]

    def write(self, text: str, *parts: str, seconds: float = SECONDS) -> None:
        """Write a line, as echo does; where it is refused the failure says why."""
        words = ("sh", "-c", 'cat >"$0" || { cloudfs why >&2; exit 1; }', self.path(*parts))
        self.run(*words, stdin=f"{text}\n", seconds=seconds)

    def refused(self, text: str, *parts: str, seconds: float = SECONDS) -> str:
        """Write a line that must be refused; the reason, as `cloudfs why` knows it."""
        words = ("sh", "-c", 'cat >"$0" && exit 9; cloudfs why', self.path(*parts))
        return self.run(*words, stdin=f"{text}\n", seconds=seconds).stdout

    def begin(self, program: str, *setup: str, seconds: float = SECONDS) -> str:
        """A new object that runs a shell script; its id.  setup: lines for its ctl.

        It runs on this node unless they say where: all nodes of a test share one machine,
        and one that seems busy for a moment would send it to another.
        """
        id = self.read("proc/clone", seconds=seconds).strip()
        placed = any(line.split()[0] in WHERE for line in setup)
        for line in ("runtime process", *(() if placed else (f"on {self.name}",)), *setup):
            self.write(line, "proc", id, "ctl", seconds=seconds)
        self.write(f"exec sh -c {ndb.quote(program)}", "proc", id, "ctl", seconds=seconds)
        return id

    def count(self, mark: str) -> int:
        """How many processes inside have this word in their command line."""
        pattern = f"[{mark[0]}]{re.escape(mark[1:])}"  # which does not find itself
        done = self.run("pgrep", "-fc", pattern, status=None)
        return int(done.stdout)

    # --- the daemon -------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether the daemon is there, be it frozen."""
        return self.local.word() not in ("", "Z")

    def start(self) -> None:
        """Start the daemon, with the state that is there, and wait until it serves."""
        assert not self.runs, f"the daemon of {self.name} runs already"
        try:
            self.local.launch(self._seeds())
            self.local.wait(time.monotonic() + START)
        except CloudError as error:
            raise AssertionError(str(error)) from None

    def stop(self) -> None:
        """End the daemon as `cloudfs down` does."""
        self.local.end(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon as a fault would; objects go on."""
        self.local.end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the daemon's processing: SIGSTOP."""
        self._send(signal.SIGSTOP, "T")

    def thaw(self) -> None:
        """Let it go on: SIGCONT."""
        self._send(signal.SIGCONT, "SRD")

    def _send(self, number: int, words: str) -> None:
        self.local.send(number)
        assert until(lambda: self.local.word() in words, SECONDS), self.local.word()

    def restart(self) -> None:
        """Kill the daemon if it runs, and start it with the same state."""
        if self.runs:
            self.kill()
        self.start()
