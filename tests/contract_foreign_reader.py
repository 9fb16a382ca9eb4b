# Labels: release-only
"""Goal:   bus/README.md is enough to write a reader in another language.
Method: the Reader below was written from that page alone, in plain Python. It reads segments that
        tests/foreign/write_segments.cpp makes (every kind of field, closed, killed, wrapped) and those of a simulated
        deployment, and must find what was recorded. What must be found is computed here from the printed calls, with
        no table, cell or checkpoint, and for the simulation by its own truth file.
Replay: ctest --test-dir build/release -R contract_foreign_reader -V
"""

import collections
import fcntl
import fractions
import json
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
INCLUDE = os.environ.get("RANKBUS_INCLUDE", str(ROOT / "build/release/include"))
BINARY = os.environ.get("RANKBUS_BINARY", str(ROOT / "build/release/rankbus"))

# --- the reader -----------------------------------------------------------------------------------------------------

NONE = 0xFFFFFFFF
COUNTER, RUNNING_TOTAL, GAUGE, DISTRIBUTION, LABEL = 3, 4, 5, 6, 7
STAMP, F64, I64, NANOSECONDS = 2, 6, 5, 3
TYPE_BYTES = {1: 1, 2: 2, 3: 4, 4: 8, 5: 8, 6: 8}
EIGHTHS = (
    1.0,
    1.0905077326652577,
    1.1892071150027210,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.6817928305074290,
    1.8340080864093424,
)
FIELD_WORDS = (
    "name_offset name_bytes metric_offset metric_bytes help_offset help_bytes fixed_label_offset fixed_label_bytes"
    " fixed_value_offset fixed_value_bytes domain_offset domain_bytes bounds_offset bounds_count native_first"
    " native_last kind type unit reduction capacity slot_offset count_offset by_labels totals_offset index_count"
).split()
STREAM_WORDS = (
    "slots_offset checkpoint_offset name_offset name_bytes help_offset help_bytes first_field field_count slot_format"
    " slot_bytes capacity checkpoint_words checkpoint_every label_rows part_offset flags stream_spare"
).split()


class Refused(Exception):
    pass


