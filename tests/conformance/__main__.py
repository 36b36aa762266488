"""`python -m tests.conformance DIR`: every case of a folder of golden vectors through this project's own code.

One line a case, with its largest error and how much of the stated tolerance that uses; then how many passed. The exit
status is 1 when one failed or none ran; a case that is not known has failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.runner import run_folder
from tests.conformance.tolerance import Unfit


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="golden vectors with an index of them")
    folder = parser.parse_args(arguments).folder
    results = []
    try:
        for result in run_folder(folder):
            print(result, flush=True)
            results.append(result)
    except Unfit as error:
        print(error, file=sys.stderr)
    passed = sum(result.passed for result in results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if results and passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
