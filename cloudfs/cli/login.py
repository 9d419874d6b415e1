"""Who you are in the cloud: login, logout, keys, grant.  All work on your factotum's files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, socket_path
from cloudfs.cli.up import answers, until
from cloudfs.errors import CloudError

if TYPE_CHECKING:
    from cloudfs.factotum import accounts

START = 20.0  # seconds for a factotum to answer
END = 10.0  # seconds for one to end
MAX_KEYS = 1 << 20  # bytes of a sealed file
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("user")
@click.option("--key", "file", metavar="FILE", help="Your sealed keys, where not in secstore.")
@click.option("--for", "time_", metavar="TIME", default="24h", show_default=True,
              help="After which your keys are forgotten: 90m, 12h, 7d.")  # fmt: skip
@click.option("--idle", metavar="TIME", help="The same after so long without a use of them.")
@click.pass_obj
def login(options: Options, user: str, file: str | None, time_: str, idle: str | None) -> None:
    """Be USER in the cloud, on this machine, until you log out.

    The password is asked for at the terminal, or is the first line of standard input; it
    never leaves this machine, and opens the sealed keys that the cloud's secstore has.  Your
    keys go into a factotum, a process of yours that never gives them out, and it proves to
    this machine's node who you are: from then on all that you do here, in the mount as well,
    is USER's.
    """
    path = config.factotum_socket()
    limits = ["--life", f"{seconds(time_):g}", *(["--idle", f"{seconds(idle):g}"] if idle else [])]
    if options.explain:
        words = [sys.executable, "-m", "cloudfs.factotumd", "--socket", str(path), *limits]
        click.echo(f"setsid {shlex.join(words)} </dev/null &")
        where = shlex.quote(file) if file else f"secstore/users/{user}/keys"
        click.echo(f"cloudfs keys --add   # the lines of {where}, opened")
        ctl = f"unix:{shlex.quote(str(path))} ctl"
        click.echo(f"echo login unix:{socket_path()} user={user} | cloudfs 9p write {ctl}")
        return
    lines = get_keys(user, Path(file), password) if file else from_secstore(options, user)
    files = start(path, limits)
    try:
        for line in lines:
            files.put("ctl", f"{complete(line, epoch_of)}\n".encode())
        files.write("ctl", f"login unix:{socket_path()} user={ndb.quote(user)}")
    except CloudError as error:
        raise CloudError(error.kind, error.why, error.fix) from None  # without the path of ctl
    finally:
        files.close()
    click.echo(f"you are {user}; to end that: cloudfs logout")


@click.command()
@click.pass_obj
def logout(options: Options) -> None:
    """Forget your keys and be yourself again on this machine.

    What you began goes on; connections and mounts that you made as that user end.
    """
    path = config.factotum_socket()
    if options.explain:
        click.echo(f"echo end | cloudfs 9p write unix:{shlex.quote(str(path))} ctl")
        return
    files = find(path)
    if files is None:
        click.echo("you are not logged in")
        return
    try:
        files.write("ctl", "end")
    finally:
        files.close()
    if not until(lambda: not path.exists(), END):
        raise CloudError("timeout", f"your factotum did not end in {END:g} s", f"see: {path}")
    click.echo("you are logged out")


@click.command()
@click.option("--add", is_flag=True, help="Add the keys that standard input has, a line each.")
@click.option("--remove", metavar="TEMPLATE", help="Forget the keys that match, as user=ana.")
@click.option("--log", "show_log", is_flag=True, help="Print what was done with them.")
@click.option("--holder", is_flag=True, help="Print by which name others grant you something.")
@click.pass_obj
def keys(options: Options, add: bool, remove: str | None, show_log: bool, holder: bool) -> None:
    """List your keys, without their secrets, and where you are logged in.

    A line for --add is  key ATTR=VALUE… !ATTR=SECRET  as in factotum(4), or what cloudfs grant
    printed.  A key with confirm=yes asks you before each use:
    cat /cloud/.follow/factotum/confirm
    """
    path = config.factotum_socket()
    address = f"unix:{shlex.quote(str(path))}"
    if options.explain:
        if remove is not None:
            line = shlex.quote(f"delkey {remove}")
            click.echo(f"echo {line} | cloudfs 9p write {address} ctl")
        else:
            name = "log" if show_log else "ctl"
            click.echo(f"cloudfs 9p {'write' if add else 'cat'} {address} {name}")
        return
    files = find(path)
    if files is None:
        raise CloudError("absent", "you have no factotum", "type: cloudfs login USER")
    try:
        if holder:
            click.echo(asked("start proto=cap25519 role=holder"))
        if add:
            for line in sys.stdin.read(MAX_KEYS).splitlines():
                if line.strip():
                    files.put("ctl", f"{complete(line)}\n".encode())
        if remove is not None:
            files.put("ctl", f"delkey {remove}\n".encode())
        if not add and remove is None and not holder:
            click.echo(files.read("log" if show_log else "ctl"), nl=False)
    except CloudError as error:
        raise CloudError(error.kind, error.why, error.fix) from None
    finally:
        files.close()


@click.command()
@click.argument("user")
@click.option("--op", metavar="VERB,…", help="Verbs of ctl, and: read, write, new.")
@click.option("--app", metavar="NAME,…", help="Objects of these applications only.")
@click.option("--cluster", metavar="NAME,…", help="Nodes of these clusters only.")
@click.option("--node", metavar="NAME,…", help="These nodes only.")
@click.option("--price", metavar="MOST", help="Begin objects that cost at most so much an hour.")
@click.option("--for", "time_", metavar="TIME", default="12h", show_default=True,
              help="How long it is good: 90m, 12h, 7d.")  # fmt: skip
@click.pass_obj
def grant(options: Options, /, user: str, time_: str, **limits: str | None) -> None:
    """Let USER do some of what you may.

    Prints a line for USER's factotum: cloudfs keys --add.  With it, and cloudfs 9p --user YOU,
    USER is you on the nodes of the cloud, as far as the options say; without --op all of your
    verbs, without --app all of your objects.  --price bounds what an object may cost an hour that
    is begun, moved or copied with it: its limit cpu times what its node asks for a core-hour, so
    such an object needs a limit cpu.  Only USER's factotum can use it, for it is made
    for the key there, which is looked up by the name, or given: ed25519:… as
    cloudfs keys --holder prints it.
    """
    sets = " ".join(f"{name}={ndb.quote(text)}" for name, text in limits.items() if text)
    if options.explain:
        raise click.UsageError("grant asks your factotum's rpc, whose answers no shell line reads")
    until_ = int(time.time() + seconds(time_))
    start = f"start proto=cap25519 role=grant holder={holder_of(user)} until={until_} {sets}"
    click.echo(f"granted {asked(start.strip())}")


# --- the steps ------------------------------------------------------------------------------


def get_keys(user: str, file: Path, ask: Callable[[], str]) -> list[str]:
    """The lines of a user's keys, from a file that is sealed with a password (factotum/sealed.py).

    ask(): the password.  CloudError: "denied" for a wrong one, "bad" for what is no such file.
    """
    from cloudfs.factotum import sealed  # takes its time to import

    try:
        with file.open() as opened:
            blob = sealed.parse(opened.read(MAX_KEYS))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no text"
        raise CloudError("bad", f"{file}: {why}", "give your sealed keys: --key FILE") from None
    if blob.user != user:
        raise CloudError("denied", f"{file} has the keys of {blob.user}, not of {user}")
    content = sealed.open_by_password(blob, ask().encode())
    return [line for line in content.decode(errors="replace").splitlines() if line.strip()]


def from_secstore(options: Options, user: str) -> list[str]:
    """The lines of a user's keys, as cli/secstore.py gets them.  Raises as that does."""
    from cloudfs.cli import secstore
    from cloudfs.cli.files import open_files

    files = open_files(options)
    try:
        return secstore.get_keys(
            files, user, password(), say=lambda text: click.echo(f"cloudfs: {text}", err=True)
        )
    finally:
        files.close()


