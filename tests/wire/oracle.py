"""Runs apart, with python-9p before everything else: frames in, what it makes of them out.

One hexadecimal frame a line; a JSON object or an error's name comes back for each.
"""

import dataclasses
import json
import sys

from py9p import decode_message  # type: ignore[attr-defined]


def plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


for line in sys.stdin:
    try:
        message = decode_message(bytes.fromhex(line))
        fields = {f.name: plain(getattr(message, f.name)) for f in dataclasses.fields(message)}
        found = {
            "name": type(message).__name__,
            "fields": fields,
            "again": message.to_bytes().hex(),
        }
    except Exception as error:  # whatever it says, it does not take the frame
        found = {"error": repr(error)}
    print(json.dumps(found))
