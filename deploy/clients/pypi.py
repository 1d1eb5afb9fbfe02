"""The package `certstream` of PyPI: prints each message that its callback gets as a line of JSON."""

import json
import sys
from typing import Any

import certstream


def on_message(message: Any, context: Any) -> None:
    assert context.nothing is None
    print(json.dumps(message), flush=True)


certstream.listen_for_events(on_message, url=sys.argv[1], skip_heartbeats=False)
