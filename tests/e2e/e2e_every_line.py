"""Goal:   rankbus logs what vLLM would: every kind of line, with the numbers of the interval's records.
Method: simulate a deployment with every feature, so short that no record is overwritten, under an aggregator whose only
        interval is the whole run. Read every record back with the plain Python reader of contract_foreign_reader.py
        and compute vLLM's lines from them, by its formulas. What the aggregator printed must be these lines.
Replay: ctest --test-dir build/release -R e2e_every_line -V
"""

import ast
import collections
import json
import math
import os
import pathlib
import re
import signal
import sys
import tempfile
import unittest

import lib

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import contract_foreign_reader as reader

KV_BLOCKS = 24
# Stops with requests that run, that wait for room, and that wait for an adapter.
RUN = ("--tp", 2, "--speed", "max", "--kv-blocks", KV_BLOCKS, "--max-loras", 2, "--until", 0.9)
REQUESTS, OUTPUT_TOKENS = 60, 12
LINE = re.compile(r"^(\w+) \d\d-\d\d \d\d:\d\d:\d\d \[rankbus\] (.*)$", re.MULTILINE)
OUR_OWN = ("Reading ", "Ended after ", "another ")


def write_trace(path):
    """Short requests in quick succession. Their prompts end just below a block, so that they soon need another."""
    with path.open("w") as out:
        for i in range(REQUESTS):
            blocks = 1 + i % 3
            ids = [i % 5, *(100 * i + block for block in range(1, blocks))]
            request = {
                "timestamp": 5 * i,
                "input_length": 512 * blocks - 4,
                "output_length": OUTPUT_TOKENS,
                "hash_ids": ids,
            }
            out.write(json.dumps(request) + "\n")


def scalar(field, raw):
    """A field as its record holds it; None if it is absent."""
    size = reader.TYPE_BYTES[field.type]
    if raw == 2 ** (8 * size) - 1:
        return None
    return reader.as_double(raw) if field.type == reader.F64 else raw


def decode(segment, stream, payload):
    """One record as {field: value}, labels as texts, arrays as lists."""
    record = {}
    for field in stream.fields:
        size = reader.TYPE_BYTES[field.type]
        raws = [stream.raw(payload, field.slot_offset + k * size, size) for k in range(field.capacity)]
        if field.capacity > 1:
            count = stream.raw(payload, field.count_offset, 2)
            record[field.name] = [scalar(field, raw) for raw in raws[:count]]
        elif field.kind == reader.LABEL:
            record[field.name] = segment.label_text(field, raws[0])
        else:
            record[field.name] = scalar(field, raws[0])
    return record


class Records:
    """Every record of a bus: {stream: [record]} of one engine, in the order of each writer; and the engine's clock."""

    def __init__(self, bus):
        self.engines = collections.defaultdict(lambda: collections.defaultdict(list))
        self.clocks_s = collections.defaultdict(float)
        for name in sorted(os.listdir(bus)):
            if not name.startswith("."):
                self.read(reader.Reader(f"{bus}/{name}"))

    def read(self, segment):
        for stream in segment.streams:
            for number in range(segment.published(stream)):
                payload = segment.slot(stream, number)
                if payload is None:
                    raise AssertionError(f"{stream.name}: record {number} is overwritten; the run is too long")
                record = decode(segment, stream, payload)
                self.engines[segment.engine][stream.name].append(record)
                stamp = record[stream.fields[0].name]
                if stream.checkpoint_words > 0:
                    self.clocks_s[segment.engine] = max(self.clocks_s[segment.engine], stamp * 1e-9)
        segment.close()


def total(records, field):
    return sum(record[field] for record in records)


def percent(part, whole):
    return 100 * part / whole if whole else 0.0


