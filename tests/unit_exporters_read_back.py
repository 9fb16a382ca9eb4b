"""Reads back, with the Python Prometheus client, what an exporter wrote. Used by a test of that name.

exposition TEXT EXPECTED   TEXT must parse to the samples of EXPECTED, in JSON: [[name, {label: value}, number]],
                           in order, numbers as C's %a prints them.
floats FILE                Each line holds a number in C's %a form and the text that it must print as in `le`.
"""

import json
import math
import sys

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString


def same(left, right):
    return left == right or (math.isnan(left) and math.isnan(right))


def check_exposition(text_file, expected_file):
    with open(text_file, encoding="utf-8", errors="strict", newline="") as file:
        text = file.read()
    found = [(s.name, s.labels, s.value) for f in text_string_to_metric_families(text) for s in f.samples]
    with open(expected_file, encoding="utf-8") as file:
        expected = [(name, labels, float.fromhex(number)) for name, labels, number in json.load(file)]
    if len(found) != len(expected):
        sys.exit(f"found {len(found)} samples, expected {len(expected)}")
    for left, right in zip(found, expected):
        if left[:2] != right[:2] or not same(left[2], right[2]):
            sys.exit(f"found    {left}\nexpected {right}")
    print(f"{len(found)} samples")


def check_floats(file_name):
    checked = 0
    with open(file_name, encoding="ascii") as file:
        for line in file:
            number, text = line.split()
            expected = floatToGoString(float.fromhex(number))
            if text != expected:
                sys.exit(f"{number} printed as {text}, expected {expected}")
            checked += 1
    print(f"{checked} numbers")


if __name__ == "__main__":
    {"exposition": check_exposition, "floats": check_floats}[sys.argv[1]](*sys.argv[2:])
