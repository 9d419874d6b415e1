"""cloudfs doctor: what this machine can do, by trying it; each lack has its fix.

A check is a function that returns ok(…), warn(…) or fail(…); CHECKS is all of them.
warn is a lack that cloudfs lives with, fail one that it does not.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from cloudfs import config
from cloudfs.cli import Options, criu
from cloudfs.cli.files import daemon_pid, socket_path
from cloudfs.cli.up import answers
from cloudfs.errors import CloudError
from cloudfs.fuse import stale

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # users often lack the last two
LONGEST = 10.0  # seconds for a program that a check runs


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: result is ok, warn or fail."""

    name: str
    result: str
    says: str
    fix: str = ""


Found = tuple[str, str, str]  # result, says, fix


def ok(says: str) -> Found:
    return "ok", says, ""


def warn(says: str, fix: str) -> Found:
    return "warn", says, fix


def fail(says: str, fix: str) -> Found:
    return "fail", says, fix


def _root() -> bool:
    return os.geteuid() == 0


def _python() -> Found:
    """Which Python runs this; older ones than 3.11 cannot."""
    return ok(f"{platform.python_version()} at {sys.executable}")


def _fuse_device() -> Found:
    """/dev/fuse is there."""
    try:
        there = stat.S_ISCHR(os.stat("/dev/fuse").st_mode)
    except OSError:
        there = False
    if there and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return fail("/dev/fuse is closed to you", "as root: chmod 666 /dev/fuse")
    if there:
        return ok("/dev/fuse")
    return fail(
        "there is no /dev/fuse", "as root: modprobe fuse; in a container: --device /dev/fuse"
    )


def _fusermount() -> Found:
    """fusermount3 is there and may mount for users."""
    path = shutil.which("fusermount3", path=PATH)
    if path is None:
        return fail("no fusermount3", "as root: apt-get install fuse3")
    held = os.stat(path)
    if not _root() and not (held.st_mode & stat.S_ISUID and held.st_uid == 0):
        return fail(f"{path} is not setuid root", f"as root: chmod u+s {path}")
    return ok(path)


def _allow_other() -> Found:
    """Whether users other than the one who mounts may see the mount."""
    if _root():
        return ok("root's mounts may be for all users")
    try:
        lines = Path("/etc/fuse.conf").read_text().split("\n")
    except OSError:
        lines = []
    if "user_allow_other" in (line.strip() for line in lines):
        return ok("user_allow_other is set")
    return warn(
        "only you will see your mount, not even root",
        "if others should: as root, add the line user_allow_other to /etc/fuse.conf",
    )


def _pyfuse3() -> Found:
    """The FUSE library of Python can be loaded."""
    try:
        import pyfuse3
    except ImportError as error:
        return fail(
            f"pyfuse3: {error}",
            "as root: apt-get install libfuse3-dev pkg-config gcc; then bin/try",
        )
    return ok(f"pyfuse3 {pyfuse3.__version__}")


def _compiler() -> Found:
    """A C compiler, for the keeper that holds each object."""
    found = shutil.which("cc", path=PATH)
    return ok(found) if found else fail("no cc", "as root: apt-get install gcc libc6-dev")


def _cgroups() -> Found:
    """Control groups, for limits and accounting."""
    from cloudfs.node.cgroup import FIX
    from cloudfs.node.groups import Groups

    groups = Groups("doctor")
    groups.remove()
    if groups.word:
        return warn(groups.word, FIX)
    versions = sorted({f"v{version}" for version, _ in groups.bases.values()})
    return ok(f"{' and '.join(versions)}: {' '.join(sorted(groups.bases))}")


def _process() -> Found:
    """An object of runtime process can be started: the keeper compiles and keeps."""
    from cloudfs.cli.trial import try_out

    try:
        try_out("process")
    except CloudError as error:
        return fail(error.why, error.fix or "see the reason; then try again")
    return ok("an object of runtime process ran")


def _sandbox() -> Found:
    """runc, for objects of runtime sandbox, by starting one."""
    path = shutil.which("runc", path=PATH)
    if path is None:
        return warn("no runc, so no runtime sandbox", "as root: apt-get install runc")
    version = re.search(r"version (\S+)", _said([path, "--version"]))
    name = f"{path} {version[1] if version else 'of no version'}"
    if not _root():
        return warn(f"{name}: only root's node can use it", "objects have runtime process")
    from cloudfs.cli.trial import try_out

    try:
        try_out("sandbox")
    except CloudError as error:
        return warn(
            f"{name}: {error.why}", error.fix or "until then: cloudfs run --runtime process"
        )
    return ok(f"{name} ran an object of runtime sandbox")


