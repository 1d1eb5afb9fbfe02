"""URLs of logs: what one may look like, and when two spellings are the same log."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit


def is_log_url(url: str) -> bool:
    """Whether that is an http:// or https:// URL without user name, query and fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port  # ValueError unless 0 to 65535
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#\\")
    return (
        plain and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and port != 0
    )


@lru_cache(maxsize=1_024)  # log lists compare every URL with every other, again and again
def url_identity(url: str) -> str | None:
    """What two spellings of one log's URL have in common, None if it is no log's URL.

    The case of the host, a default port and trailing slashes make no difference.
    """
    if not is_log_url(url):
        return None
    parts = urlsplit(url)
    default_port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default_port)}{parts.path.rstrip('/')}"
