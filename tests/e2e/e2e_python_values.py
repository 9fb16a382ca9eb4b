"""Goal:   nothing that a caller passes makes a record call raise, stop or lose more than the field it was for; a
        strict producer says what is wrong instead, and writes nothing. Inert producers do nothing.
Method: wrong values of every kind for every kind of field, objects whose methods raise, lie, or call back, and the
        totals that must be left.
Replay: ctest --test-dir build/release -R e2e_python_values -V
"""

import gc
import os
import sys
import unittest

import numpy

import lib
import python_lib  # Before rankbus: it says where that is.
import rankbus


class Raising:
    def __init__(self, error):
        self.error = error

    def __float__(self):
        raise self.error

    __index__ = __float__

    def tolist(self):
        raise self.error

    def __repr__(self):
        raise self.error


class Lying:
    """Claims to be a sequence, and a number."""

    def __len__(self):
        return 10**18

    def __getitem__(self, index):
        return self if index < 3 else (_ for _ in ()).throw(IndexError)

    def __float__(self):
        return "three"

    def __index__(self):
        return 2.5


class Counted(rankbus.Record, name="counted"):
    small = rankbus.counter("c_small_total", type="u8")
    signed = rankbus.gauge("c_signed", type="i64")
    whole = rankbus.counter("c_whole_total")
    real = rankbus.counter("c_real_total", type="f64")
    observed = rankbus.distribution("c_observed", bounds=[1, 10])
    wholes = rankbus.counter("c_wholes_total", array=4)
    reals = rankbus.distribution("c_reals", bounds=[1, 10], array=4)
    reason = rankbus.label("reason", domain=["good", "bad"])
    text = rankbus.label("text")
    info = rankbus.info("c_info", array=16)
    sentinel = rankbus.counter("c_sentinel_total", by="reason")


NUMBER_FIELDS = ("small", "whole", "real", "observed", "signed")
ARRAY_FIELDS = ("wholes", "reals")
WRONG = {
    **{name: ["1", b"1", [1], {}, object(), Raising(ValueError("no")), Lying(), 1j, type] for name in NUMBER_FIELDS},
    **{
        name: ["12", b"12", 5, {1: 2}, object(), Raising(ValueError("no")), Lying()]
        + [[1, "2"], [[1]], (None,), [1, Lying()], {1: 2}.items()]
        for name in ARRAY_FIELDS
    },
    "reason": ["indifferent", b"good", 1.5, ["good"], object(), "\0", Raising(KeyError("no"))],
    "text": ["nul\0", "\udc80", b"x", ("x",), -1, 70_000, "x" * 2000],
    "info": ["a", ["a"], {"a": 1}, {1: "a"}, {"bad name": "a"}, {"a": "nul\0"}, {"": "x"}, {"a": "\udc80"}],
}
WRONG["small"] += [-1, 255, 256, 1.5, 10**30, -(10**30), float("nan"), float("inf"), numpy.int64(-1), 2**63]
WRONG["whole"] += [-1, 2**64, 2**64 - 1, 0.5, numpy.float32(0.5), float("nan")]
WRONG["signed"] += [2**63, -(2**63) - 1, -1, 0.5]
WRONG["real"] += [10**400]
WRONG["wholes"] += [[1, -1], [2**64], [0.5]]


