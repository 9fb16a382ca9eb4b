"""What the aggregator must say of an engine, computed from the simulator's event log in plain Python.

Nothing here is shared with the C++: rules and formulas are written out again from the documentation
(aggregator/analysis/README.md, CACHES.md, bus/sampling.hpp). Exact lists and dicts, no sketch anywhere. Lines are
described in producer/simulator/event_log.hpp.
"""

import collections
import csv
import math
import pathlib

MASK = (1 << 64) - 1
WINDOW_NS = 60_000_000_000
SLOT_NS = 1_000_000_000
HISTORY = 1000
TREND_WINDOW = 100
GAP_STAMPS = 10
RECENT_LENGTHS = 1000


def is_sampled(block_id, rate):
    """bus/sampling.hpp: the finalizer of splitmix64, its top 53 bits as a share of 1."""
    bits = (block_id + 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    bits ^= bits >> 31
    return (bits >> 11) / (1 << 53) < rate


def truncated_quantile(values, share):
    """The element at index trunc(share x count), or the last one; 0 if there is none."""
    if not values:
        return 0
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def mean(values):
    return math.fsum(values) / len(values) if values else 0.0


def in_window(time_ns, now_ns, window_ns=WINDOW_NS, slot_ns=SLOT_NS):
    """Whether an event's slot began less than the window's length ago (sliding_window.hpp)."""
    return now_ns - window_ns < time_ns // slot_ns * slot_ns and time_ns // slot_ns <= now_ns // slot_ns


Lookup = collections.namedtuple("Lookup", "time hits misses hit_bytes miss_bytes latency prefix length")
Eviction = collections.namedtuple("Eviction", "time reason blocks bytes latency followed unused")
Write = collections.namedtuple("Write", "time bytes")
Life = collections.namedtuple("Life", "lifetime idle accesses gaps")


class Window:
    """What happened to one level in the window at a moment."""

    def __init__(self, level, now_ns):
        self.lookups = [one for one in level.lookups if in_window(one.time, now_ns)]
        self.evictions = [one for one in level.evictions if in_window(one.time, now_ns)]
        self.hits = sum(one.hits for one in self.lookups)
        self.misses = sum(one.misses for one in self.lookups)

    def hit_rate(self):
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    def latencies(self):
        return [one.latency for one in self.lookups if one.latency for _ in range(one.hits + one.misses)]

    def latency_quantile(self, share):
        return truncated_quantile(self.latencies(), share)

    def lookup_stats(self):
        times = [one.time for one in self.lookups]
        duration = (max(times) - min(times)) / 1e9 if times else 0.0
        moved = sum(one.hit_bytes + one.miss_bytes for one in self.lookups)
        return {
            "hits": self.hits,
            "misses": self.misses,
            "hit_rate": self.hit_rate(),
            "avg_latency_ns": mean(self.latencies()),
            "window_duration": duration,
            "bytes_per_second": moved / duration if duration else 0.0,
        }

    def eviction_stats(self):
        return {
            "by_reason": dict(collections.Counter(one.reason for one in self.evictions)),
            "blocks": sum(one.blocks for one in self.evictions),
            "bytes_freed": sum(one.bytes for one in self.evictions),
            "avg_latency_ns": mean([one.latency for one in self.evictions if one.latency]),
        }

    def efficiency(self):
        followed = sum(one.followed for one in self.evictions)
        unused = sum(one.unused for one in self.evictions)
        return self.hit_rate() * (1 - (unused / followed if followed else 0))


class Level:
    """One level of the caches."""

    def __init__(self):
        self.lookups, self.evictions, self.writes = [], [], []
        self.written = self.freed = self.capacity = 0

    def window(self, now_ns):
        return Window(self, now_ns)

    def totals(self):
        return sum(one.hits for one in self.lookups), sum(one.misses for one in self.lookups)

    def evictions_by_reason(self):
        return dict(collections.Counter(one.reason for one in self.evictions))

    def eviction_latency_quantile(self, share):
        return truncated_quantile([one.latency for one in self.evictions if one.latency], share)

    def lifetime(self):
        hits, misses = self.totals()
        out = {
            "total_hits": hits,
            "total_misses": misses,
            "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "total_evictions": len(self.evictions),
            "total_evicted_blocks": sum(one.blocks for one in self.evictions),
            "total_bytes_read": sum(one.hit_bytes for one in self.lookups),
            "total_bytes_written": self.written,
            "total_bytes_freed": self.freed,
            "current_size_bytes": self.written - self.freed,
            "avg_eviction_latency_ns": mean([one.latency for one in self.evictions if one.latency]),
        }
        return out | ({"capacity_bytes": self.capacity} if self.capacity else {})

    def growth(self, now_ns):
        """Written less freed bytes of the window, per second of it that was watched."""
        window = [one.bytes for one in self.writes if in_window(one.time, now_ns)]
        freed = [one.bytes for one in self.evictions if in_window(one.time, now_ns)]
        began = min(one.time for one in (*self.lookups, *self.evictions, *self.writes))
        oldest_slot = min(now_ns, ((now_ns - WINDOW_NS) // SLOT_NS + 1) * SLOT_NS)
        return (sum(window) - sum(freed)) / ((now_ns - max(oldest_slot, began)) / 1e9)

    def eviction_rate(self, now_ns):
        """event_rates.hpp: of rings of 128 slots that span 2^31 ns and more, the finest that reaches back a minute."""
        span_ns = 1 << 31
        while span_ns < WINDOW_NS:
            span_ns <<= 1
        slot_ns = span_ns // 128
        return sum(in_window(one.time, now_ns, WINDOW_NS, slot_ns) for one in self.evictions) / 60


class Prefixes:
    """The prefixes of the level `prefix`."""

    def __init__(self):
        self.hits = collections.Counter()
        self.lengths = []

    def length_buckets(self):
        """(up to, count) for 0, 1, 3, 7, ... to the first that holds the longest."""
        counts = collections.Counter(length.bit_length() for length in self.lengths)
        return [((1 << bits) - 1, counts[bits]) for bits in range(max(self.lengths).bit_length() + 1)]

    def latest_mean(self):
        return mean(self.lengths[-RECENT_LENGTHS:])


class Oracle:
    """Everything about one engine."""

    PHASES = ("schedule", "model_forward", "model_execute", "sample", "all_reduce", "cache_swap")

    def __init__(self, log, engine, sample_rate):
        self.rate = sample_rate
        self.counts = collections.Counter()
        self.lives = {}  # Of sampled blocks: birth, stamps of accesses.
        self.ended = []  # Lives of sampled blocks, oldest first.
        self.levels = collections.defaultdict(Level)
        self.prefixes = Prefixes()
        self.phases = collections.Counter()
        self.steps = self.queries = self.hits = 0
        self.request_evictions = []
        first = pathlib.Path(f"{log}.engine{engine}")
        for path in (first, *sorted(first.parent.glob(f"{first.name}.front*"))):
            with path.open() as lines:
                for kind, time, *rest in csv.reader(lines):
                    getattr(self, f"add_{kind}")(int(time), *rest)
        self.sampled_evictions = len(self.ended)

    # Lines of the log, by their first word.

    def add_block(self, time, operation, block):
        self.counts[operation] += 1
        block = int(block)
        if not is_sampled(block, self.rate):
            return
        if operation == "allocate":
            self.lives[block] = (time, [])
        elif operation == "access":
            self.lives[block][1].append(time)
        else:
            birth, accesses = self.lives.pop(block)
            stamps = accesses[-GAP_STAMPS:]
            gaps = [(after - before) / 1e9 for before, after in zip(stamps, stamps[1:])]
            last = accesses[-1] if accesses else birth
            self.ended.append(Life((time - birth) / 1e9, (time - last) / 1e9, len(accesses), gaps))

    def add_lookup(self, time, level, *numbers):
        lookup = Lookup(time, *map(int, numbers))
        self.levels[level].lookups.append(lookup)
        if lookup.length:
            self.prefixes.lengths.append(lookup.length)
            if lookup.hits:
                self.prefixes.hits[lookup.prefix] += 1

    def add_write(self, time, level, written, capacity):
        one = self.levels[level]
        one.writes.append(Write(time, int(written)))
        one.written += int(written)
        one.capacity = int(capacity)

    def add_evict(self, time, level, reason, *numbers):
        eviction = Eviction(time, reason, *map(int, numbers))
        self.levels[level].evictions.append(eviction)
        self.levels[level].freed += eviction.bytes

    def add_request_evict(self, time, reason, request, blocks):
        event = {"timestamp": time / 1e9, "request_id": f"{int(request):016x}", "num_blocks": int(blocks)}
        self.request_evictions.append(event | {"reason": reason})

    def add_step(self, _time, _number, queries, hits, *phases_ns):
        self.steps += 1
        self.queries += int(queries)
        self.hits += int(hits)
        for name, phase_ns in zip(self.PHASES, phases_ns, strict=True):
            self.phases[name] += int(phase_ns)

    # Figures, under the names that the aggregator gives them.

    def newest(self):
        return self.ended[-HISTORY:]

    def followed_now(self):
        return len(self.lives)

    def block_counters(self):
        return {
            "total_allocations": self.counts["allocate"],
            "total_accesses": self.counts["access"],
            "total_evictions": self.counts["evict"],
        }

    def block_summary(self):
        newest = self.newest()
        lifetimes = [life.lifetime for life in newest]
        return {
            "total_blocks_sampled": len(newest) + self.followed_now(),
            "total_evictions": len(newest),
            "avg_lifetime_seconds": mean(lifetimes),
            "avg_idle_seconds": mean([life.idle for life in newest]),
            "avg_access_count": mean([life.accesses for life in newest]),
            "avg_reuse_gap_seconds": mean([gap for life in newest for gap in life.gaps]),
            "p50_lifetime": truncated_quantile(lifetimes, 0.50),
            "p95_lifetime": truncated_quantile(lifetimes, 0.95),
            "p99_lifetime": truncated_quantile(lifetimes, 0.99),
            "hit_rate_estimate": sum(life.accesses > 1 for life in newest) / len(newest),
        }

    def access_patterns(self):
        newest = self.newest()
        gaps = [gap for life in newest for gap in life.gaps]
        out = {
            "zero_access_rate": sum(life.accesses == 0 for life in newest) / len(newest),
            "single_access_rate": sum(life.accesses == 1 for life in newest) / len(newest),
            "multi_access_rate": sum(life.accesses > 1 for life in newest) / len(newest),
            "max_access_count": max(life.accesses for life in newest),
            "avg_access_count": mean([life.accesses for life in newest]),
        }
        if gaps:
            out |= {"avg_reuse_gap": mean(gaps), "min_reuse_gap": min(gaps), "max_reuse_gap": max(gaps)}
        return out

    def lifetime_distribution(self, buckets=10):
        lifetimes = [life.lifetime for life in self.newest()]
        start, longest = min(lifetimes), max(lifetimes)
        width = (longest - start) / buckets
        counts = [0] * buckets
        for lifetime in lifetimes:
            counts[min(int((lifetime - start) / width), buckets - 1)] += 1
        out = collections.Counter()
        for i, count in enumerate(counts):
            if count:
                out[f"{start + i * width:.2f}-{start + i * width + width:.2f}"] += count
        return dict(out)

    def trends(self):
        window = self.newest()[-TREND_WINDOW:]

        def trend(values):
            middle = (len(values) - 1) / 2
            center = mean(values)
            along = math.fsum((i - middle) * (value - center) for i, value in enumerate(values))
            slope = along / math.fsum((i - middle) ** 2 for i in range(len(values)))
            direction = "increasing" if slope > 0.01 else "decreasing" if slope < -0.01 else "stable"
            return {"direction": direction, "slope": slope, "recent_mean": center}

        return {
            "status": "ok",
            "lifetime_trend": trend([life.lifetime for life in window]),
            "idle_trend": trend([life.idle for life in window]),
            "access_count_trend": trend([float(life.accesses) for life in window]),
        }

    def block_alerts(self):
        """How often a lifetime was 3 (from 4 on critical) deviations from the 99 before it, or nobody had accessed."""
        raised = dict.fromkeys([("LIFETIME", "WARNING"), ("LIFETIME", "CRITICAL"), ("ACCESS_COUNT", "INFO")], 0)
        for at in range(TREND_WINDOW - 1, len(self.ended)):
            others = [life.lifetime for life in self.ended[at - TREND_WINDOW + 1 : at]]
            center = mean(others)
            deviation = math.sqrt(math.fsum((one - center) ** 2 for one in others) / (len(others) - 1))
            score = abs(self.ended[at].lifetime - center) / deviation if deviation else 0
            if score > 3:
                raised["LIFETIME", "CRITICAL" if score >= 4 else "WARNING"] += 1
            if self.ended[at].accesses == 0:
                raised["ACCESS_COUNT", "INFO"] += 1
        return raised

    def combined_hit_rate(self):
        hits, misses = map(sum, zip(*(level.totals() for level in self.levels.values())))
        return hits / (hits + misses)

    def utilization(self):
        """What the caches hold / what they can hold; None if one of them has no bound."""
        holding = [level for level in self.levels.values() if level.written]
        if not all(level.capacity for level in holding):
            return None
        return sum(level.written - level.freed for level in holding) / sum(level.capacity for level in holding)

    def eviction_rate(self, now_ns):
        return math.fsum(level.eviction_rate(now_ns) for level in self.levels.values())

    def prefix_cache(self):
        return {"num_tokens": self.queries, "num_hits": self.hits, "num_misses": self.queries - self.hits}

    def step_times(self):
        together = sum(ns for name, ns in self.phases.items() if name != "model_execute")
        times = {f"{name}_time_ms": ns / 1e6 for name, ns in self.phases.items()}
        return times | {"num_steps": self.steps, "total_time_ms": together / 1e6}
