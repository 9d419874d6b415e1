"""A criu that works: found, tried by a real dump and restore, or fetched.

`criu check` proves nothing: versions before 4.2 say that all is well on kernels from
6.16 on and then cannot dump.  Where the distribution's is too old, Debian's unstable
suite has a newer one; it is unpacked into the state directory with its own libraries
and started through its own dynamic linker, so that nothing of the system changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.criu import first_error
from cloudfs.node.criu import program as program

SUITE = "sid"
LONGEST = 30.0  # seconds for a dump or a restore
TRIES, PAUSE = 3, 10.0  # times that package servers are asked, and seconds between two
RELEASE = Path("/etc/os-release")
SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
ONLY_NEEDED = [
    f"--no-{kind}"
    for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
]


def try_out(criu: str) -> str:
    """Dump and restore a small process; "" if it lives again, else what went wrong."""
    with tempfile.TemporaryDirectory(prefix="cloudfs-criu-") as name:
        images = Path(name)
        sleeper = subprocess.Popen(
            ["sleep", "60"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        reborn = 0
        try:
            time.sleep(0.05)  # let it reach its sleep: a dump in the middle of exec may fail
            problem = _run(criu, "dump", images, "--tree", str(sleeper.pid))
            sleeper.wait(timeout=LONGEST) if not problem else None
            if not problem:
                pidfile = images / "pid"
                problem = _run(
                    criu, "restore", images, "--restore-detached", "--pidfile", str(pidfile)
                )
                reborn = int(pidfile.read_text()) if not problem else 0
                if reborn and not Path(f"/proc/{reborn}").exists():
                    problem = "the restored process is not there"
        except subprocess.TimeoutExpired:
            problem = f"no end within {LONGEST:g} s"
        finally:
            if sleeper.poll() is None:
                sleeper.kill()
                sleeper.wait()
            if reborn:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(reborn, signal.SIGKILL)
    return problem


def _run(criu: str, what: str, images: Path, *args: str) -> str:
    """One criu command; "" or its first error."""
    log = images / f"{what}.log"
    done = subprocess.run(
        [criu, what, "--images-dir", str(images), "-v2", "--log-file", log.name, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == 0:
        return ""
    text = log.read_text(errors="replace") if log.exists() else done.stderr
    error = first_error(text) or done.stderr.strip() or str(done.returncode)
    return f"{what} failed: {error}"


def sources(texts: Iterable[str], codename: str) -> list[str]:
    """One-line apt sources of SUITE, from the text of a machine's own files for its
    release `codename`; both formats of sources.list(5)."""
    found: dict[str, None] = {}
    for text in texts:
        for line in text.splitlines():
            match = re.fullmatch(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
            if match and match[3] == codename and "main" in match[4].split():
                found[f"deb {match[1] or ''}{match[2]} {SUITE} main"] = None
        for part in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", part))
            if "deb" not in fields.get("Types", "").split():
                continue
            if codename in fields.get("Suites", "").split() and "main" in fields.get(
                "Components", ""
            ):
                key = fields.get("Signed-By", "")
                option = f"[signed-by={key}] " if key.startswith("/") else ""
                for uri in fields.get("URIs", "").split():
                    found[f"deb {option}{uri} {SUITE} main"] = None
    return list(found)


def fetch(state: Path, say: Callable[[str], None]) -> None:
    """Put a criu of SUITE under state/criu.  Raises CloudError where that cannot be."""
    release = RELEASE.read_text()
    codename = re.search(r"(?m)^VERSION_CODENAME=(\S+)", release)
    if not re.search(r"(?m)^ID=debian$", release) or not codename or not shutil.which("apt-get"):
        raise CloudError(
            "unsupported",
            "criu can only be fetched on Debian",
            "install criu 4.2 or newer yourself",
        )
    mine = sources(map(Path.read_text, _source_files()), codename[1])
    if not mine:
        raise CloudError(
            "absent", f"apt here has no source of {codename[1]} main", "see: apt policy"
        )
    place = state.absolute() / "criu"
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="criu-", dir=place.parent) as name:
        work = Path(name)
        (work / "sources.list").write_text("".join(f"{line}\n" for line in mine))
        for part in ("lists/partial", "cache/archives/partial", "packages", "root"):
            (work / part).mkdir(parents=True)
        say(f"reading the package lists of {SUITE} (about 11 MB)")
        _apt(work, "apt-get", "-qq", "update")
        told = _apt(work, "apt-cache", "depends", "--recurse", *ONLY_NEEDED, "criu")
        packages = [
            line for line in told.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", line)
        ]
        say(f"downloading criu and {len(packages) - 1} libraries (about 10 MB)")
        _apt(work, "apt-get", "-qq", "download", *packages)
        for package in sorted((work / "packages").glob("*.deb")):
            _check(["dpkg", "-x", str(package), str(work / "root")], work)
        if not (work / "root/usr/sbin/criu").exists():
            raise CloudError("io", f"apt gave no criu of {SUITE}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.move(work / "root" / "usr", place / "usr")
    _wrap(place)
    said = subprocess.run(
        [place / "criu", "--version"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        raise CloudError("io", f"the fetched criu does not start: {said.stderr.strip()}")
    say(f"criu {said.stdout.split()[1]} is in {place}")


def _source_files() -> list[Path]:
    single, folder = SOURCES
    parts = sorted(p for p in folder.glob("*") if p.suffix in (".list", ".sources"))
    return [p for p in (single, *parts) if p.is_file()]


def _apt(work: Path, tool: str, *args: str) -> str:
    """apt with everything of its own under work."""
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": "/dev/null",  # what is installed does not matter
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 3,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
    }
    set_all = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return _check([tool, *set_all, *args], work / "packages")


def _check(command: list[str], where: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CloudError(
            "io", f"{command[0]} failed: {' '.join(last)}", "see whether the package servers answer"
        )
    return done.stdout


def _wrap(place: Path) -> None:
    """A script that starts criu with the linker and the libraries it came with."""
    linker = next(place.glob("usr/lib*/**/ld-linux*.so.*"), None)
    library = next(place.glob("usr/lib/*/libc.so.6"), None)
    if linker is None or library is None:
        raise CloudError("io", "the packages hold no C library")
    script = place / "criu"
    script.write_text(
        "#!/bin/sh\n"
        f'exec "{linker}" --library-path "{library.parent}" "{place}/usr/sbin/criu" "$@"\n'
    )
    script.chmod(0o755)


def ensure(state: Path, say: Callable[[str], None]) -> None:
    """See that there is a criu that works, fetched into state/criu if need be.

    Servers that do not answer are asked again.  Raises CloudError where there is none.
    """
    found = program(state)
    if found is not None and not try_out(found):
        return
    for left in reversed(range(TRIES)):
        try:
            fetch(state, say)
            break
        except CloudError as error:
            if not left or error.kind != "io":
                raise
            say(f"{error}; trying again in {PAUSE:g} s")
            time.sleep(PAUSE)
    found = program(state)
    problem = try_out(found) if found else "it is not there"
    if problem:
        raise CloudError("unsupported", f"the fetched criu does not work here: {problem}")


def main() -> None:
    """For bin/test: the directory to fetch into is the only argument."""
    try:
        ensure(Path(sys.argv[1]), print)
    except CloudError as error:
        sys.exit(f"no criu: {error}")


if __name__ == "__main__":
    main()