class BadValues(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())

    def producer(self, **options):
        producer = rankbus.Producer(model="m", bus=self.bus, records=[Counted], **options)
        self.addCleanup(producer.close)
        self.assertFalse(producer.inert, producer.reason)
        return producer

    def value(self, name, **labels):
        found = [m for m in rankbus.snapshot(self.bus) if m.name == name and labels.items() <= m.labels.items()]
        self.assertEqual(len(found), 1, f"{name} {labels}")
        return found[0]

    def test_WrongValues_NeverRaise_AndTheRestIsWritten(self):
        producer = self.producer()
        handle = producer.handle(Counted)
        calls = 0
        for field, values in WRONG.items():
            for value in values:
                calls += 1
                with self.subTest(f"{field}={type(value).__name__} {calls}"):
                    handle(sentinel=1, **{field: value})
                    self.assertEqual(producer.errors, calls, producer.last_error)
                    self.assertIn(f"record counted, field {field}: ", producer.last_error)
        total = sum(m.value for m in rankbus.snapshot(self.bus) if m.name == "c_sentinel")
        self.assertEqual(total, calls)
        for name in ("c_small", "c_whole", "c_real", "c_wholes"):
            self.assertEqual(self.value(name).value, 0)
        for name in ("c_observed", "c_reals"):
            self.assertEqual(self.value(name).count, 0)
        self.assertNotIn("c_signed", [m.name for m in rankbus.snapshot(self.bus)])

    def test_WrongValues_OfAStrictProducer_RaiseWithRecordAndFieldAndWriteNothing(self):
        producer = self.producer(strict=True)
        handle = producer.handle(Counted)
        for field, values in WRONG.items():
            for value in values:
                with self.subTest(f"{field}={type(value).__name__}"):
                    with self.assertRaisesRegex((TypeError, ValueError), f"record counted, field {field}: "):
                        handle(sentinel=1, **{field: value})
        with self.assertRaisesRegex(TypeError, "record counted has no field nothing; its fields: stamp, small"):
            handle(sentinel=1, nothing=2)
        with self.assertRaisesRegex(TypeError, "by name"):
            handle(1)
        handle(sentinel=1, reason="good")
        self.assertEqual(sum(m.value for m in rankbus.snapshot(self.bus) if m.name == "c_sentinel"), 1)

    def test_UnknownNames_AreCounted_AndTheRestIsWritten(self):
        producer = self.producer()
        handle = producer.handle(Counted)
        handle(sentinel=2, nothing=1, **{"no name": 3, "": 4})
        handle(5, sentinel=3)
        handle(**{f"name_{i}": i for i in range(300)}, sentinel=4)
        self.assertEqual(producer.errors, 3 + 1 + 300)
        self.assertEqual(sum(m.value for m in rankbus.snapshot(self.bus) if m.name == "c_sentinel"), 9)

    def test_GoodValues_InManyDresses_AreWhatTheySay(self):
        producer = self.producer(strict=True)
        handle = producer.handle(Counted)
        for seven in (7, 7.0, numpy.int8(7), numpy.uint64(7), numpy.float32(7), numpy.float64(7), numpy.array(7)):
            handle(small=seven, whole=seven, real=seven, observed=seven, signed=seven, text=numpy.str_("t"))
        handle(small=True, whole=2**63, real=2**70, signed=-(2**63), reason=2)
        sequences = [[7], (7,), numpy.array([7]), numpy.array([7], numpy.uint8), range(7, 8), {7}, iter([7])]
        sequences.append(bytearray(b"\7"))
        for sequence in sequences:
            handle(wholes=sequence)
        for sequence in (numpy.array([0.5]), numpy.array([0.5], numpy.float32), [numpy.float16(0.5)], (0.5,)):
            handle(reals=sequence)
        self.assertEqual(self.value("c_small").value, 50)
        self.assertEqual(self.value("c_whole").value, 49 + 2**63)
        self.assertEqual(self.value("c_real").value, 49 + 2.0**70)
        self.assertEqual(self.value("c_signed").value, -(2**63))
        self.assertEqual(self.value("c_wholes").value, 7 * len(sequences))
        self.assertEqual((self.value("c_reals").count, self.value("c_reals").sum), (4, 2.0))

    def test_NamesFromADict_AreFieldsToo(self):
        producer = self.producer(strict=True)
        handle = producer.handle(Counted)
        for i in range(100):
            handle(**{"".join(["sent", "inel"]): 1, "".join(["whole"]): i})
        self.assertEqual(self.value("c_whole").value, sum(range(100)))

    def test_CallsFromWithinACall_AndSequencesThatShrink(self):
        producer = self.producer()
        handle = producer.handle(Counted)
        items = []

        class Calling:
            def __float__(self):
                items.clear()
                handle(whole=1, reals=[5.0] * 100)
                return 2.0

        items += [1.0, Calling(), 3.0, 4.0]
        handle(reals=items, whole=1)
        self.assertEqual(self.value("c_whole").value, 2)
        self.assertEqual(self.value("c_reals").count, 100)  # The outer array was gone.
        self.assertEqual(producer.errors, 1)

        class Closing:
            def __float__(self):
                producer.close()
                return 1.0

        handle(real=Closing())
        self.assertTrue(producer.inert)
        self.assertEqual(producer.dropped, 1)

    def test_KeyboardInterrupt_IsNotSwallowed(self):
        producer = self.producer()
        handle = producer.handle(Counted)
        for field in ("real", "whole", "reals"):
            with self.assertRaises(KeyboardInterrupt):
                handle(sentinel=1, **{field: Raising(KeyboardInterrupt())})
        self.assertEqual(producer.errors, 0)

    def test_References_AreGivenBack(self):
        producer = self.producer()
        handle = producer.handle(Counted)
        text = "".join(["some", "text"])
        values = {"text": text, "reals": [1.0, 2.5], "info": {"a": "b"}, "whole": 10**6, "nothing": object()}
        handle(**values)  # The text stays in the handle's table of numbers.
        before = [sys.getrefcount(value) for value in values.values()]
        for _ in range(1000):
            handle(**values)
        self.assertEqual([sys.getrefcount(value) for value in values.values()], before)
        none = sys.getrefcount(None)
        for _ in range(1000):
            handle(whole=None)
        self.assertLess(abs(sys.getrefcount(None) - none), 100)

    def test_Status_TakesIntegersOnly(self):
        producer = self.producer()
        producer.status(1, 2, 3, 4)
        self.assertEqual(producer.errors, 0)
        for wrong in ((1,), (1, 2, 3, 300), ("1", 2, 3, 4), ()):
            producer.status(*wrong)
        self.assertEqual(producer.errors, 4)