class Engine:
    """What vLLM logs of one engine, or of several together, from their records."""

    def __init__(self, streams, elapsed_s):
        self.streams = streams  # [{stream: [record]}], one per engine.
        self.elapsed_s = elapsed_s

    def of(self, stream):
        return [record for streams in self.streams for record in streams[stream]]

    def last_step(self, field):
        return sum(streams["scheduler_step"][-1][field] for streams in self.streams)

    def throughput(self):
        iterations, steps, images = self.of("iteration_stats"), self.of("scheduler_step"), self.of("multimodal_cache")
        prompt = total(iterations, "prompt_computed_tokens") / self.elapsed_s
        generation = total(iterations, "num_generation_tokens") / self.elapsed_s
        deferred = self.last_step("num_skipped_waiting_reqs")
        preemptions = total(iterations, "num_preempted_reqs")
        usage = 100 * self.last_step("kv_cache_usage") / len(self.streams)
        hits = percent(total(steps, "prefix_cache_hits"), total(steps, "prefix_cache_queries"))
        external = percent(total(steps, "external_prefix_cache_hits"), total(steps, "external_prefix_cache_queries"))
        seen = percent(total(images, "hits"), total(images, "queries"))
        return ", ".join(
            [
                f"Avg prompt throughput: {prompt:.1f} tokens/s",
                f"Avg generation throughput: {generation:.1f} tokens/s",
                f"Running: {self.last_step('num_running_reqs')} reqs",
                f"Waiting: {self.last_step('num_waiting_reqs') + deferred} reqs",
                *([f"Deferred: {deferred} reqs"] if deferred else []),
                *([f"Preemptions: {preemptions}"] if preemptions else []),
                f"GPU KV cache usage: {usage:.1f}%",
                f"Prefix cache hit rate: {hits:.1f}%",
                f"Corrupted: {total(self.of('corrupted_requests'), 'num_corrupted_reqs')} reqs",
                f"External prefix cache hit rate: {external:.1f}%",
                f"MM cache hit rate: {seen:.1f}%",
            ]
        )

    def speculation(self):
        records = self.of("spec_decoding")
        drafts, drafted = total(records, "num_drafts"), total(records, "num_draft_tokens")
        accepted = total(records, "num_accepted_tokens")
        positions = [sum(at) for at in zip(*(record["num_accepted_tokens_per_pos"] for record in records))]
        rates = ", ".join(f"{at / drafts:.3f}" for at in positions)
        return (
            f"SpecDecoding metrics: Mean acceptance length: {1 + accepted / drafts:.2f}, "
            f"Accepted throughput: {accepted / self.elapsed_s:.2f} tokens/s, "
            f"Drafted throughput: {drafted / self.elapsed_s:.2f} tokens/s, "
            f"Accepted: {accepted} tokens, Drafted: {drafted} tokens, "
            f"Per-position acceptance rate: {rates}, Avg Draft acceptance rate: {100 * accepted / drafted:.1f}%"
        )

    def diffusion(self):
        records = self.of("diffusion_decoding")
        steps, positions = total(records, "num_denoising_steps"), total(records, "num_canvas_positions")
        committed = total(records, "num_committed_tokens")
        return (
            f"DiffusionDecoding metrics: Committed token throughput: {committed / self.elapsed_s:.2f} tokens/s, "
            f"Mean denoising steps per canvas: {positions / committed:.2f}, "
            f"Mean tokens committed per denoising step: {committed / steps:.2f}, "
            f"Committed: {committed} tokens, Denoising steps: {steps}, Canvas positions evaluated: {positions}"
        )

    def estimates(self):
        records = self.of("perf_stats")
        moved = total(records, "num_read_bytes_per_gpu") + total(records, "num_write_bytes_per_gpu")
        flops = total(records, "num_flops_per_gpu")
        return f"MFU: {flops / self.elapsed_s / 1e12:.1f} TF/s/GPU {moved / self.elapsed_s / 1e9:.1f} GB/s/GPU"

    def iterations(self):
        for record in self.of("iteration_details"):
            encoder = ""
            if record["num_encoder_inputs"] > 0:
                encoder = (
                    f", encoder inputs: {record['num_encoder_inputs']}, "
                    f"encoder output embeddings: {record['num_encoder_output_tokens']}"
                )
            yield (
                f"Iteration({record['iteration_index']}): {record['num_ctx_requests']} context requests, "
                f"{record['num_ctx_tokens']} context tokens, {record['num_generation_requests']} generation requests, "
                f"{record['num_generation_tokens']} generation tokens, "
                f"iteration elapsed time: {record['elapsed_ms']:.2f} ms, "
                f"GPU KV cache usage: {100 * record['kv_cache_usage']:.1f}%{encoder}"
            )

    def cuda_graphs(self):
        """The table; the order of equal counts is that in which one engine saw them."""
        counts = collections.Counter(
            (
                record["num_unpadded_tokens"],
                record["num_padded_tokens"],
                record["num_padded_tokens"] - record["num_unpadded_tokens"],
                record["runtime_mode"],
            )
            for record in self.of("cuda_graph")
            if not record["captured"]
        )
        head = ("Unpadded Tokens", "Padded Tokens", "Num Paddings", "Runtime Mode", "Count")
        rows = [head, *((*map(str, batch), str(count)) for batch, count in counts.most_common())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        shown = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        sizes = ", ".join(map(str, [1, 2, 4, *range(8, 513, 8)]))
        return [
            *("**CUDAGraph Config Settings:**", "", "- Mode: FULL_AND_PIECEWISE", f"- Capture sizes: [{sizes}]", ""),
            *("**CUDAGraph Stats:**", "", shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|"),
            *shown[1:],
            "",
        ]

    def connectors(self):
        """{class: {name: value}} in the order of the line."""
        return {
            "NixlConnector": self.transfers("connector:nixl", posts=True),
            "MoRIIOConnector": self.transfers("connector:moriio", posts=True),
            "MooncakeConnector": self.transfers("connector:mooncake", posts=False)
            | {
                "Num failed transfers": total(self.of("connector:mooncake"), "num_failed_transfers"),
                "Num failed recvs": total(self.of("connector:mooncake"), "num_failed_recvs"),
                "Num KV expired reqs": total(self.of("connector:mooncake"), "num_kv_expired_reqs"),
            },
            "MooncakeStoreConnector": self.store_operations(),
            "OffloadingConnector": self.offloading(),
            "HiSparseConnector": {
                "HiSparse hot-buffer hits": total(self.of("connector:hisparse"), "cache_hits"),
                "HiSparse hot-buffer misses": total(self.of("connector:hisparse"), "cache_misses"),
                "HiSparse host-to-device bytes": total(self.of("connector:hisparse"), "host_to_device_bytes"),
            },
        }

    def transfers(self, stream, posts):
        done = [record for record in self.of(stream) if record["transfer_duration_seconds"] is not None]
        durations = [record["transfer_duration_seconds"] for record in done]
        megabytes = total(done, "bytes_transferred") / 2**20
        out = {"Num successful transfers": len(done)} | times("xfer", durations)
        if posts:
            out |= times("post", [record["post_duration_seconds"] for record in done])
        return out | {
            "Avg MB per transfer": round(megabytes / len(done), 3),
            "Throughput (MB/s)": round(megabytes / math.fsum(durations), 3),
            "Avg number of descriptors": round(total(done, "num_descriptors") / len(done), 1),
        }

    def store_operations(self):
        by_name = collections.defaultdict(list)
        for record in self.of("connector:mooncake_store"):
            by_name[record["operation"]].append(record)
        out = {}
        for name, records in sorted(by_name.items()):
            seconds = sorted(record["duration_seconds"] for record in records)
            nearest_rank = seconds[int(0.9 * len(seconds) - 1e-12)]
            out |= {
                f"{name}_count": len(records),
                f"{name}_avg_ms": round(math.fsum(seconds) / len(seconds) * 1e3, 3),
                f"{name}_p90_ms": round(nearest_rank * 1e3, 3),
                f"{name}_total_keys": total(records, "num_keys"),
                f"{name}_total_bytes": total(records, "num_bytes"),
                f"{name}_failed_keys": total(records, "num_failed_keys"),
                f"{name}_error_count": sum(record["status"] == "error" for record in records),
            }
        return out

    def offloading(self):
        """Counters and histograms. The gauges are whichever rank's was read last; their names map to None."""
        moved, cpu = self.of("connector:offloading"), self.of("connector:offloading:cpu")
        lookups, skipped = self.of("connector:offloading:lookup"), self.of("connector:offloading:skipped")
        counters = {
            "load_bytes": total(moved, "load_bytes"),
            "store_bytes": total(moved, "store_bytes"),
            "load_time": math.fsum(record["load_time"] for record in moved),
            "store_time": math.fsum(record["store_time"] for record in moved),
            "stores_skipped": total(skipped, "stores_skipped"),
            "allocation_failure": total(lookups, "allocation_failures"),
        }
        out = {f"vllm:kv_offload_{name}": value for name, value in counters.items() if value}
        for name, records, field in (
            ("load_size", moved, "load_size"),
            ("store_size", moved, "store_size"),
            ("cpu_allocation_size", cpu, "cpu_allocation_size"),
            ("lookup_sync_delay_seconds", lookups, "lookup_sync_delay_seconds"),
            ("lookup_async_delay_seconds", lookups, "lookup_async_delay_seconds"),
        ):
            values = [value for record in records for value in record[field]]
            out |= {f"vllm:kv_offload_{name}_count": len(values), f"vllm:kv_offload_{name}_sum": math.fsum(values)}
        for name in ("usage", "write_usage", "read_usage"):
            out[f"vllm:kv_offload_cpu_cache_{name}_perc"] = None
        return out


def times(what, seconds):
    """Mean and linearly interpolated 90th percentile, in milliseconds."""
    ranked = sorted(seconds)
    place = 0.9 * (len(ranked) - 1)
    low, high = ranked[math.floor(place)], ranked[math.ceil(place)]
    return {
        f"Avg {what} time (ms)": round(math.fsum(ranked) / len(ranked) * 1e3, 3),
        f"P90 {what} time (ms)": round((low + (high - low) * (place - math.floor(place))) * 1e3, 3),
    }


def read_connectors(line):
    """NixlConnector={'name': 1, ...}, ...: as {class: {name: value}}."""
    text = line.removeprefix("KV Transfer metrics: ")
    parts = re.findall(r"(\w+)=(\{.*?\})(?:, |$)", text)
    if ", ".join(f"{name}={values}" for name, values in parts) != text:
        raise AssertionError(f"not a list of connectors: {line}")
    return {name: ast.literal_eval(values) for name, values in parts}


class Case(unittest.TestCase):
    maxDiff = None

    def log_of_run(self, *arguments):
        """Runs a simulation; returns the aggregator's lines as (level, text) and every record of the run."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        bus = self.enterContext(lib.temporary_bus())
        write_trace(folder / "trace.jsonl")
        # The one interval ends with the aggregator.
        aggregator = self.enterContext(lib.Aggregator(bus, "--log-interval", 80000, "--log-level", "debug"))
        simulator = self.enterContext(
            lib.simulate(
                *(bus, "--trace", folder / "trace.jsonl", "--hold", "--linger", "--truth", folder / "truth.json"),
                *(*RUN, *arguments),
            )
        )
        # Seen from their beginning, engines have a first line about all that they did.
        lib.wait_for(
            lambda: "waiting for SIGUSR1" in simulator.stderr()
            and len(aggregator.scrape().select("rankbus_rank_info")) == len(self.segments(bus)),
            "every process is seen",
            alive=[aggregator, simulator],
        )
        simulator.send(signal.SIGUSR1)
        lib.wait_for((folder / "truth.json").exists, "the run is over", alive=[aggregator, simulator])
        self.assertEqual(aggregator.stop(), 0)
        lines = LINE.findall(aggregator.stderr())
        return [line for line in lines if not line[1].startswith(OUR_OWN)], Records(bus)

    @staticmethod
    def segments(bus):
        return [name for name in os.listdir(bus) if not name.startswith(".")]

    def assert_connectors(self, line, engine):
        """Numbers to the last digit that is printed; sums of doubles to their last digits."""
        self.assertTrue(line.startswith("KV Transfer metrics: "), line)
        found, expected = read_connectors(line), engine.connectors()
        self.assertEqual(list(found), list(expected))
        for connector, values in expected.items():
            # Offloading's names come in the order in which ranks told them first.
            shown = sorted(found[connector]) if connector == "OffloadingConnector" else list(found[connector])
            wanted = sorted(values) if connector == "OffloadingConnector" else list(values)
            self.assertEqual(shown, wanted)
            for name, value in values.items():
                if value is None:
                    told = {record[name.removeprefix("vllm:kv_offload_")] for record in engine.of("connector:offloading:cpu")}
                    self.assertIn(found[connector][name], told)
                elif name.startswith("vllm:"):
                    self.assertTrue(math.isclose(found[connector][name], value, rel_tol=1e-12), f"{name}: {line}")
                else:
                    self.assertEqual(found[connector][name], value, f"{connector}: {name}")

    def assert_lines(self, lines, expected, engine):
        """Of a line about connectors, `expected` has None: its numbers are compared one by one."""
        self.assertEqual(len(lines), len(expected), f"{lines}\n{expected}")
        for (level, text), (expected_level, expected_text) in zip(lines, expected):
            if expected_text is None:
                self.assert_connectors(text, engine)
                expected_text = text
            self.assertEqual((level, text), (expected_level, expected_text))


class EveryLine(Case):
    def test_OneEngineWithEveryFeature_HasEveryLineWithTheNumbersOfItsRecords(self):
        lines, records = self.log_of_run("--features", "all")
        engine = Engine([records.engines[0]], records.clocks_s[0])
        self.assert_lines(
            lines,
            [
                ("DEBUG", f"Engine 000: {start_up()}"),
                *(("INFO", f"Engine 000: {line}") for line in engine.iterations()),
                ("INFO", f"Engine 000: {engine.throughput()}"),
                ("INFO", engine.speculation()),
                ("INFO", None),
                *(("INFO", line) for line in engine.cuda_graphs()),
                ("INFO", f"Engine 000: {engine.estimates()}"),
            ],
            engine,
        )
        # The run is made so that no part of a line is missing.
        for part in ("Deferred: ", "Preemptions: "):
            self.assertIn(part, engine.throughput())
        self.assertNotIn(": 0.0", engine.throughput())
        self.assertNotIn("Corrupted: 0", engine.throughput())
        self.assertTrue(any("encoder inputs" in line for line in engine.iterations()))
        modes = {line.split("|")[4].strip() for line in engine.cuda_graphs()[9:-1]}
        self.assertEqual(modes, {"FULL", "PIECEWISE", "NONE"})

    def test_TwoEngines_HaveLinesOfTheirOwnAndOneTogether(self):
        lines, records = self.log_of_run("--features", "all", "--engines", 2, "--front-ends", 2)
        iterations = [line for line in lines if " Iteration(" in line[1]]
        engines = [Engine([records.engines[i]], records.clocks_s[i]) for i in range(2)]
        both = Engine([records.engines[i] for i in range(2)], max(records.clocks_s.values()))
        for i, engine in enumerate(engines):
            own = [text for _, text in iterations if text.startswith(f"Engine 00{i}: ")]
            self.assertEqual(own, [f"Engine 00{i}: {line}" for line in engine.iterations()])
        rest = [line for line in lines if line not in iterations]
        self.assertEqual(sorted(rest[:2]), [("DEBUG", f"Engine 00{i}: {start_up()}") for i in range(2)])
        self.assertEqual(rest[2], ("INFO", f"2 Engines: {start_up()}"))
        rest = rest[3:]
        for i, engine in enumerate(engines):
            table = engine.cuda_graphs()
            length = 4 + len(table)
            self.assert_lines(
                rest[:length],
                [
                    ("INFO", f"Engine 00{i}: {engine.throughput()}"),
                    ("INFO", engine.speculation()),
                    ("INFO", None),
                    *(("INFO", line) for line in table),
                    ("INFO", f"Engine 00{i}: {engine.estimates()}"),
                ],
                engine,
            )
            rest = rest[length:]
        self.assertEqual(rest[0], ("INFO", f"2 Engines Aggregated: {both.throughput()}"))
        self.assertEqual(rest[1], ("INFO", both.speculation()))
        self.assert_connectors(rest[2][1], both)
        # Engines run side by side, so the order of equal counts is open; no MFU line follows.
        self.assertEqual(sorted(text for _, text in rest[3:]), sorted(both.cuda_graphs()))

    def test_DiffusionModel_HasItsLineInThePlaceOfSpeculation(self):
        lines, records = self.log_of_run("--diffusion")
        engine = Engine([records.engines[0]], records.clocks_s[0])
        decoding = [line for line in lines if "Decoding metrics" in line[1]]
        self.assertEqual(decoding, [("INFO", engine.diffusion())])

    def test_OneConnector_HasItsNumbersWithoutItsName(self):
        lines, records = self.log_of_run("--kv-connector", "nixl")
        engine = Engine([records.engines[0]], records.clocks_s[0])
        numbers = ", ".join(f"{k}={v}" for k, v in engine.transfers("connector:nixl", posts=True).items())
        self.assertEqual(lines[1:], [("INFO", f"KV Transfer metrics: {numbers}")])


def start_up():
    return f"vllm cache_config_info with initialization after num_gpu_blocks is: {KV_BLOCKS}"


if __name__ == "__main__":
    lib.main()
