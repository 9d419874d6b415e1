"""cloudfs bill: what an object has cost, as its node signed it, checked."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cloudfs import config
from cloudfs.cli import Options
from cloudfs.cli.files import SYSTEM, find_id, open_files
from cloudfs.errors import CloudError
from cloudfs.factotum import bills, trust

MOST = 1 << 20  # bytes of a file of bills


@click.command()
@click.argument("id", required=False)
@click.option("--check", "earlier", metavar="FILE", help="Earlier bills, which it must go on from.")
@click.pass_obj
def bill(options: Options, id: str | None, earlier: str | None) -> None:
    """Print the bill of an object, proc/ID/bill, once it is checked.

    The node where the object runs signs it.  A bill is refused that no node of this cloud
    signed, that is summed up wrongly, or that has more processor time in it than passed on
    all processors; with --check, also one that does not go on from the earlier ones in FILE,
    one a line.  Without ID only those are checked.

    cloudfs bill ID >>bills; cloudfs bill --check bills ID
    """
    if id is None and earlier is None:
        raise click.UsageError("Missing argument 'ID'.")
    root = trust.root(config.state_dir()) or trust.root(SYSTEM)
    if root is None:
        raise CloudError("absent", "this machine is in no cloud whose root could vouch for bills")
    last: dict[tuple[str, str, str], bills.Bill] = {}
    now = time.time()

    def take(line: str) -> None:
        stay = bills.parse(line).stay
        last[stay] = bills.check(line, root, last.get(stay), now)

    for number, line in enumerate(_lines(earlier), 1):
        try:
            take(line)
        except CloudError as error:
            raise CloudError(error.kind, f"{earlier}, line {number}: {error.why}") from None
    if id is None:
        return
    files = open_files(options)
    text = files.read(f"proc/{find_id(files, id)}/bill").strip()
    if not text:
        raise CloudError("absent", "its node signs no bills: it is in no cloud", "cloudfs init")
    take(text)
    click.echo(text)


def _lines(path: str | None) -> list[str]:
    """The lines of a file.  CloudError where it cannot be read."""
    if path is None:
        return []
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST + 1)
        if len(data) > MOST:
            raise CloudError("toobig", f"{path}: bills of at most {MOST} bytes are checked")
        return data.decode().split("\n")[: data.count(b"\n") or 1]
    except OSError as error:
        raise CloudError("absent", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CloudError("bad", f"{path} is no text") from None
