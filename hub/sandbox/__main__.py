"""`python -m hub.sandbox --config FILE.json`: one sandbox process, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from hub.sandbox.config import BadConfig, config_from_file
from hub.sandbox.twin import serve


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hub.sandbox", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="JSON file, see docs/sandbox.md")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(serve(config_from_file(arguments.config)))
    except BadConfig as exc:
        sys.stderr.write(f"sandbox: {exc}\n")
        return 2
    except OSError as exc:
        sys.stderr.write(f"sandbox: cannot start: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
