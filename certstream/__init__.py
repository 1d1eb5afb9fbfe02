"""certstream: Certificate Transparency logs as a live stream and an archive."""

__version__ = "0.1.0"