def _criu() -> Found:
    """Checkpoint and restore of a process, by doing it."""
    program = criu.program(config.state_dir())
    if not _root():
        return warn("only root can try a dump", "as root: cloudfs doctor")
    if program is None:
        return warn("no criu, so no checkpoints", "as root: cloudfs doctor --get-criu")
    problem = criu.try_out(program)
    if problem:
        return warn(f"{program}: {problem}", "as root: cloudfs doctor --get-criu")
    return ok(f"{program} dumped and restored a process")


def _vm() -> Found:
    """QEMU, for objects of runtime vm, and whether it can use KVM."""
    from cloudfs.node.vms import Vms

    found = Vms(config.state_dir())
    if found.word:
        return warn(found.word, found.fix or "objects of other runtimes work")
    by = "KVM" if found.kvm() else "software emulation, as KVM does not work here"
    return ok(f"{found.qemu} makes {found.machine()} by {by}")


def _namespaces() -> Found:
    """A mount name space of one's own, for cloudfs shell."""
    tool = shutil.which("unshare", path=PATH)
    if tool is None:
        return warn("no unshare", "as root: apt-get install util-linux")
    line = [tool, "--mount"] if _root() else [tool, "--user", "--map-current-user", "--mount"]
    said = _said([*line, "true"])
    if said:
        return warn(
            f"cloudfs shell will not work: {said[:100]}",
            "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu),"
            " or kernel.unprivileged_userns_clone=1 (Debian)",
        )
    return ok("mount name spaces can be made")


def _stale() -> Found:
    """Mounts whose daemon is gone or stuck."""
    found = [mount.directory for mount in stale.stale_mounts()]
    if found:
        return fail(f"no daemon behind {' '.join(found)}", "cloudfs doctor --fix")
    return ok("none is stale")


def _state() -> Found:
    """The state directory can be written."""
    state = config.state_dir()
    there = next(p for p in (state, *state.parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(f"{there} cannot be written", "set CLOUDFS_STATE to a directory of yours")
    return ok(str(state))


def _keys() -> Found:
    place = config.state_dir() / "root.key"
    if place.exists():
        return warn(
            f"the cloud's root key is on this machine: {place}",
            "carry it to a place that is on no network, and remove it here",
        )
    return ok("the cloud's root key is not on this machine")


def _daemon() -> Found:
    """The node answers."""
    path = socket_path()
    if answers(path):
        return ok(f"answers at {path}")
    if daemon_pid(config.state_dir()) is not None:
        return fail(f"it runs, but does not answer at {path}", "cloudfs down; cloudfs up")
    return warn("it is not up", "cloudfs up")


CHECKS: dict[str, Callable[[], Found]] = {
    "python": _python,
    "fuse": _fuse_device,
    "fusermount3": _fusermount,
    "allow_other": _allow_other,
    "pyfuse3": _pyfuse3,
    "compiler": _compiler,
    "cgroups": _cgroups,
    "process": _process,
    "sandbox": _sandbox,
    "criu": _criu,
    "vm": _vm,
    "namespaces": _namespaces,
    "mounts": _stale,
    "state": _state,
    "keys": _keys,
    "node": _daemon,
}


def examine() -> Iterator[Finding]:
    """Every check's finding, as it is made."""
    for name, check in CHECKS.items():
        try:
            yield Finding(name, *check())
        except CloudError as error:
            yield Finding(name, "warn", error.why, error.fix)


def _said(command: list[str]) -> str:
    """What a program printed, on both outputs; "" if nothing."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()


@click.command()
@click.option("--fix", is_flag=True, help="Clear stale mounts first.")
@click.option("--get-criu", is_flag=True, help="Fetch a criu that works on new kernels.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.pass_obj
def doctor(options: Options, fix: bool, get_criu: bool, as_json: bool) -> None:
    """Check what this machine can do, by trying it; each lack has its fix.

    warn is a lack that cloudfs lives with, fail one that it does not; the exit status
    is 1 if there is a fail.

    --get-criu downloads criu and its libraries from the unstable suite of this
    Debian's own package servers into the state directory, with the signatures checked
    by apt; nothing else of the system changes.
    """
    if options.explain:
        raise click.UsageError("doctor tries things out, which no shell line does")
    if get_criu:
        criu.fetch(config.state_dir(), click.echo)
    if fix:
        for mount in stale.stale_mounts():
            stale.clear(mount.directory)
            click.echo(f"cleared {mount.directory}")
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.result:4}  {finding.name:11}  {finding.says}")
            if finding.fix:
                click.echo(f"{'':19}fix: {finding.fix}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    if any(finding.result == "fail" for finding in findings):
        raise SystemExit(1)
