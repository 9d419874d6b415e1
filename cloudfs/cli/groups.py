"""Verbs for whole groups of objects: app=web, label=tier=front, node=n1, or all of a node."""

from __future__ import annotations

import shutil
import sys
import threading
import time

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, find_id, open_files
from cloudfs.cli.show import columns, span
from cloudfs.errors import CloudError

VIEWS = ("app", "user", "node", "cluster", "state", "label")
POLL = 0.2  # seconds between two looks at progress
PATIENCE = 10.0  # seconds for which progress may not be read, as while a link is cut


def group_of(word: str) -> str:
    """The directory of the group that a word like app=web names, "" if it names none."""
    kind, equals, value = word.partition("=")
    if not equals or kind not in VIEWS:
        return ""
    if not value or "/" in value or value[0] == ".":
        raise CloudError("bad", f"{word!r} names no group", "see: ls /cloud/view/*")
    return f"view/by-{kind}/{value}"


def ctl_of(files: Files, word: str) -> str:
    """The ctl of an object, whose id may be shortened, or of a group."""
    group = group_of(word)
    return f"{group}/ctl" if group else f"proc/{find_id(files, word)}/ctl"


def conduct(options: Options, group: str, line: str) -> None:
    """Write a line to a group's ctl, and draw what its progress tells until it is over.  Ends
    the command with 1 where not all was done."""
    files = open_files(options)
    if isinstance(files, Shell):
        files.write(f"{group}/ctl", line)
        files.say(f"cat {files.name(f'.follow/{group}/progress')}")
        return
    before = _head(files, group).get("started", "")
    failed: list[CloudError] = []
    written = threading.Event()
    threading.Thread(
        target=_write, args=(options, f"{group}/ctl", line, failed, written), daemon=True
    ).start()
    try:
        head = _watch(files, group, before, written)
    except KeyboardInterrupt:
        click.echo("\nit goes on; to give it up: " + _give_up(group), err=True)
        raise
    if head:
        _sum_up(files, group, head)
    if failed and (not head or head["state"] == "done"):
        raise failed[0]
    if head and head["state"] != "done":
        raise SystemExit(1)


def _give_up(group: str) -> str:
    verb = "undrain" if group.startswith("nodes/") else "cancel"
    return f"echo {verb} > /cloud/{group}/ctl"


def _write(
    options: Options, path: str, line: str, failed: list[CloudError], written: threading.Event
) -> None:
    try:
        files = open_files(options)  # a connection has one request at a time
        files.write(path, line)
        files.close()
    except CloudError as error:
        failed.append(error)
    finally:
        written.set()


def _head(files: Files, group: str) -> dict[str, str]:
    """The group's own line of progress; {} where nothing was done yet, or nobody tells."""
    try:
        text = "".join(files.plain(f"{group}/progress"))
    except (CloudError, OSError):
        return {}
    return ndb.parse(text.splitlines()[0]) if text else {}


def _watch(files: Files, group: str, before: str, written: threading.Event) -> dict[str, str]:
    """The last line of the run that begins now; {} where none does."""
    heard = time.monotonic()
    last: dict[str, str] = {}
    while True:
        over = written.wait(POLL)
        head = _head(files, group)
        if head and head["started"] != before:
            last, heard = head, time.monotonic()
            _draw(head)
            if head["state"] != "running":
                break
        elif over and (not last or time.monotonic() > heard + PATIENCE):
            break
        if over:
            time.sleep(POLL)
    if last and sys.stderr.isatty():
        click.echo(err=True)
    return last


def _draw(head: dict[str, str]) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        click.echo(f"\r{bar(head, width)}", nl=False, err=True)


def bar(head: dict[str, str], width: int) -> str:
    """A picture of the group's own line, so many letters wide."""
    total, left = int(head["total"]), int(head["left"])
    over = sum(int(head[name]) for name in ("done", "failed", "skipped"))
    words = f" {over}/{total}"
    if head["failed"] != "0":
        words += f", {head['failed']} failed"
    words += f"  {span(float(head['seconds']))}"
    name = f"{head['group'].rpartition('/')[2]}: {head['verb']} "[: max(8, width // 3)]
    name = "".join(char if char.isprintable() else "?" for char in name)
    room = max(4, width - len(name) - len(words) - 3)
    full = room * over // max(1, total)
    going = 0 if head["state"] != "running" else room * (total - left) // max(1, total) - full
    picture = "#" * full + "-" * going
    return f"{name}[{picture:{room}}]{words}"[:width].ljust(width - 1)


def _sum_up(files: Files, group: str, head: dict[str, str]) -> None:
    counts = [f"{head[name]} {name}" for name in ("done", "failed", "skipped", "left")]
    some = [text for text in counts if text[0] != "0"] or ["nothing to do"]
    click.echo(f"{head['verb']}: {', '.join(some)} in {span(float(head['seconds']))}")
    if head["state"] == "done":
        return
    items = map(ndb.parse, files.read(f"{group}/progress").splitlines()[1:])
    bad = [item for item in items if item.get("state") in ("failed", "unsure", "left")]
    rows = [(item["id"], item["state"], item["from"], item["why"]) for item in bad]
    for text in columns(("ID", "STATE", "NODE", "WHY"), rows):
        click.echo(text, err=True)
    if head["why"]:
        click.echo(f"cloudfs: {head['state']}: {head['why']}", err=True)
