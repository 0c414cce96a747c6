"""Production: what the course's tools find on a real server, beside what others find.

    python benchmarks/production.py [--part NAME] [--url http://127.0.0.1:8000]

Each part is a module beside this one with `rows(url)`, and keeps its own results, so running
one leaves the others' as they were. Without --url a part starts a server of its own. The server
and its clients share this machine, so leave it alone meanwhile.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from record import publish

PARTS = {"loadtest": "production_loadtest"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--url", help="a server that runs already")
    options = parser.parse_args()
    for part in [options.part] if options.part else PARTS:
        rows = import_module(PARTS[part]).rows(options.url)
        publish(f"production_{part}", f"python benchmarks/production.py --part {part}", rows)


if __name__ == "__main__":
    main()
