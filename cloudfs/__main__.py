"""python -m cloudfs is cloudfs."""

from cloudfs.cli import main

main()