class InertProducers(unittest.TestCase):
    def test_NoBus_RecordsAreDroppedAndTheReasonSaysWhy(self):
        producer = rankbus.Producer(role="frontend", bus="/proc/no-such-place/bus")
        self.assertTrue(producer.inert)
        self.assertIn("/proc/no-such-place", producer.reason)
        handle = producer.handle("finished_request")
        for _ in range(10):
            self.assertIsNone(handle(finished_reason="stop", nothing=1, num_prompt_tokens="wrong"))
        producer.status(1, 2, 3, 4)
        self.assertEqual((producer.dropped, producer.errors, producer.segment_name), (10, 0, ""))
        producer.close()
        self.assertIn("inert", repr(producer))

    def test_Context_ClosesInOrder(self):
        with lib.temporary_bus() as bus:
            with rankbus.Producer(role="worker", bus=bus) as producer:
                self.assertTrue(os.path.exists(f"{bus}/{producer.segment_name}"))
                self.assertGreater(producer.now(), 0)
                self.assertGreater(producer.ticks_per_second, 0)
            self.assertTrue(producer.inert)
            self.assertIn("closed", producer.reason)

    def test_Handle_KeepsTheProducerAlive(self):
        with lib.temporary_bus() as bus:
            producer = rankbus.Producer(role="frontend", bus=bus)
            handle = producer.handle("multimodal_cache")
            del producer
            gc.collect()
            handle(queries=5)
            found = {metric.name: metric for metric in rankbus.snapshot(bus)}
            self.assertEqual(found["vllm:mm_cache_queries"].value, 5)
            del handle
            gc.collect()
            self.assertEqual(rankbus.Producer(role="frontend", bus=bus).lane, 0)


if __name__ == "__main__":
    lib.main()
