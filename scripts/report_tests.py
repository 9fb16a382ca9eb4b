"""Reads ctest's JUnit file, prints every skipped check with its reason, then one line that counts.

A test program with one skipped check of many counts as passed, for ctest and for us; what it left out
is printed all the same, because a check that nobody sees skipped is a check that nobody has.
"""

import re
import sys
import xml.etree.ElementTree


def skipped_checks(output):
    """Yields (check, reason) as GoogleTest and our Python tests print them."""
    lines = output.splitlines()
    for index, line in enumerate(lines):
        ours = re.match(r"skipped: (.+)", line)
        if ours:
            yield ours.group(1)
        # GoogleTest prints `FILE:LINE: Skipped`, the reason in the next lines, then `[  SKIPPED ] NAME (N ms)`.
        google = re.match(r"\[  SKIPPED \] (\S+) \(\d+ ms\)", line)
        if google:
            start = index - 1
            while start > 0 and not re.search(r"Skipped$|^\[ RUN", lines[start]):
                start -= 1
            reason = " ".join(part for part in lines[start + 1 : index] if part.strip())
            yield f"{google.group(1)}: {reason or 'no reason given'}"


def main(path):
    passed = failed = skipped = 0
    reasons = []
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        status = case.get("status")
        if status == "disabled":
            continue
        found = list(skipped_checks(case.findtext("system-out") or ""))
        if status == "run":
            passed += 1
        elif status == "notrun" and case.find("skipped") is not None:
            skipped += 1
            found = found or ["no reason given"]
        else:
            failed += 1
        reasons += [f"  {case.get('name')}: {reason}" for reason in found]
    if reasons:
        print("\nSkipped checks:")
        print("\n".join(reasons))
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
