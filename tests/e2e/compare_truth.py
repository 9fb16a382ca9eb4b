"""compare_truth.py TRUTH URL-or-FILE: does /metrics say exactly what the truth file expects?

Counters, buckets and counts must be equal, gauges too; sums to 1e-9 of their size, because a sum of doubles
depends on the order. Series in `present`, whose value is a time, must be there. A `vllm:` series that the
truth does not know is a difference as well. Exit status:
0 equal, 1 different (each difference is printed), 2 unusable input.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import lib

SUM_TOLERANCE = 1e-9


class Comparison:
    """What was compared and every difference, as sentences."""

    def __init__(self):
        self.compared = {"counters": 0, "sums": 0, "gauges": 0}
        self.differences = []

    def total(self):
        return sum(self.compared.values())

    def equal(self):
        return self.total() > 0 and not self.differences

    def summary(self):
        if self.equal():
            return f"all {self.total():,} totals equal the truth"
        if self.total() == 0:
            return "nothing to compare: the truth file is empty"
        return f"{len(self.differences):,} differences from the truth in {self.total():,} totals"


def same(kind, found, expected):
    if kind == "sums":
        return abs(found - expected) <= SUM_TOLERANCE * max(abs(found), abs(expected))
    return found == expected


def truth_series(text, expected):
    """Reads a SERIES of the truth file with the same parser as /metrics itself."""
    (series,) = lib.parse_exposition(f"{text} 0\n")
    return series, float(expected)


def compare(truth, samples, kinds=("counters", "sums", "gauges"), unknown_is_different=True):
    """Compares a truth object with {Series: value}; `kinds` chooses what of it."""
    result = Comparison()
    known = set()
    for kind in ("counters", "sums", "gauges"):
        for text, expected in truth.get(kind, {}).items():
            series, expected = truth_series(text, expected)
            known.add(series)
            if kind not in kinds:
                continue
            result.compared[kind] += 1
            found = samples.get(series)
            if found is None:
                result.differences.append(f"{text}: expected {expected!r}, not exposed")
            elif not same(kind, found, expected):
                result.differences.append(f"{text}: expected {expected!r}, found {found!r}")
    for text in truth.get("present", ()):
        series, _ = truth_series(text, 0)
        known.add(series)
        if series not in samples and "gauges" in kinds:
            result.differences.append(f"{text}: not exposed")
    if unknown_is_different:
        for series in samples:
            if series.name.startswith("vllm:") and series not in known:
                result.differences.append(f"{lib.show_series(series)}: exposed, but the truth does not know it")
    return result


def main(truth_path, source):
    try:
        truth = json.loads(pathlib.Path(truth_path).read_text())
        if source.startswith("http"):
            samples = lib.Scrape(source).samples
        else:
            samples = lib.parse_exposition(pathlib.Path(source).read_text())
    except (OSError, ValueError, AssertionError) as error:
        print(f"compare_truth: {error}", file=sys.stderr)
        return 2
    result = compare(truth, samples)
    print(*result.differences, sep="\n", end="\n" if result.differences else "")
    print(result.summary())
    return 0 if result.equal() else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
