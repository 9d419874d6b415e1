"""The program that an object is to run: where it is, and whether it can be run."""

from __future__ import annotations

import os
import shutil

from cloudfs.errors import CloudError
from cloudfs.node.api import PATH, Launch
from cloudfs.node.near import near


def check_process(launch: Launch) -> str:
    """The program's path.  Raises CloudError if it or its directory are not there."""
    cwd = launch.cwd or "/"
    if not os.path.isdir(cwd):
        kind = "notdir" if os.path.exists(cwd) else "absent"
        raise CloudError(kind, f"there is no directory {cwd} on this node")
    return find_program(launch)


def looks_near(launch: Launch) -> bool:
    """Whether a start looks only at places that answer at once (near.py); a thread costs
    a fifth of the rate of starts."""
    name, cwd = launch.argv[0] if launch.argv else "", launch.cwd or "/"
    return (
        launch.runtime == "process"
        and launch.env.get("PATH", PATH) == PATH
        and near(cwd)
        and ("/" not in name or near(os.path.join(cwd, name)))
    )


def find_program(launch: Launch) -> str:
    """The program's path.  Raises CloudError for one that is not there or not executable."""
    if not launch.argv or not launch.argv[0]:
        raise CloudError("bad", "there is no program to run", "echo exec CMD ARG… > ctl")
    name = launch.argv[0]
    if "/" in name:
        path = os.path.join(launch.cwd or "/", name)
        if not os.path.exists(path):
            raise CloudError("absent", f"there is no program {name} on this node")
        if os.path.isdir(path) or not os.access(path, os.X_OK):
            raise CloudError("denied", f"{name} is not a program that may be run")
        return path
    found = shutil.which(name, path=launch.env.get("PATH", PATH))
    if found is None:
        raise CloudError("absent", f"there is no program {name} in the PATH of this node")
    return os.path.join(launch.cwd or "/", found)
