"""Goal:   a record type declared as a Python class reaches /metrics of an aggregator that has never heard of it, with
        labels, arrays, indexes and texts; a bad declaration is said where it is made.
Method: one class that uses every kind of field, records of it whose totals are added up here, a real aggregator.
Replay: ctest --test-dir build/release -R e2e_python_declared -V
"""

import random
import unittest

import lib
import python_lib  # Before rankbus: it says where that is.
import rankbus


class Swap(rankbus.Record, name="my_swap", help="One swap of KV blocks"):
    swapped_bytes = rankbus.counter("my_swapped_bytes_total", unit="bytes", by="direction peer", help="Bytes moved")
    swaps = rankbus.counter("my_swaps_total", fixed={"medium": "nvme"}, help="Swaps")
    busy_seconds = rankbus.counter("my_busy_seconds_total", unit="seconds", help="Time")
    uptime_ns = rankbus.running_total("my_uptime_seconds_total", unit="nanoseconds", help="Up")
    duration_seconds = rankbus.distribution(
        "my_swap_seconds", bounds=[0.1, 1, 10], unit="seconds", by="direction", help="How long a swap took"
    )
    wait_ns = rankbus.distribution(
        "my_wait_seconds", bounds=[0.001, 0.01], native=(-12, 2), unit="nanoseconds", help="Wait"
    )
    lengths = rankbus.distribution("my_lengths", bounds="model_length", unit="tokens", array=4, help="Lengths")
    routed = rankbus.counter("my_routed_tokens_total", array=16, indexed_as="expert", reduction="each", help="Routed")
    direction = rankbus.label("direction", domain=["in", "out"])
    peer = rankbus.label("neighbour")
    request = rankbus.identifier()
    blocks = rankbus.identifier(array=8)
    queued = rankbus.stamp()
    mode = rankbus.gauge("my_mode", type="f64", help="Mode")
    level = rankbus.gauge("my_level", type="u8", by="direction", help="Level")


class Config(rankbus.Record, name="my_config"):
    config = rankbus.info("my_config_info", help="Configuration")


class Second(rankbus.Record, name="my_second"):
    amount = rankbus.counter("my_amount_total", help="Amount")


class DeclaredTypes(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())

    def producer(self, **options):
        producer = rankbus.Producer(model="m", bus=self.bus, max_model_len=1000, **options)
        self.addCleanup(producer.close)
        self.assertFalse(producer.inert, producer.reason)
        return producer

    def test_EveryKindOfField_ReachesMetricsOfAnAggregatorThatKnowsNoneOfThem(self):
        producer = self.producer(role="worker", axes=[("tp", 1, 2)], records=[Swap, Config, Second], strict=True)
        swap = producer.handle(Swap)
        self.assertIs(swap, producer.handle(Swap))
        for i in range(1000):
            swap(
                swapped_bytes=10 + i % 3,
                direction=("in", "out")[i % 2],
                peer=f"node {i % 2}",
                swaps=1,
                busy_seconds=0.25,
                uptime_ns=i * 10**9,
                duration_seconds=(0.05, 0.5, 5.0, 50.0)[i % 4],
                wait_ns=2_000_000,
                lengths=[1, 2, 700] * (i % 4),
                routed=[1, 0, i],
                mode=-i / 2,
                level=i % 7,
                request=i,
                blocks=range(i % 20),
            )
        producer.handle("my_second")(amount=7)
        producer.handle(Config)(config={"first": "a", "quoted": 'b"\n\\', "long": "x" * 5000})
        with lib.Aggregator(self.bus) as aggregator:
            scrape = aggregator.scrape()
        value = scrape.value
        for side in (0, 1):
            expected = sum(10 + i % 3 for i in range(1000) if i % 2 == side)
            labels = {"direction": ("in", "out")[side], "neighbour": f"node {side}"}
            self.assertEqual(value("my_swapped_bytes_total", **labels), expected)
            self.assertEqual(value("my_swap_seconds_count", direction=labels["direction"]), 500)
        self.assertEqual(value("my_swaps_total", medium="nvme"), 1000)
        self.assertEqual(value("my_busy_seconds_total"), 250)
        self.assertEqual(value("my_uptime_seconds_total"), 999)
        self.assertEqual(value("my_swap_seconds_bucket", direction="in", le="0.1"), 250)
        self.assertEqual(value("my_swap_seconds_bucket", direction="out", le="1.0"), 250)
        self.assertEqual(value("my_wait_seconds_bucket", le="0.001"), 0)
        self.assertEqual(value("my_wait_seconds_bucket", le="0.01"), 1000)
        self.assertEqual(value("my_lengths_count"), sum(3 * (i % 4) for i in range(1000)))
        self.assertEqual(value("my_lengths_bucket", le="500.0"), sum(2 * (i % 4) for i in range(1000)))
        self.assertEqual(value("my_routed_tokens_total", expert="0", rank="1"), 1000)
        self.assertEqual(value("my_routed_tokens_total", expert="2", rank="1"), sum(range(1000)))
        self.assertEqual(value("my_mode"), -999 / 2)
        self.assertEqual(value("my_level", direction="out"), 999 % 7)
        self.assertEqual(value("my_config_info", first="a", quoted='b"\n\\'), 1)
        self.assertEqual(value("my_amount_total"), 7)
        self.assertEqual(value("rankbus_records_total", stream="my_second"), 1)
        self.assertIn("# HELP my_swaps_total Swaps", scrape.text)

    def test_AbsentValues_CountNothing(self):
        producer = self.producer(records=[Swap, Config], strict=True)
        swap = producer.handle(Swap)
        producer.handle(Config)(config=None)
        swap()
        swap(swapped_bytes=None, duration_seconds=None, lengths=None, mode=None, direction="in", peer=None)
        shown = {metric.name: metric for metric in rankbus.snapshot(self.bus) if metric.name.startswith("my_")}
        self.assertEqual(shown["my_swaps"].value, 0)
        self.assertEqual(shown["my_wait_seconds"].count, 0)
        self.assertNotIn("my_mode", shown)
        self.assertNotIn("my_config_info", shown)

    def test_MoreTextsThanTheDictionaryHolds_AreCountedAsOther(self):
        class Named(rankbus.Record, name="named"):
            amount = rankbus.counter("named_total", by="name")
            name = rankbus.label("name")

        producer = self.producer(records=[Named])
        handle = producer.handle(Named)
        for i in range(2000):
            handle(amount=1, name=f"text {i}")
        shown = {m.labels.get("name"): m.value for m in rankbus.snapshot(self.bus) if m.name == "named"}
        self.assertEqual(sum(shown.values()), 2000)
        self.assertGreater(shown["other"], 0)
        self.assertGreater(producer.errors, 0)
        self.assertIn("dictionary is full", producer.last_error)

    def test_TypesOutliveTheirNames(self):
        def declare():
            class Gone(rankbus.Record, name="gone"):
                amount = rankbus.counter("gone_total", by="who")
                who = rankbus.label("who", domain=[f"person {random.randrange(9)}" for _ in range(5)])

            producer = self.producer(records=[Gone])
            return producer, producer.handle(Gone)

        producer, handle = declare()
        for _ in range(100):
            handle(amount=1)
        producer.reopen()
        handle(amount=1)
        self.assertFalse(producer.inert, producer.reason)
        self.assertEqual(sum(m.value for m in rankbus.snapshot(self.bus) if m.name == "gone"), 101)


