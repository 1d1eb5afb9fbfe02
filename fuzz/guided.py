"""One search that coverage guides, with atheris: python -m fuzz.guided TARGET [option of libFuzzer]… CORPUS

`python -m fuzz --guided` starts it with all that it needs, in a process of its own because it ends its process.
"""

from __future__ import annotations

import sys
from random import Random

import atheris
import structlog

with atheris.instrument_imports(include=["certstream"], enable_loader_override=False):
    from fuzz.targets import TARGETS, Target


def main() -> None:
    """Search until an input fails or the runs are done; does not return."""
    target = TARGETS[sys.argv.pop(1)]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # parsers warn of what is wrong
    atheris.Setup(sys.argv, lambda data: target.check([data]), custom_mutator=_mutator(target))
    atheris.Fuzz()


def _mutator(target: Target):  # type: ignore[no-untyped-def]  # atheris tells its form by its signature
    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        changed = atheris.Mutate(data, max_size) if random.randrange(3) == 0 else target.mutate(bytes(data), random)
        return bytes(changed[:max_size])

    return mutate


if __name__ == "__main__":
    main()
