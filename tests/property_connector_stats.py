"""What NumPy and Python make of observations: argument 1 names the cases, argument 2 the answers, both JSON.

Not a copy of the code under test: the formulas are those of the documentation of vLLM's connectors, and the
arithmetic is NumPy's and Python's own.
"""

import json
import statistics
import sys

import numpy


def numbers(texts):
    return [float.fromhex(text) for text in texts]


def transfers(case):
    seconds = numpy.array(numbers(case["durations"]))
    posts = numpy.array(numbers(case["posts"]))
    megabytes = numpy.array([int(text) for text in case["bytes"]]) / 2**20
    descriptors = numpy.array(case["descriptors"], dtype=numpy.uint32)
    return {
        "Num successful transfers": len(seconds),
        "Avg xfer time (ms)": round(seconds.mean() * 1e3, 3),
        "P90 xfer time (ms)": round(numpy.percentile(seconds, 90).item() * 1e3, 3),
        "Avg post time (ms)": round(posts.mean() * 1e3, 3),
        "P90 post time (ms)": round(numpy.percentile(posts, 90).item() * 1e3, 3),
        "Avg MB per transfer": round(megabytes.sum() / len(megabytes), 3),
        "Throughput (MB/s)": round(megabytes.sum() / seconds.sum(), 3),
        "Avg number of descriptors": round(descriptors.mean(), 1),
    }


def store(case):
    seconds = sorted(numbers(case["durations"]))
    rank = min(len(seconds) - 1, max(0, int(0.9 * len(seconds) - 1e-12)))
    return {
        "put_count": len(seconds),
        "put_avg_ms": round(statistics.fmean(seconds) * 1e3, 3),
        "put_p90_ms": round(seconds[rank] * 1e3, 3),
    }


def rounded(case):
    values = numbers(case["values"])
    return {
        "python": [round(value, case["digits"]).hex() for value in values],
        "numpy": [float(round(numpy.float64(value), case["digits"])).hex() for value in values],
    }


def printed(case):
    return [repr(value) for value in numbers(case["values"])]


def main():
    with open(sys.argv[1]) as file:
        cases = json.load(file)
    answers = []
    for case in cases:
        answer = {"transfers": transfers, "store": store, "rounded": rounded, "printed": printed}[case["kind"]](case)
        if case["kind"] in ("transfers", "store"):
            answer = [[name, str(value)] for name, value in answer.items()]
        answers.append(answer)
    with open(sys.argv[2], "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