def password() -> str:
    """The password, from the terminal, or else the first line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("password", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\n")


def complete(line: str, epoch_of: Callable[[str], int] | None = None) -> str:
    """A line of ctl; a key for cap25519 is given what it does not say: by what its cloud's nodes
    are known, which this machine's node trusts, and its user's epoch."""
    words = line.split()
    if words[:1] != ["key"] or "proto=cap25519" not in words:
        return line
    said = dict(word.partition("=")[::2] for word in words[1:])
    more = ""
    if "epoch" not in said and epoch_of is not None:
        more += f" epoch={epoch_of(said.get('user', ''))}"
    if "root" not in said:
        from cloudfs.factotum import nodekeys, nodeproof

        try:
            root = nodekeys.certificate(nodekeys.files_in(socket_path().parent).ca)
        except CloudError:
            pass  # the factotum will say what it lacks, if it is asked for that key
        else:
            more += f" root={nodeproof.root_key(root)}"
    return line.rstrip() + more


def record_of(user: str) -> accounts.User | None:
    """A user's record, as the tree of this machine has it; None where it does not."""
    from cloudfs.cli.files import open_files
    from cloudfs.factotum import accounts

    accounts.check_name(user)
    try:
        files = open_files(Options())
        try:
            line = next(iter(files.read(f"secstore/users/{user}/record").splitlines()), "")
        finally:
            files.close()
        return accounts.parse_user(f"{line}\n")
    except CloudError:
        return None