class BadDeclarations(unittest.TestCase):
    def assert_refused(self, reason, fields, name="bad", **options):
        with self.assertRaisesRegex((ValueError, TypeError), reason):
            type("Bad", (rankbus.Record,), fields() if callable(fields) else fields, name=name, **options)

    def test_Names(self):
        self.assert_refused("a name of 1 to 128", {}, name="with space")
        self.assert_refused("metric's name", {"a": rankbus.counter("no-dashes")})
        self.assert_refused("put on every series", {"a": rankbus.label("rank")})
        self.assert_refused("names what is no label", {"a": rankbus.counter("a_total", by="nothing")})
        self.assert_refused("help is at most", {"a": rankbus.counter("a_total", help="x" * 600)})

    def test_Bounds(self):
        for bounds in ([], [1, 1], [2, 1], [0, 1], [-1], [float("nan")], [float("inf")]):
            with self.subTest(bounds):
                fields = {"a": rankbus.distribution("a", bounds=bounds, native=(5, 4) if not bounds else None)}
                self.assert_refused("bounds must be", fields)
        self.assert_refused("bounds are numbers", lambda: {"a": rankbus.distribution("a", bounds="some")})

    def test_Shapes(self):
        self.assert_refused("room for at least 2", lambda: {"a": rankbus.counter("a_total", array=1)})
        self.assert_refused("8 bytes", {"a": rankbus.counter("a_total", array=4, type="u32")})
        self.assert_refused("one fixed label", lambda: {"a": rankbus.counter("a_total", fixed={"a": "b", "c": "d"})})
        self.assert_refused("only an array", {"a": rankbus.counter("a_total", indexed_as="i")})
        self.assert_refused("unknown unit", {"a": rankbus.counter("a_total", unit="miles")})
        self.assert_refused("unknown type", {"a": rankbus.counter("a_total", type="f32")})
        self.assert_refused("unknown reduction", {"a": rankbus.gauge("a", reduction="median")})
        self.assert_refused("bytes a slot", {"a": rankbus.counter("a_total", array=600)})
        self.assert_refused("65 fields", {f"a{i}": rankbus.identifier() for i in range(64)})
        self.assert_refused("weight 0", {}, weight=0)
        self.assert_refused("more than 4 label", {f"a{i}": rankbus.label(f"a{i}") for i in range(5)})

    def test_ProducerOptions(self):
        class Ok(rankbus.Record, name="ok"):
            amount = rankbus.counter("ok_total")

        class Twin(rankbus.Record, name="ok"):
            amount = rankbus.counter("ok_total")

        for reason, options in (
            ("unknown 'wroker'", {"role": "wroker"}),
            ("no built-in record type", {"records": ["nothing"]}),
            ("neither a built-in", {"records": [int]}),
            ("two record types", {"records": [Ok, Twin]}),
            ("engine: expected an integer from 0", {"engine": -1}),
            ("rank: expected an integer", {"rank": "first"}),
            ("axes", {"axes": [("tp", 0, 1)] * 9}),
            ("axis", {"axes": [("tp", 0)]}),
            ("model: expected a text", {"model": 7}),
            ("unknown 'mars'", {"clock": "mars"}),
        ):
            with self.subTest(reason), self.assertRaisesRegex((ValueError, TypeError), reason):
                rankbus.Producer(**options)
        with self.assertRaisesRegex(KeyError, "declared: ok"), lib.temporary_bus() as bus:
            rankbus.Producer(bus=bus, records=[Ok, Ok]).handle("worker_step")
        with self.assertRaisesRegex(KeyError, "Twin"), lib.temporary_bus() as bus:
            rankbus.Producer(bus=bus, records=[Ok]).handle(Twin)


if __name__ == "__main__":
    lib.main()
