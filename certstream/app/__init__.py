"""The composition root: which parts there are, how they are connected, in which order they start and stop."""

from certstream.app.run import run

__all__ = ["run"]