def epoch_of(user: str) -> int:
    """A user's epoch, the first one where no record is found."""
    record = record_of(user)
    return record.epoch if record is not None else 1


def asked(start: str) -> str:
    """What the rpc of one's factotum answers to `start` and a read.  CloudError("denied")."""
    import trio

    from cloudfs.tree.api import ORDWR
    from cloudfs.wire.connect import connect
    from cloudfs.wire.prove import PATIENCE, asker, said

    found: list[bytes] = []

    async def ask() -> None:
        async with connect(f"unix:{config.factotum_socket()}") as client:
            async with await client.walk(["rpc"]) as file:
                file.deadline = PATIENCE
                await file.open(ORDWR)
                rpc = asker(file)
                await said(rpc, start.encode())
                found.append((await said(rpc, b"read"))[1])

    if find(config.factotum_socket()) is None:
        raise CloudError("absent", "you have no factotum", "type: cloudfs login USER")
    trio.run(ask)
    return found[0].decode()


def holder_of(user: str) -> str:
    """How a grant names a user's key.  CloudError("absent")."""
    if user.startswith("ed25519:"):
        return user
    record = record_of(user)
    if record is None:
        raise CloudError(
            "absent",
            f"no record of a user {user} is found here",
            f"have {user} type: cloudfs keys --holder, and give that in place of the name",
        )
    return f"ed25519:{record.key.hex()}"


def find(path: Path) -> Files | None:
    """The files of the factotum that serves there, None where none does."""
    from cloudfs.cli.wired import Wired

    return Wired(f"unix:{path}") if answers(path) else None


def start(path: Path, limits: list[str]) -> Files:
    """The files of the factotum at a socket, started if it does not run."""
    found = find(path)
    if found is not None:
        return found
    words = [sys.executable, "-m", "cloudfs.factotumd", "--socket", str(path), *limits]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
        text=True,
    )

    def ready() -> bool:
        return process.poll() is not None or answers(path)

    assert process.stderr is not None
    if not until(ready, START):
        process.kill()
    if process.poll() is not None:
        said = process.stderr.read().strip().removeprefix("cloudfs: factotum: ")
        raise CloudError("io", f"the factotum ended at once: {said}")
    found = find(path)
    if found is None:
        raise CloudError("io", f"the factotum at {path} does not answer")
    return found


def seconds(text: str) -> float:
    """The seconds in 90m, 12h or 7d.  CloudError("bad")."""
    found = _TIME.fullmatch(text)
    if found is None or not float(found[1]):
        raise CloudError("bad", f"{text[:40]!r} is no time", "write 90m, 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]]