def fnv1a(data):
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def as_double(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def as_bits(value):
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def is_negative(bits):
    return bits >> 63 == 1


class Field:
    def __init__(self, schema, raw):
        values = struct.unpack("<14I2i10I", raw[:104])
        self.__dict__.update(zip(FIELD_WORDS, values))
        for text in ("name", "metric", "help", "fixed_label", "fixed_value", "domain"):
            offset, size = getattr(self, text + "_offset"), getattr(self, text + "_bytes")
            if offset + size > len(schema):
                raise Refused(f"{text} lies outside the schema")
            setattr(self, text, schema[offset : offset + size].decode())
        if self.kind == DISTRIBUTION:
            self.classic = struct.unpack_from(f"<{self.bounds_count}d", schema, self.bounds_offset)
            self.bounds = [self.stored(bound) for bound in self.union()]
        self.row_words = {COUNTER: 1, RUNNING_TOTAL: 1, GAUGE: 1}.get(self.kind, 0)
        if self.kind == DISTRIBUTION:
            self.row_words = 1 + len(self.bounds) + 2
        if self.index_count:
            self.row_words = self.capacity + 1

    def union(self):
        steps = 8 * (self.native_last - self.native_first) + 1
        native = [EIGHTHS[j % 8] * 2.0 ** (self.native_first + j // 8) for j in range(steps)]
        return sorted({*self.classic, *native})

    def stored(self, bound):
        if self.unit != NANOSECONDS:
            return bound
        product = bound * 1e9
        nearest = float(int(product + 0.5))
        return nearest if abs(product - nearest) <= nearest * 1e-12 else float(int(product))

    def cell_of(self, value):
        """Cell 0: zero and below; cell i: at most bound i."""
        if value < sys.float_info.min:
            return 0
        return 1 + next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))

    def buckets(self, cells):
        """[(le, cumulative count)] of the classic histogram."""
        ends = [1 + self.union().index(bound) for bound in self.classic]
        return [(bound, sum(cells[: end + 1])) for bound, end in zip(self.classic, ends)] + [(math.inf, sum(cells))]


class Stream:
    def __init__(self, schema, raw, fields_at, field_bytes):
        self.__dict__.update(zip(STREAM_WORDS, struct.unpack("<2Q14IQ", raw[:80])))
        self.name = schema[self.name_offset : self.name_offset + self.name_bytes].decode()
        self.fields = []
        for index in range(self.first_field, self.first_field + self.field_count):
            at = fields_at + index * field_bytes
            self.fields.append(Field(schema, schema[at : at + field_bytes]))
        self.labels = [i for i, field in enumerate(self.fields) if field.kind == LABEL]

    def empty_body(self):
        body = [0] * self.checkpoint_words
        if self.label_rows:
            body[4] = 1
        for field in self.fields:
            if field.kind == GAUGE:
                rows = self.label_rows if field.by_labels else 1
                body[field.totals_offset : field.totals_offset + rows] = [2**64 - 1] * rows
        return body

    def raw(self, payload, offset, size):
        return int.from_bytes(payload[offset : offset + size], "little")

    def row_of(self, body, payload):
        key = 0
        for position, index in enumerate(self.labels):
            field = self.fields[index]
            key |= (self.raw(payload, field.slot_offset, TYPE_BYTES[field.type]) & 0xFFFF) << 16 * position
        used = body[4]
        for row in range(1, used):
            if body[6 + row] == key:
                return row
        if key == 0:
            return 0
        if used >= self.label_rows:
            body[5] += 1
            return 0
        body[6 + used] = key
        body[4] += 1
        return used

    def fold(self, body, payload):
        body[0] += 1
        row = self.row_of(body, payload) if self.labels else 0
        continued = self.part_offset != NONE and self.raw(payload, self.part_offset, 2) != 0
        for index, field in enumerate(self.fields):
            size = TYPE_BYTES[field.type]
            if field.kind == STAMP and index == 0:
                stamp = self.raw(payload, field.slot_offset, size)
                body[1] = stamp or body[1]
            if field.row_words == 0:
                continue
            at = field.totals_offset + (row * field.row_words if field.by_labels else 0)
            if field.capacity == 1:
                if not continued:
                    self.fold_value(body, at, field, self.raw(payload, field.slot_offset, size))
                continue
            count = min(self.raw(payload, field.count_offset, 2), field.capacity)
            for k in range(count):
                index = 0 if not field.index_count else field.capacity if continued else k
                self.fold_value(body, at + index, field, self.raw(payload, field.slot_offset + k * size, size))

    def fold_value(self, body, at, field, raw):
        if raw == 2 ** (8 * TYPE_BYTES[field.type]) - 1:
            return
        if field.type == F64 and not math.isfinite(as_double(raw)):
            body[2] += 1
        elif field.kind in (RUNNING_TOTAL, GAUGE):
            body[at] = raw
        elif field.type == F64:
            value = as_double(raw)
            positive = value >= sys.float_info.min
            body[3] += value < 0
            if positive and not math.isfinite(as_double(body[at]) + value):
                body[2] += 1
                return
            if positive:
                body[at] = as_bits(as_double(body[at]) + value)
            if field.kind == DISTRIBUTION:
                body[at + 1 + field.cell_of(value)] += 1
        else:
            negative = field.type == I64 and is_negative(raw)
            body[3] += negative
            if not negative:
                body[at] = (body[at] + raw) % 2**64
            if field.kind == DISTRIBUTION:
                body[at + 1 + (0 if negative else field.cell_of(float(raw)))] += 1


class Reader:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self.size = os.fstat(self.fd).st_size
        head = self.pread(0, 2048)
        if head[:8] != b"RANKBUS1":
            raise Refused("magic")
        self.layout_version, self.min_reader_version = struct.unpack_from("<2I", head, 8)
        if self.min_reader_version > 1 or self.layout_version < 1:
            raise Refused(f"layout {self.layout_version}, readable from {self.min_reader_version} on, this is 1")
        (self.header_bytes, stream_bytes, field_bytes, stream_count) = struct.unpack_from("<4I", head, 16)
        (self.segment_bytes, self.status_at, self.activity_at, schema_at, schema_bytes, schema_hash) = struct.unpack_from(
            "<6Q", head, 32
        )
        if self.segment_bytes > self.size or schema_at + schema_bytes > self.segment_bytes or stream_count > 64:
            raise Refused("sizes")
        (self.dictionary_at, self.dictionary_entries, self.dictionary_text_bytes) = struct.unpack_from("<Q2I", head, 80)
        self.incarnation = head[96:112].hex()
        (self.pid,) = struct.unpack_from("<I", head, 152)
        (self.clock_domain, self.clock_source) = struct.unpack_from("<2I", head, 160)
        (self.engine, self.role, self.kv_role, self.lane, self.rank) = struct.unpack_from("<5I", head, 200)
        (self.max_model_len,) = struct.unpack_from("<Q", head, 232)
        self.server, self.model = (head[at : at + 128].rstrip(b"\0").decode() for at in (256, 384))
        schema = self.pread(schema_at, schema_bytes)
        if fnv1a(schema) != schema_hash:
            raise Refused("schema hash")
        fields_at = stream_count * stream_bytes
        self.streams = [
            Stream(schema, schema[s * stream_bytes : (s + 1) * stream_bytes], fields_at, field_bytes)
            for s in range(stream_count)
        ]

    def close(self):
        os.close(self.fd)

    def pread(self, offset, size):
        data = os.pread(self.fd, size, offset)
        if len(data) != size:
            raise Refused("the file is shorter than it says")
        return data

    def word(self, offset):
        return int.from_bytes(self.pread(offset, 8), "little")

    def is_alive(self):
        """Asks for a read lock without taking it: an answer other than unlocked means that the writer lives."""
        f_ofd_getlk = 36
        question = struct.pack("hh4xqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack("hh4xqqi4x", fcntl.fcntl(self.fd, f_ofd_getlk, question))[0] != fcntl.F_UNLCK

    def published(self, stream):
        return self.word(self.activity_at + 8 * self.streams.index(stream))

    def slot(self, stream, record):
        """The payload of a record, or None when it is not there (any more)."""
        at = stream.slots_offset + record % stream.capacity * stream.slot_bytes
        if self.word(at) != 2 * record + 2:
            return None
        payload = self.pread(at + 8, stream.slot_bytes - 8)
        return payload if self.word(at) == 2 * record + 2 else None

    def checkpoints(self, stream):
        stride = (8 * (1 + stream.checkpoint_words) + 127) // 128 * 128
        for at in (stream.checkpoint_offset, stream.checkpoint_offset + stride):
            version = self.word(at)
            body = list(struct.unpack(f"<{stream.checkpoint_words}Q", self.pread(at + 8, 8 * stream.checkpoint_words)))
            if version != 0 and version % 2 == 0 and self.word(at) == version:
                yield body

    def totals(self, stream):
        """The body at the newest published record, and where it began to read slots."""
        published = self.published(stream)
        body = max(self.checkpoints(stream), key=lambda found: found[0])
        start = body[0]
        for record in range(start, published):
            payload = self.slot(stream, record)
            if payload is None:
                raise Refused(f"record {record} of {published} is not in its slot")
            stream.fold(body, payload)
        return body, start

    def label_text(self, field, value):
        if field.domain:
            lines = field.domain.split("\n")
            return lines[value - 1] if 1 <= value <= len(lines) else "other"
        used = min(self.word(self.dictionary_at), self.dictionary_entries)
        if not 1 <= value <= used:
            return "other"
        entry = self.word(self.dictionary_at + 8 * value)
        offset, size = entry >> 32, entry & 0xFFFFFFFF
        if offset % 8 or offset + size > self.dictionary_text_bytes:
            return "other"
        return self.pread(self.dictionary_at + 8 * (1 + self.dictionary_entries) + offset, size).decode()

    def series(self):
        """{(metric, labels): number, or (sum, [(le, count)])} of all streams; the seconds of integers still in ns."""
        found = {}
        for stream in self.streams:
            if stream.checkpoint_words == 0:
                continue
            body, _ = self.totals(stream)
            for field in stream.fields:
                if field.row_words == 0 or not field.metric:
                    continue
                fixed = [(field.fixed_label, field.fixed_value)] if field.fixed_label else []
                if field.index_count:
                    for index, total in enumerate(body[field.totals_offset :][: field.row_words]):
                        if index < field.index_count - 1 or total:
                            text = "other" if index == field.capacity else str(index)
                            found[field.metric, ((field.fixed_label, text),)] = total
                    continue
                for row in range(body[4] if field.by_labels else 1):
                    words = body[field.totals_offset + row * field.row_words :][: field.row_words]
                    labels = list(fixed)
                    if field.by_labels:
                        if row == 0 and not any(words):
                            continue
                        key = body[6 + row] if row else 0
                        for position, label in enumerate(stream.fields[index] for index in stream.labels):
                            if field.by_labels >> position & 1:
                                text = self.label_text(label, key >> 16 * position & 0xFFFF)
                                labels.append((label.metric, text))
                    if field.kind == GAUGE and words[0] == 2**64 - 1:
                        continue
                    number = as_double(words[0]) if field.type == F64 else words[0]
                    value = (number, field.buckets(words[1:])) if field.kind == DISTRIBUTION else number
                    key = (field.metric, tuple(sorted(labels)))
                    found[key] = added(found[key], value) if key in found else value
        return found


def added(a, b):
    """Two rows, or two segments, that feed one series."""
    if isinstance(a, tuple):
        return (a[0] + b[0], [(le, x + y) for (le, x), (_, y) in zip(a[1], b[1])])
    return a + b


# --- what must be found ---------------------------------------------------------------------------------------------

ABSENT = {"depth": 2**8 - 1, "calls": 2**32 - 1}
COLOURS = ["other", "red", "green", "blue"]
LATENCY = [0.001, 0.01, 0.1, 1.0, 2.5]
SIZE = [1.0, 2.0, 3.0, 5.0, 8.0, 1000.0]
WAIT = ["0.000001", "0.00013", "0.00026", "0.05"]  # Two of them lie below their product with 1e9.
LENGTH = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]  # up to max_model_len, 4096


class Expected:
    """What the totals must be, from the calls as the writer printed them."""

    def __init__(self, calls):
        self.series = {}
        self.invalid = self.negative = self.overflow = self.records = 0
        self.observed = collections.defaultdict(list)
        self.rows = []
        for index in range(4):  # They are there before the first record.
            self.series["test_expert_tokens_total", (("expert", str(index)),)] = 0
        for call in calls:
            self.take(call)
        self.histogram("test_wait_seconds", [float(fractions.Fraction(le) * 10**9) for le in WAIT], [float(le) for le in WAIT])
        self.histogram("test_signed_size", SIZE, SIZE)
        self.histogram("test_latency_seconds", LATENCY, LATENCY)
        self.histogram("test_size_tokens", LENGTH, LENGTH)

    def value(self, call, name):
        raw = call[name]
        if raw == ABSENT.get(name, 2**64 - 1):
            return None
        return raw

    def take(self, call):
        arrays = ("latencies", 4), ("sizes", 3), ("expert_tokens", 4)
        parts = max(1, *(-(-len(call[name]) // capacity) for name, capacity in arrays))
        self.records += parts
        labels = (call["colour"], call["peer"])
        if labels != (0, 0) and labels not in self.rows:
            if len(self.rows) < 31:
                self.rows.append(labels)
            else:
                self.overflow += parts
                labels = (0, 0)
        colour, peer = (("colour", COLOURS[labels[0]]),), (("peer", call["peers"][labels[1]]),)
        for name, metric, where in [
            ("calls", "test_calls_total", colour),
            ("moved_bytes", "test_moved_bytes_total", peer),
            ("pairs", "test_pairs_total", colour + peer),
            ("credit", "test_credit_total", (("side", "left"),)),
        ]:
            amount = self.value(call, name)
            # A row exists once a record has its labels, whatever the amount.
            zero = 0 if labels != (0, 0) or name == "credit" else None
            if amount is not None and name == "credit" and amount >> 63:
                self.negative += 1
                amount = None
            if amount is not None or zero is not None:
                self.series[metric, where] = (self.series.get((metric, where), 0) + (amount or 0)) % 2**64
        for index, tokens in enumerate(call["expert_tokens"]):
            key = ("test_expert_tokens_total", (("expert", str(index) if index < 4 else "other"),))
            self.series[key] = self.series.get(key, 0) + tokens
        self.doubles(call)
        wait = self.value(call, "wait_ns")
        key = ("test_wait_seconds", colour)
        if wait is not None:
            self.observed[key].append(wait)
        elif labels != (0, 0):
            self.observed[key]
        size = self.value(call, "signed_size")
        if size is not None:
            self.negative += size >> 63
            self.observed["test_signed_size", ()].append(-1 if size >> 63 else size)
        for bits in call["latencies"]:
            self.observe_double("test_latency_seconds", bits)
        self.observed["test_size_tokens", ()] += call["sizes"]
        for name, metric in (("since_start", "test_since_start_total"), ("depth", "test_depth")):
            if self.value(call, name) is not None:
                self.series[metric, ()] = call[name]

    def doubles(self, call):
        energy, level = (self.value(call, name) for name in ("energy", "level"))
        if energy is not None and self.is_finite(energy):
            self.negative += as_double(energy) < 0
            if as_double(energy) > 1e-300:
                key = ("test_energy_total", ())
                self.series[key] = self.series.get(key, 0.0) + as_double(energy)
        if level is not None and self.is_finite(level):
            self.series["test_level", ()] = as_double(level)

    def is_finite(self, bits):
        finite = math.isfinite(as_double(bits))
        self.invalid += not finite
        return finite

    def observe_double(self, metric, bits):
        if self.is_finite(bits):
            self.negative += as_double(bits) < 0
            self.observed[metric, ()].append(as_double(bits))

    def histogram(self, metric, bounds, shown):
        for key, values in self.observed.items():
            if key[0] != metric:
                continue
            total = 0.0 if metric == "test_latency_seconds" else 0
            for value in values:
                total += value if value > 1e-300 else 0
            if not isinstance(total, float):
                total %= 2**64
            buckets = [(le, sum(v <= bound for v in values)) for bound, le in zip(bounds, shown)]
            self.series[key] = (total, buckets + [(math.inf, len(values))])


# --- the promises ---------------------------------------------------------------------------------------------------


class Writer:
    """write_segments, run once; ends with the test."""

    def __init__(self, program, bus, records, segment_bytes, ending):
        self.child = subprocess.Popen(
            [program, bus, str(records), str(segment_bytes), ending], stdout=subprocess.PIPE, text=True
        )
        lines = []
        for line in self.child.stdout:
            if line == "done\n":
                break
            lines.append(line)
        # Names that the dictionary got, in the order in which the program interned them.
        peers = ["other", *(f"peer-{i}" for i in range(12)), 'quote" back\\slash \u20ac']
        self.calls = [json.loads(line) | {"peers": peers} for line in lines]
        if ending == "close" and self.child.wait() != 0:
            raise AssertionError("write_segments failed")

    def end(self):
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.child.stdout.close()


class ForeignReader(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="rankbus-test-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.program = os.path.join(cls.folder.name, "write_segments")
        source = ROOT / "tests/foreign/write_segments.cpp"
        subprocess.run(["g++", "-std=c++17", "-O1", f"-I{INCLUDE}", str(source), "-o", cls.program], check=True)

    def setUp(self):
        self.bus = os.path.join(self.folder.name, "bus")
        os.mkdir(self.bus, 0o700)
        self.addCleanup(shutil.rmtree, self.bus)

    def write(self, records, segment_bytes, ending):
        writer = Writer(self.program, self.bus, records, segment_bytes, ending)
        self.addCleanup(writer.end)
        return writer

    def open_only_segment(self):
        names = [name for name in os.listdir(self.bus) if re.fullmatch(r"\w+-\d+-\w+\.[0-9a-f]{32}", name)]
        self.assertEqual(len(names), 1)
        reader = Reader(os.path.join(self.bus, names[0]))
        self.addCleanup(reader.close)
        return reader

    def assert_words(self, found, expected):
        """Like assertEqual, without the minutes that its report of a difference takes."""
        different = [i for i, words in enumerate(zip(found, expected)) if words[0] != words[1]]
        self.assertEqual((len(found), different[:5]), (len(expected), []))

    def assert_totals(self, reader, calls):
        expected = Expected(calls)
        for count in (expected.invalid, expected.negative, expected.overflow):
            self.assertGreater(count, 0, "the test needs records of every kind")
        stream = reader.streams[0]
        body, _ = reader.totals(stream)
        self.assertEqual(reader.published(stream), expected.records)
        self.assertEqual(body[:6], [expected.records, calls[-1]["stamp"], expected.invalid, expected.negative,
                                    1 + len(expected.rows), expected.overflow])  # fmt: skip
        found = reader.series()
        self.assertEqual(sorted(found), sorted(expected.series))
        for key, value in expected.series.items():
            self.assertTrue(found[key] == value, f"{key}: found {found[key]}, expected {value}")

    def test_ClosedSegment_IsIdentifiedAndItsTotalsAreWhatWasRecorded(self):
        writer = self.write(300, 1 << 20, "close")
        reader = self.open_only_segment()
        self.assertEqual((reader.server, reader.model), ("d\u00e9j\u00e0-vu", "test-model"))
        self.assertEqual((reader.engine, reader.role, reader.rank, reader.lane), (7, 4, 3, 0))
        self.assertEqual((reader.pid, reader.clock_domain, reader.clock_source), (writer.child.pid, 2, 3))
        self.assertEqual([stream.name for stream in reader.streams], ["everything", "mark"])
        self.assertEqual(reader.word(reader.status_at + 8), 77 << 32 | 2 << 24 | 5 << 8 | 9)
        self.assertEqual(reader.word(reader.status_at + 16), 1)
        self.assertFalse(reader.is_alive())
        self.assert_totals(reader, writer.calls)

    def test_EveryRecordFoldedFromTheFirst_EqualsEachCheckpointBitForBit(self):
        self.write(200, 4 << 20, "close")
        reader = self.open_only_segment()
        stream = reader.streams[0]
        self.assertLessEqual(reader.published(stream), stream.capacity, "the test needs a ring that did not wrap")
        checkpoints = {body[0]: body for body in reader.checkpoints(stream)}
        body, compared = stream.empty_body(), 0
        for record in range(reader.published(stream) + 1):
            if record in checkpoints:
                self.assert_words(body, checkpoints[record])
                compared += 1
            if record < reader.published(stream):
                stream.fold(body, reader.slot(stream, record))
        self.assertEqual(compared, 2)

    def test_Samples_AreWhatWasRecorded(self):
        writer = self.write(150, 1 << 20, "close")
        reader = self.open_only_segment()
        stream = reader.streams[1]
        self.assertEqual((stream.checkpoint_words, reader.published(stream)), (0, 150))
        fields = {field.name: field for field in stream.fields}
        for record in range(150):
            payload = reader.slot(stream, record)
            self.assertEqual(stream.raw(payload, fields["stamp"].slot_offset, 8), writer.calls[record]["stamp"])
            self.assertEqual(stream.raw(payload, fields["square"].slot_offset, 8), record**2)
            self.assertEqual(stream.raw(payload, fields["low"].slot_offset, 1), record % 256)

    def test_LiveSegment_ThenKilled_GivesTheSameTotalsOfCheckpointPlusSlots(self):
        writer = self.write(1000, 256 << 10, "wait")
        reader = self.open_only_segment()
        self.assertTrue(reader.is_alive())
        stream = reader.streams[0]
        body, start = reader.totals(stream)
        self.assertLess(start, reader.published(stream), "the test needs records after the newest checkpoint")
        self.assertGreater(reader.published(stream), stream.capacity, "the test needs a ring that wrapped")
        self.assert_totals(reader, writer.calls)
        writer.end()
        self.assertFalse(reader.is_alive())
        self.assertEqual(reader.word(reader.status_at + 16), 0)
        self.assert_words(reader.totals(stream)[0], body)

    def test_OverwrittenRecord_IsNotThere(self):
        self.write(1000, 256 << 10, "close")
        reader = self.open_only_segment()
        stream = reader.streams[0]
        newest = reader.published(stream) - 1
        self.assertIsNotNone(reader.slot(stream, newest))
        self.assertIsNone(reader.slot(stream, newest - stream.capacity))
        self.assertIsNone(reader.slot(stream, newest + 1))

    def test_SpoiltSegments_AreRefused(self):
        self.write(10, 256 << 10, "close")
        reader = self.open_only_segment()
        good = reader.pread(0, reader.size)
        path = os.path.join(self.bus, "spoilt")
        for what, at in [("magic", 0), ("layout", 12), ("sizes", 32 + 7), ("schema hash", 72), ("schema hash", 2688 + 70)]:
            with self.subTest(what):
                bad = bytearray(good)
                bad[at] += 2
                pathlib.Path(path).write_bytes(bad)
                with self.assertRaisesRegex(Refused, what):
                    Reader(path)

    def test_SimulatedDeployment_EveryCounterAndSumIsThatOfItsTruthFile(self):
        truth_file = os.path.join(self.folder.name, "truth.json")
        subprocess.run(
            [BINARY, "simulate", "--bus", self.bus, "--truth", truth_file, "--speed", "max", "--seed", "5",
             "--workload", "generated:80", "--engines", "2", "--tp", "2", "--max-num-seqs", "4"],
            check=True, capture_output=True, text=True)  # fmt: skip
        found = {}
        for name in os.listdir(self.bus):
            if name.startswith("."):
                continue
            reader = Reader(os.path.join(self.bus, name))
            self.addCleanup(reader.close)
            units = {field.metric: field.unit for stream in reader.streams for field in stream.fields}
            for (metric, labels), value in reader.series().items():
                labels = dict(labels) | {"engine": str(reader.engine), "model_name": reader.model}
                self.note(found, metric, labels, value, 1e9 if units[metric] == NANOSECONDS else 1)
        truth = json.loads(pathlib.Path(truth_file).read_text())
        compared = 0
        for kind in ("counters", "sums"):
            for series, value in truth[kind].items():
                if "rankbus_" in series:
                    continue
                # A label value that no record had yet is a row that the segment does not have.
                got = found.get(self.key_of(series), 0)
                if kind == "counters":
                    self.assertEqual(got, value, series)
                else:
                    self.assertAlmostEqual(got, value, delta=1e-9 * abs(value), msg=series)
                compared += 1
        self.assertGreater(compared, 300)
        self.assertGreater(sum(value > 0 for value in found.values()), 200)

    @staticmethod
    def note(found, metric, labels, value, scale):
        def add(name, more, number):
            key = (name, tuple(sorted((labels | more).items())))
            found[key] = found.get(key, 0) + number

        if not isinstance(value, tuple):
            add(metric, {}, value)
            return
        add(metric + "_sum", {}, value[0] / scale)
        add(metric + "_count", {}, value[1][-1][1])
        for le, count in value[1]:
            add(metric + "_bucket", {"le": le}, count)

    @staticmethod
    def key_of(series):
        name, labels = re.fullmatch(r"([\w:]+)\{(.*)\}", series).groups()
        pairs = dict(re.findall(r'(\w+)="((?:\\.|[^"])*)"', labels))
        if "le" in pairs:
            pairs["le"] = float(pairs["le"])
        return name, tuple(sorted(pairs.items()))


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
