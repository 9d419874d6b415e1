"""cloudfs: the Cloud Operating System as a file server."""

__version__ = "0.1.0"
