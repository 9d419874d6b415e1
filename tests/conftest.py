"""For all tiers: one folder for everything temporary, and nothing left behind.

The run fails if a process, mount, cgroup or network namespace that its tests made is
still there at the end; what can be cleared is cleared.  With CI=true it also fails if
a test was skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.persons import Person, nobody

MARK = "CLOUDFS_TEST_RUN"  # in the environment of every process that a test starts
BESIDE = "CLOUDFS_TEST_BESIDE" in os.environ  # another run is on this machine
STRICT = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_configure(config: pytest.Config) -> None:
    # Short, since a unix socket's path has at most 107 bytes; open to all, since some
    # tests act as another user.
    base = Path(tempfile.mkdtemp(prefix="cfs-"))
    base.chmod(0o711)
    tempfile.tempdir = str(base)
    os.environ["TMPDIR"] = str(base)
    os.environ[MARK] = base.name
    config.addinivalue_line("markers", "one_person: who runs it makes no difference")
    config.pluginmanager.register(Watch(base), "cloudfs-watch")


class Watch:
    """Sees what the tests skip and what they leave behind."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.before = set(_groups()) | set(_namespaces())
        self.skipped: list[tuple[str, str]] = []
        self.left: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skip(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skip(report)

    def _skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        said = report.longrepr
        self.skipped.append((report.nodeid, said[2] if isinstance(said, tuple) else str(said)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.left = _clear_mounts(self.base) + _clear_processes(self.base)
        if STRICT and not BESIDE:  # else the other run may have made them
            made = (set(_groups()) | set(_namespaces())) - self.before
            self.left += sorted(f"left behind: {path}" for path in made)
        failed = self.left or (STRICT and self.skipped)
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left:
            terminalreporter.section("left behind by the tests", red=True)
            for line in self.left:
                terminalreporter.line(line)
        if STRICT and self.skipped:
            terminalreporter.section("skipped, which CI takes for a failure", red=True)
            for name, reason in self.skipped:
                terminalreporter.line(f"{name}: {reason}")

    def pytest_unconfigure(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


def _clear_mounts(base: Path) -> list[str]:
    left = []
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4].encode().decode("unicode_escape")
        if point.startswith(f"{base}/"):
            left.append(f"a mount: {point} (cleared)")
            tool = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
            subprocess.run([*tool, "-l" if os.geteuid() == 0 else "-z", point], check=False)
    return left


def _clear_processes(base: Path) -> list[str]:
    """Processes that carry our mark or name our folder; they are killed."""
    left = []
    mark = f"{MARK}={base.name}".encode()
    for pid in _pids():
        if pid == os.getpid():
            continue
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            ours = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            # A keeper has neither our environment nor our folder in its command line,
            # but holds its object's directory.
            held = os.readlink(f"/proc/{pid}/fd/0") if line.startswith(b"cloudfs-keeper") else ""
            if not ours and f"{base}/" not in f"{held}{os.fsdecode(line)}":
                continue
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
        left.append(
            f"a process: {pid} {line.replace(bytes(1), b' ').decode(errors='replace')} (killed)"
        )
    return left


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def _groups() -> Iterator[str]:
    """Control groups of cloudfs, whoever made them; some may go while we look."""
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"{folder}/{name}" for name in names if "cloudfs" in f"{folder}/{name}")


def _namespaces() -> Iterator[str]:
    """Named network namespaces of cloudfs."""
    yield from (str(p) for p in Path("/run/netns").glob("*cloudfs*"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `person` runs once for each kind of user this machine can have."""
    if "person" in metafunc.fixturenames:
        names = ["root", "nobody"] if os.geteuid() == 0 else ["self"]
        if metafunc.definition.get_closest_marker("one_person"):
            del names[1:]
        metafunc.parametrize("person", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def person(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Person]:
    """Who acts: see persons.py."""
    if request.param == "nobody":
        with nobody(Path(tempfile.mkdtemp())) as found:
            yield found
    else:
        yield Person(request.param, os.geteuid())
