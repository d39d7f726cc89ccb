"""Print one line that says how many tests ran, from the reports of `./pants test ::`."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPORTS = Path("dist/test/reports")


def main() -> int:
    """Exit 0 if tests ran and none failed."""
    passed = failed = skipped = 0
    for report in sorted(REPORTS.glob("*.xml")):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, wrong = int(suite.get("tests", 0)), int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skips = int(suite.get("skipped", 0))
            passed, failed, skipped = passed + tests - wrong - skips, failed + wrong, skipped + skips
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
