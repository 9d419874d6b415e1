"""The runtime `sandbox`: an OCI bundle for runc, generated.

Inside: the host's /usr, read-only; a small /etc; a private /tmp and /work, which are
directories of the object; user, pid, ipc, uts and mount name spaces of its own, and a
network of its own when asked; no capabilities, no new privileges, a seccomp filter.
The program is process 1 in there: when it ends, so does all that it left running.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.node import seccomp
from cloudfs.node.api import Launch, Limits
from cloudfs.node.cgroup import PERIOD
from cloudfs.node.uids import SIZE, USER

LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # into /usr, where they are links
EMPTY = ("usr", "etc", "proc", "dev", "tmp", "work", "cloud", "run", "var")
ETC_COPIED = (
    "alternatives",
    "hosts",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
)
ETC_WRITTEN = {
    "passwd": f"root:x:0:0::/:/bin/sh\nuser:x:{USER}:{USER}::/work:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nuser:x:{USER}:\nnogroup:x:65534:\n",
}
MASKED = ("acpi", "kcore", "keys", "sched_debug", "scsi", "sysrq-trigger", "timer_list")
READONLY = ("bus", "fs", "irq", "sys")
OWN = ("work", "tmp")  # directories of the object: its work and temporary files
EMPTY_ENV: Mapping[str, str] = {}
MADE = ("config.json", "runc.log", "runc.pid")  # files of the bundle


def tmpfs(at: str, *options: str) -> dict[str, Any]:
    return {
        "destination": at,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", *options],
    }


def bind(source: str, at: str, *options: str) -> dict[str, Any]:
    return {
        "destination": at,
        "type": "bind",
        "source": source,
        "options": ["nosuid", "nodev", *options],
    }


def mounts(launch: Launch, root: Path) -> list[dict[str, Any]]:
    """What the program sees besides empty directories."""
    shown: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        tmpfs("/dev/shm", "noexec", "mode=1777"),  # noqa: S108
        tmpfs("/run", "noexec", "mode=755", "size=16m"),
        bind("/usr", "/usr", "rbind", "ro"),
        bind(str(root / "etc"), "/etc", "bind", "ro"),
        *(bind(str(launch.dir / name), f"/{name}", "bind", "rw") for name in OWN),
    ]
    # Where /bin and the like are directories of their own they are shown as well.
    solid = [name for name in LINKS if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    shown += [bind(f"/{name}", f"/{name}", "rbind", "ro") for name in solid]
    if launch.cloud:
        shown.append(bind(launch.cloud, "/cloud", "rbind", "rw"))
    return shown


def resources(limits: Limits) -> dict[str, Any]:
    """The limits, in OCI's terms."""
    held: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.cpu is not None:
        held["cpu"] = {"quota": max(1000, round(limits.cpu * PERIOD)), "period": PERIOD}
    if limits.mem is not None:
        held["memory"] = {"limit": limits.mem}
    if limits.pids is not None:
        held["pids"] = {"limit": limits.pids}
    return held


def bundle(launch: Launch, root: Path, first_uid: int, cgroup: str) -> dict[str, Any]:
    """The OCI configuration of an object.  root: what `prepare` made; cgroup: the path
    of its groups in every hierarchy."""
    mapping = [{"containerID": 0, "hostID": first_uid, "size": SIZE}]
    kinds = ["pid", "ipc", "uts", "mount", "user"] + ["network"] * (launch.net == "none")
    none: list[str] = []
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "ociVersion": "1.0.2",
        "hostname": launch.id,
        "root": {"path": str(root / "rootfs"), "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": USER, "gid": USER},
            "args": list(launch.argv),
            "env": [f"{name}={value}" for name, value in launch.env.items()],
            "cwd": launch.cwd or "/work",
            "capabilities": dict.fromkeys(sets, none),
            "noNewPrivileges": True,
        },
        "mounts": mounts(launch, root),
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in kinds],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "resources": resources(launch.limits),
            "maskedPaths": [f"/proc/{name}" for name in MASKED] + ["/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READONLY],
            "seccomp": seccomp.profile(),
        },
    }


# --- the driver ---------------------------------------------------------------------


