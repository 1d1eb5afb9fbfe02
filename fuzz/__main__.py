"""Search for inputs that a parser does not bear.

    python -m fuzz [--runs 100000] [--seconds S] [--seed N] [--target NAME]… [--guided] [--findings DIR]
    python -m fuzz --target NAME --replay FILE…

Without --target every parser has its turn. Prints executions per second, findings and the peak of memory; exits 1
where there are findings, each of which is a file in DIR then. With --guided coverage guides the search (atheris).
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog

from fuzz import search
from fuzz.mutation import DICTIONARY
from fuzz.targets import TARGETS, Target

_RUNS = 100_000
_RUNS_OF_A_PROCESS = 10_000
_LIBFUZZER = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1", "-verbosity=0")


def main() -> int:
    """Search, or check the inputs that --replay names."""
    args = _arguments()
    if args.guided and importlib.util.find_spec("atheris") is None:
        print("--guided needs atheris: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # parsers warn of what is wrong
    names = args.target or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        print(f"no target is called {unknown[0]}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if args.replay:
        return _replay(names, args.replay)
    return max([_guided(name, args) if args.guided else _search(name, args) for name in names])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Inputs that a parser does not bear.")
    parser.add_argument("--target", action="append", default=[], help="a parser; may be repeated (default: all)")
    parser.add_argument("--runs", type=int, default=_RUNS, help=f"inputs for each parser (default {_RUNS})")
    parser.add_argument("--seconds", type=float, help="for each parser at most")
    parser.add_argument("--seed", type=int, default=0, help="of chance: the same one, the same inputs (default 0)")
    parser.add_argument("--guided", action="store_true", help="let coverage guide the search; needs atheris")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="check these inputs, and nothing else")
    return parser.parse_args()


def _search(name: str, args: argparse.Namespace) -> int:
    outcome = search.search(TARGETS[name], runs=args.runs, seconds=args.seconds, seed=args.seed)
    rate = outcome.runs / max(outcome.seconds, 1e-9)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:12} {outcome.runs:9,} inputs {rate:9,.0f}/s {len(outcome.findings):3} findings"
        f"  {outcome.peak_bytes / 1024:6,.0f} KiB for a check at most, {peak_mib:4,.0f} MiB for the process",
        flush=True,
    )
    for where, data in outcome.findings.items():
        print(f"{'':12} {where}: {search.kept(args.findings, TARGETS[name], where, data)}", flush=True)
    return int(bool(outcome.findings))


def _guided(name: str, args: argparse.Namespace) -> int:
    """In processes of its own: that search ends its process, and atheris 3 loses up to 100 KB with each run."""
    args.findings.mkdir(parents=True, exist_ok=True)
    print(f"{name}:", flush=True)
    started, left = time.monotonic(), args.runs
    with tempfile.TemporaryDirectory(prefix="certstream-fuzz-") as directory:
        words, corpus = Path(directory, "words"), Path(directory, "corpus")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in DICTIONARY if word))
        _write_seeds(TARGETS[name], corpus)
        options = [f"-dict={words}", f"-artifact_prefix={args.findings}/{name}-", *_LIBFUZZER, str(corpus)]
        while left > 0 and (args.seconds is None or time.monotonic() - started < args.seconds):
            runs = min(left, _RUNS_OF_A_PROCESS)
            limits = [f"-runs={runs + len(list(corpus.iterdir()))}", f"-seed={args.seed + left + 1}"]
            if args.seconds is not None:
                limits.append(f"-max_total_time={max(1, int(started + args.seconds - time.monotonic()))}")
            command = [sys.executable, "-m", "fuzz.guided", name, *limits, *options]
            if subprocess.run(command, check=False).returncode:
                return 1
            left -= runs
    return 0


def _write_seeds(target: Target, directory: Path) -> None:
    directory.mkdir()
    for number, data in enumerate(target.seeds()):
        (directory / f"seed-{number:04}").write_bytes(data)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word[:64])


def _replay(names: list[str], paths: list[Path]) -> int:
    """The error of the first input that fails is raised; without one, 0."""
    for path in paths:
        for name in names:
            TARGETS[name].check([path.read_bytes()])
            print(f"{name} bears {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
