"""Goal:   what Python writes is what stands in the segment, and what is shown: for every built-in record type, every
        field, and every kind of value and sequence.
Method: seeded random records of all types, with the fields that `rankbus describe` prints. The slots are read back by
        the reader that was written from bus/README.md alone, the totals by rankbus.snapshot and by a real aggregator;
        what they must be is added up here, vLLM's formulas included.
Replay: RANKBUS_TEST_SEED=<printed> ctest --test-dir build/release -R e2e_python_records -V
"""

import collections
import os
import random
import re
import sys
import unittest

import numpy

import lib
import python_lib
import rankbus

sys.path.insert(0, str(lib.ROOT / "tests"))
import contract_foreign_reader as foreign

SEED = int(os.environ.get("RANKBUS_TEST_SEED") or random.SystemRandom().randrange(2**32))
RECORDS = 12  # Of each type; with their parts they fit into the smallest ring.
DOMAINS = {
    ("finished_request", "finished_reason"): ["stop", "length", "abort", "error", "repetition"],
    ("kv_block_operations", "operation"): ["allocate", "access", "evict"],
    ("cache_eviction", "reason"): ["lru", "memory_pressure", "explicit", "ttl_expired", "preemption"],
}

Field = collections.namedtuple("Field", "name type capacity kind nanoseconds metric fixed by indexed")


def declared_types():
    """{record type: [Field]} as `rankbus describe` prints them."""
    page = lib.run_rankbus("describe").stdout.split("\n# What is made of samples\n")[0]
    types = {}
    for section in page.split("\n## ")[1:]:
        fields = types[section.split("\n", 1)[0]] = []
        for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE):
            _, shape, kind, unit, series = row[1].split(" | ")[:5]
            value, capacity = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", shape).groups()
            metric, *braces = re.findall(r"^`?([\w:]+)|\{([^}]*)\}", series.removeprefix("label ")) or [("", "")]
            texts = [brace[1] for brace in braces]
            fixed = [tuple(re.fullmatch(r'(\w+)="(.*)"', text).groups()) for text in texts if "=" in text]
            names = [text for text in texts if "=" not in text]
            indexed = kind == "counter" and capacity is not None and bool(names)
            by = [] if indexed else " ".join(names).split()
            index = names[0] if indexed else ""
            nanoseconds = unit.startswith("nano")
            fields.append(Field(row[0], value, int(capacity or 1), kind, nanoseconds, metric[0], fixed, by, index))
    return types


def derive(name, record):
    """What follows from other fields, spelled again."""
    if name == "scheduler_step":
        record["num_requests_waiting"] = record["num_waiting_reqs"] + record["num_skipped_waiting_reqs"]
    elif name == "iteration_stats":
        cached = record["prompt_local_cache_hit_tokens"] + record["prompt_external_kv_transfer_tokens"]
        record["prompt_cached_tokens"] = cached
        record["prompt_tokens"] = record["prompt_computed_tokens"] + cached
        record["iteration_tokens"] = record["prompt_computed_tokens"] + record["num_generation_tokens"]
    elif name == "finished_request":
        record["finished"] = 1
        record["prefill_kv_computed_tokens"] = max(record["num_prompt_tokens"] - max(record["num_cached_tokens"], 0), 0)
    elif name == "worker_step":
        record["steps"] = 1
    elif name == "cuda_graph":
        replayed = record["captured"] == 0
        record["replays"], record["captures"] = int(replayed), int(not replayed)
        record["replayed_tokens"] = record["num_unpadded_tokens"] * replayed
        record["num_paddings"] = max(record["num_padded_tokens"] - record["num_unpadded_tokens"], 0) * replayed
    elif name == "connector:mooncake_store":
        record["operations"] = 1
    elif name == "step_phases":
        record["steps"] = 1
    elif name in ("request_kv_eviction", "cache_eviction"):
        record["evictions"] = 1
    elif name == "kv_block_operations":
        record["num_evicted"] = record["num_blocks"] if record["operation"] == "evict" else 0
    elif name in ("connector:nixl", "connector:moriio", "connector:mooncake"):
        second = "num_failed_recvs" if name == "connector:mooncake" else "num_failed_notifications"
        record["rank_transfers"] = 1
        record["rank_bytes"] = record["bytes_transferred"]
        record["rank_seconds"] = record["transfer_duration_seconds"]
        record["rank_failures"] = record["num_failed_transfers"] + record[second]


