"""Who a test acts as: the one who runs the tests and, if that is root, an ordinary user.

The ordinary user is nobody, in a mount name space in which nobody can reach this
Python and this checkout, which may well lie below somebody's home, and /dev/fuse, which
not every machine opens to all.  Nothing of the machine itself changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cloudfs

NOBODY = 65534
# The signals as a terminal's shell leaves them: nohup and a shell's & ignore some, and
# what is ignored stays so in children.
KEPT = ("CLOUDFS_TEST", "CLOUDFS_CRIU", "CLOUDFS_VM")  # beginnings of variables that go along
PLAIN = ["env", "--default-signal"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Keeps what is needed, covers what is closed, and shows what was kept in its place:
# whole, or where its own directory is closed, what is in it.
SCRIPT = r"""
set -eu
keep=$1; shift
mount -t tmpfs -o mode=755 none "$keep"
open() { [ "$(($(stat -c %a "$1") % 2))" = 1 ]; }
n=0
for path; do
    n=$((n + 1)); mkdir "$keep/$n"; mount --bind "$path" "$keep/$n"
done
closed=
for path; do
    outermost=
    up=$path
    while [ "$up" != / ]; do
        open "$up" || outermost=$up
        up=$(dirname "$up")
    done
    closed="$closed$outermost
"
done
IFS='
'
for path in $closed; do mount -t tmpfs -o mode=755 none "$path"; done
n=0
for path; do
    n=$((n + 1))
    [ -z "$(ls -A "$path" 2>/dev/null)" ] || continue
    mkdir -p "$path"
    if open "$keep/$n"; then mount --bind "$keep/$n" "$path"; continue; fi
    for part in "$keep/$n"/* "$keep/$n"/.[!.]*; do
        name=$path/${part##*/}
        if [ -d "$part" ]; then mkdir "$name"; elif [ -e "$part" ]; then : >"$name"; else continue; fi
        mount --bind "$part" "$name"
    done
done
mknod -m 666 "$keep/fuse" c 10 229
mount --bind "$keep/fuse" /dev/fuse
echo ready
exec sleep 100000
"""


def open_folder() -> Path:
    """A new temporary folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    return folder


class Person:
    """Somebody who runs commands.  become: the words before each."""

    def __init__(self, name: str, uid: int, become: Sequence[str] = ()) -> None:
        self.name = name
        self.uid = uid
        self.become = list(become)

    def home(self, folder: Path) -> Path:
        """A new directory of theirs."""
        folder.mkdir(mode=0o755)
        if os.geteuid() == 0:
            os.chown(folder, self.uid, self.uid)
        return folder


@contextmanager
def nobody(folder: Path) -> Iterator[Person]:
    """An ordinary user; folder is empty."""
    needed = [sys.prefix, sys.base_prefix, str(Path(cloudfs.__file__).parents[1])]
    paths = sorted({os.path.realpath(path) for path in needed}, key=len)  # outer ones first
    holder = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
            folder,
            *paths,
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield Person(
            "nobody",
            NOBODY,
            ["nsenter", "--mount", "-t", str(holder.pid), "setpriv", f"--reuid={NOBODY}",
             f"--regid={NOBODY}", "--clear-groups", "--"],
        )  # fmt: skip
    finally:
        holder.kill()
        holder.wait()


class Session:
    """A person with a home, and a cloud of their own once they type `cloudfs up`."""

    def __init__(self, person: Person, home: Path) -> None:
        self.person = person
        self.home = person.home(home)
        self.state = home / "state"
        self.mount = home / "cloud"
        self.env = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{PATH}",
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(home),
            "CLOUDFS_STATE": str(self.state),
            "CLOUDFS_MOUNT": str(self.mount),
            "CLOUDFS_FACTOTUM": str(home / "factotum" / "sock"),
            **{name: text for name, text in os.environ.items() if name.startswith(KEPT)},
        }

    def start(self, *command: str, **more: object) -> subprocess.Popen[str]:
        """A command of this person, going on beside the test."""
        return subprocess.Popen(
            [*PLAIN, *self.person.become, *command], env=self.env, cwd="/", text=True, **more
        )  # type: ignore[call-overload,no-any-return]

    def run(
        self, *command: str, stdin: str = "", status: int | None = 0, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command of this person, to its end; status is the one wanted, None for any."""
        done = subprocess.run(
            [*PLAIN, *self.person.become, *command],
            env=self.env,
            cwd="/",
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if status is not None and done.returncode != status:
            raise AssertionError(
                f"{' '.join(command)}: status {done.returncode}, not {status}\n"
                f"{done.stdout}{done.stderr}{self.log()}"
            )
        return done

    def cloudfs(self, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
        return self.run("cloudfs", *args, **more)  # type: ignore[arg-type]

    def sh(self, line: str, **more: object) -> str:
        """What a shell line prints."""
        return self.run("sh", "-c", line, **more).stdout  # type: ignore[arg-type]

    def log(self) -> str:
        try:
            return (self.state / "log").read_text()[-4000:]
        except OSError:
            return ""
