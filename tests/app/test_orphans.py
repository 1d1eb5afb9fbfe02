"""Orphans of a process that adopts them, as the first one of a container does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# It adopts what its descendants leave behind (prctl(2), PR_SET_CHILD_SUBREAPER), as process 1 does without asking
_ADOPTS = """
import asyncio, ctypes, json, os
import uvloop
from certstream.app.orphans import reap_orphans

def listed(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

async def orphan(ends):
    script = "exec 3<&0; sh -c 'read word; exit 3' <&3 >/dev/null & echo $!"  # "&" alone would read from /dev/null
    shell = await asyncio.create_subprocess_exec("sh", "-c", script, stdin=ends, stdout=asyncio.subprocess.PIPE)
    pid = int(await shell.stdout.readline())
    await shell.wait()
    return pid

async def main():
    assert ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0
    task = asyncio.create_task(reap_orphans(interval_s=0.01, pause_s=0.05))
    found = {"own": await (await asyncio.create_subprocess_exec("sh", "-c", "exit 42")).wait(), "orphans": []}
    ends, end = os.pipe()
    orphans = [await orphan(ends) for _ in range(3)]
    found["alive"] = [listed(pid) for pid in orphans]
    os.close(end)
    async with asyncio.timeout(30):
        while any(listed(pid) for pid in orphans):
            found["own"] = await (await asyncio.create_subprocess_exec("sh", "-c", "exit 42")).wait()
    found["orphans"] = [listed(pid) for pid in orphans]
    found["running"] = not task.done()
    print(json.dumps(found))
    task.cancel()

uvloop.run(main())
"""


def test_orphans_are_waited_for_and_the_loops_own_children_keep_their_exit_codes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ADOPTS], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "own": 42, "orphans": [False] * 3, "alive": [True] * 3, "running": True,
    }  # fmt: skip