class Values:
    """Random values for fields: `plain` as Python has them, `passed` in some other dress."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def number(self, field):
        # Multiples of 2^-10 and integers below 2^40 add up without rounding.
        if field.type == "f64":
            return self.random.randrange(1, 1 << 20) / 1024
        if field.type == "i64":
            return self.random.randrange(-5, 1000)
        return self.random.randrange(200 if field.type == "u8" else 60_000 if field.type == "u16" else 1 << 20)

    def plain(self, name, field):
        if field.kind == "label":
            return self.random.choice(DOMAINS.get((name, field.name)) or ["a", "b c", 'd"\\\n'])
        if field.kind == "info":
            return {"first": self.random.choice(["x", "y z", "ü\n\\"]), "second": "v" * self.random.randrange(400)}
        if field.capacity > 1:
            most = field.capacity if field.indexed else 3 * field.capacity
            return [self.number(field) for _ in range(self.random.randrange(most + 1))]
        return self.number(field)

    def passed(self, field, value):
        if isinstance(value, (str, dict)):
            return value
        real = field.type == "f64"
        if isinstance(value, list):
            dress = self.random.choice([list, tuple, iter, collections.deque, numpy.array])
            return numpy.array(value, numpy.float64 if real else numpy.int64) if dress is numpy.array else dress(value)
        return self.random.choice([float, numpy.float64] if real else [int, numpy.int64, float])(value)


class Totals:
    """What series must show, added up record by record."""

    def __init__(self):
        self.numbers = collections.defaultdict(lambda: 0)
        self.histograms = collections.defaultdict(lambda: [0, 0])

    def add(self, fields, record):
        texts = {field.name: (field.metric, record[field.name]) for field in fields if field.kind == "label"}
        for field in fields:
            if not field.metric or field.kind in ("label", "info"):
                continue
            # Peers are told apart on request only, see `rankbus aggregate --help`.
            labels = field.fixed + [texts[label] for label in field.by if label != "peer"]
            values = record[field.name] if field.capacity > 1 else [record[field.name]]
            scale = 1e-9 if field.nanoseconds else 1
            for i, value in enumerate(values):
                key = (field.metric, frozenset([*labels, (field.indexed, str(i))] if field.indexed else labels))
                if field.kind == "distribution":
                    self.histograms[key][0] += 1
                    self.histograms[key][1] += value * scale
                elif field.kind == "counter":
                    self.numbers[key] += value * scale
                else:
                    self.numbers[key] = value * scale


OWN_LABELS = {"engine", "model_name", "role", "rank", "lane", "server"}


def own_key(name, labels):
    return name, frozenset((label, text) for label, text in labels if label not in OWN_LABELS)


class EveryRecordType(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"seed {SEED}")
        cls.bus = cls.enterClassContext(lib.temporary_bus())
        cls.types = declared_types()
        values = Values(SEED)
        cls.producer = rankbus.Producer(
            model="m",
            bus=cls.bus,
            records=cls.types,
            num_speculative_tokens=32,
            max_model_len=4096,
            segment_bytes=16 << 20,
        )
        assert not cls.producer.inert, cls.producer.reason
        cls.totals = Totals()
        cls.written = {name: [] for name in cls.types}
        for _ in range(RECORDS):
            for name, fields in cls.types.items():
                record = {field.name: values.plain(name, field) for field in fields}
                record[fields[0].name] += 1  # A stamp of 0 would become now.
                names = list(record)
                values.random.shuffle(names)  # Another tuple of names each time.
                by_name = {field.name: field for field in fields}
                cls.producer.handle(name)(**{key: values.passed(by_name[key], record[key]) for key in names})
                derive(name, record)
                cls.totals.add(fields, record)
                cls.written[name].append(record)

    @classmethod
    def tearDownClass(cls):
        cls.producer.close()

    def test_RecordTypes_AreThoseOfTheReferencePage(self):
        described = {name: tuple(field.name for field in fields) for name, fields in self.types.items()}
        self.assertEqual(rankbus.record_types(), described)

    def test_NothingWasRefused(self):
        self.assertEqual((self.producer.errors, self.producer.last_error, self.producer.dropped), (0, "", 0))

    def test_Slots_HoldEveryValueOfEveryField(self):
        reader = foreign.Reader(f"{self.bus}/{self.producer.segment_name}")
        self.addCleanup(reader.close)
        for stream in reader.streams:
            number = 0
            for record in self.written[stream.name]:
                number = self.compare_record(reader, stream, number, record)
            self.assertEqual(number, reader.published(stream), stream.name)

    def compare_record(self, reader, stream, number, record):
        """Compares the parts of one record, from slot `number` on, and returns the number of the next record."""
        arrays = {field.name: [] for field in stream.fields if field.capacity > 1}
        part = 0
        while part == 0 or self.part_of(reader, stream, number + part) == part:
            payload = reader.slot(stream, number + part)
            for field in stream.fields:
                if field.capacity > 1:
                    count = int.from_bytes(payload[field.count_offset : field.count_offset + 2], "little")
                    arrays[field.name] += self.numbers(payload, field, count)
                    continue
                (found,) = self.numbers(payload, field, 1)
                if field.kind == foreign.LABEL:
                    found = reader.label_text(field, found)
                self.assertEqual(found, record[field.name], f"{stream.name}.{field.name}, record {number}")
            part += 1
        for name, found in arrays.items():
            expected = record[name]
            if isinstance(expected, dict):
                found = b"".join(word.to_bytes(8, "little") for word in found).rstrip(b"\0").decode()
                escape = str.maketrans({"\\": r"\\", "\n": r"\n"})
                expected = "".join(f"{label}={text.translate(escape)}\n" for label, text in expected.items())
            self.assertEqual(found, expected, f"{stream.name}.{name}, record {number}")
        return number + part

    @staticmethod
    def part_of(reader, stream, number):
        if stream.part_offset == 0xFFFFFFFF or number >= reader.published(stream):
            return -1
        payload = reader.slot(stream, number)
        return int.from_bytes(payload[stream.part_offset : stream.part_offset + 2], "little")

    @staticmethod
    def numbers(payload, field, count):
        size = {1: 1, 2: 2, 3: 4}.get(field.type, 8)
        words = [payload[field.slot_offset + i * size :][:size] for i in range(count)]
        if field.type == foreign.F64:
            return [foreign.as_double(int.from_bytes(word, "little")) for word in words]
        return [int.from_bytes(word, "little", signed=field.type == 5) for word in words]

    def test_Snapshot_ShowsTheTotalsOfAllRecords(self):
        numbers, histograms = {}, {}
        for metric in rankbus.snapshot(self.bus):
            if isinstance(metric, rankbus.Histogram):
                histograms[own_key(metric.name, metric.labels.items())] = [metric.count, metric.sum]
            elif isinstance(metric, rankbus.Vector):
                for i, value in enumerate(metric.values):
                    key = own_key(metric.name + "_total", [*metric.labels.items(), ("position", str(i))])
                    numbers[key] = value
            else:
                suffix = "_total" if isinstance(metric, rankbus.Counter) else ""
                numbers[own_key(metric.name + suffix, metric.labels.items())] = metric.value
        self.compare_totals(numbers, histograms)

    def compare_totals(self, numbers, histograms):
        for key, expected in self.totals.numbers.items():
            self.assertAlmostEqual(numbers.get(key, 0), expected, delta=expected * 1e-12, msg=key)
        for key, (count, total) in self.totals.histograms.items():
            self.assertIn(key, histograms)
            self.assertEqual(histograms[key][0], count, key)
            self.assertAlmostEqual(histograms[key][1], total, delta=total * 1e-12, msg=key)
        self.assertGreater(len(self.totals.numbers), 80)
        self.assertGreater(len(self.totals.histograms), 30)

    def test_Snapshot_EqualsMetricsOfAnAggregator(self):
        with lib.Aggregator(self.bus) as aggregator:
            scrape = aggregator.scrape()
            shown = {(series.name, series.labels): value for series, value in scrape.samples.items()}
        found = {}
        for metric in rankbus.snapshot(self.bus):
            labels = frozenset(metric.labels.items())
            if isinstance(metric, rankbus.Histogram):
                found[metric.name + "_count", labels] = metric.count
                found[metric.name + "_sum", labels] = metric.sum
                for le, count in metric.buckets.items():
                    found[metric.name + "_bucket", labels | {("le", le)}] = count
            elif isinstance(metric, rankbus.Vector):
                for i, value in enumerate(metric.values):
                    found[metric.name + "_total", labels | {("position", str(i))}] = value
            else:
                found[metric.name + ("_total" if isinstance(metric, rankbus.Counter) else ""), labels] = metric.value
        # What the aggregator says of its own process and of the time that passed differs from one to the next.
        changing = re.compile("rankbus_source_age|rankbus_rank_state|process_|rankbus_checkpoints|rankbus_aggregator|rankbus_ledger|rankbus_segments_vanished")
        shown, found = ({k: v for k, v in each.items() if not changing.match(k[0])} for each in (shown, found))
        self.assertEqual(set(shown) ^ set(found), set())
        different = {key: (value, found[key]) for key, value in shown.items() if float(found[key]) != value}
        self.assertEqual(different, {})


if __name__ == "__main__":
    lib.main()