class Sandbox:
    """runc with its state and the shared root under `home`.

    word: "" if it can be used here, else why not.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        self.runc = shutil.which("runc", path=path) or ""
        self.word = self._why_not()
        self.fix = "" if self.runc else "apt install runc"

    def _why_not(self) -> str:
        if os.geteuid() != 0:
            return "runtime sandbox needs the daemon to run as root"
        if not self.runc:
            return "runtime sandbox needs runc, which is not installed"
        closed = [str(one) for one in (self.home, *self.home.parents) if _closed(one)]
        if closed:
            return f"runtime sandbox needs {closed[-1]} to be open for all to pass (chmod o+x)"
        return ""

    def check(self, launch: Launch) -> None:
        """Raise CloudError if the program or the directory cannot be in the sandbox."""
        if self.word:
            raise CloudError("unsupported", self.word, self.fix or "use runtime process")
        if launch.net not in ("host", "none"):
            raise CloudError("bad", f"net {launch.net}: it is host or none")
        if not launch.argv or not launch.argv[0]:
            raise CloudError("bad", "there is no program to run", "echo exec CMD ARG… > ctl")
        # launch.cloud is not looked at: the daemon would wait for itself in its own mount.
        if not self._find(launch):
            raise CloudError(
                "absent",
                f"there is no program {launch.argv[0]} in the sandbox",
                "it sees /usr of this node, and /work",
            )
        if not self._outside(launch, launch.cwd or "/work", os.path.isdir):
            raise CloudError("absent", f"there is no directory {launch.cwd} in the sandbox")

    def _find(self, launch: Launch) -> bool:
        name = launch.argv[0]
        if "/" in name:
            paths = [os.path.join(launch.cwd or "/work", name)]
        else:
            paths = [f"{place}/{name}" for place in launch.env.get("PATH", "").split(":")]
        return any(self._outside(launch, path, _runs) for path in paths)

    def _outside(self, launch: Launch, path: str, test: Any) -> bool:
        """Whether the test holds for what the sandbox has at that path.  Directories of
        the object itself are taken at their word: they are made, and may change."""
        parts = Path(os.path.normpath(path)).parts
        if len(parts) < 2:
            return test is os.path.isdir
        if parts[1] == "usr" or parts[1] in LINKS:
            return bool(test(os.path.join("/", *parts[1:])))
        return parts[1] in (*OWN, "cloud", "dev", "proc", "run", "etc")

    def prepare(self) -> None:
        """Make or refresh the root that all sandboxes share, read-only."""
        rootfs, etc = self.home / "rootfs", self.home / "etc"
        for name in EMPTY:
            (rootfs / name).mkdir(parents=True, exist_ok=True)
        _link(rootfs / "var/tmp", "/tmp")  # noqa: S108
        _link(rootfs / "var/run", "/run")
        for name in LINKS:
            if os.path.islink(f"/{name}"):
                _link(rootfs / name, os.readlink(f"/{name}"))
            elif os.path.isdir(f"/{name}"):
                (rootfs / name).mkdir(exist_ok=True)
        etc.mkdir(exist_ok=True)
        for name, text in ETC_WRITTEN.items():
            if not (etc / name).exists():
                (etc / name).write_text(text)
        for name in ETC_COPIED:
            _copy(Path("/etc") / name, etc / name)
        self.home.chmod(0o711)

    def order(
        self,
        launch: Launch,
        first_uid: int,
        cgroup: str,
        images: Path | None = None,
        environment: Mapping[str, str] = EMPTY_ENV,
    ) -> list[tuple[str, object]]:
        """Write the bundle into the object's directory; what the keeper is to run: the
        program, or what criu's images hold."""
        self.prepare()
        for name in OWN:
            path = launch.dir / name
            if not path.is_dir():
                path.mkdir(mode=0o700)
                os.chown(path, first_uid + USER, first_uid + USER)
        for name in MADE:
            (launch.dir / name).unlink(missing_ok=True)
        config = bundle(launch, self.home, first_uid, cgroup)
        if images is not None:  # which runc then has criu read last
            config["annotations"] = {"org.criu.config": environment["CRIU_CONFIG"]}
        (launch.dir / "config.json").touch(0o600)
        (launch.dir / "config.json").write_text(json.dumps(config))
        verb: list[object] = ["run", "-d"]
        if images is not None:
            verb = ["restore", "-d", "--image-path", images, "--work-path", images]
        places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [
            "runc",
            *("--root", self.home / "runc"),
            *("--log", launch.dir / "runc.log", "--log-format", "json"),
            *(*verb, "--bundle", launch.dir, "--pid-file", launch.dir / "runc.pid"),
            launch.id,
        ]
        return [
            *(("arg", word) for word in command),
            *(("env", f"{name}={text}") for name, text in {"PATH": places, **environment}.items()),
            ("pidfile", launch.dir / "runc.pid"),
            ("cwd", launch.dir),
            ("owner", first_uid + USER),
            # To restore, runc mounts all that the sandbox has below the root that all share,
            # before it makes a name space: a sandbox that began meanwhile would have it too.
            ("apart", +(images is not None)),
        ]

    def complaint(self, launch: Launch) -> CloudError:
        """Why runc did not start it."""
        said = _last_error(launch.dir / "runc.log")
        for text, kind, why in COMPLAINTS:
            if text in said:
                return CloudError(kind, why.format(program=launch.argv[0]))
        return CloudError("io", f"runc: {said or 'gave no reason'}")

    def clear(self, id: str, dir: Path, own: Sequence[str] = ()) -> None:
        """Remove what runc and `order` have left, and of the object's own what is named."""
        shutil.rmtree(self.home / "runc" / id, ignore_errors=True)
        for name in MADE:
            (dir / name).unlink(missing_ok=True)
        for name in own:
            _remove(dir / name)


# What runc says, as a kind and a reason.
COMPLAINTS = (
    ("executable file not found", "absent", "there is no program {program} in the sandbox"),
    ("exec format error", "notexec", "{program} is not a program for this machine"),
    ("permission denied", "denied", "{program} or its directory is closed to it"),
    ("no such file or directory", "absent", "there is no program {program} in the sandbox"),
)


def _last_error(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            return str(entry.get("msg", ""))
    return ""


def _closed(path: Path) -> bool:
    return path.exists() and not path.stat().st_mode & 0o001


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _remove(tree: Path) -> None:
    """Remove a tree that a stranger made."""
    try:
        shutil.rmtree(tree, ignore_errors=True)
    except RecursionError:  # deeper than Python can go
        subprocess.run(["rm", "-rf", "--", str(tree)], check=False)


def _link(path: Path, to: str) -> None:
    if not path.is_symlink():
        path.symlink_to(to)


def _copy(source: Path, to: Path) -> None:
    """Copy a file or a directory of links if it is newer than the copy."""
    if not source.exists():
        return
    if to.exists() and to.stat().st_mtime >= source.stat().st_mtime:
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = to.with_name(f"{to.name}.new")
    if source.is_dir():
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source, fresh, symlinks=True)
        shutil.rmtree(to, ignore_errors=True)
    else:
        shutil.copy2(source, fresh)
    fresh.rename(to)
