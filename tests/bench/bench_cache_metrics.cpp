// What cache metrics cost: an observation, and a reading after few and after many events.
#include <benchmark/benchmark.h>

#include <rankbus/aggregator/analysis/cache_level.hpp>
#include <rankbus/aggregator/analysis/prefix_metrics.hpp>

namespace {

using rankbus::CacheMetrics;

// A million lookups a second; latencies from 1 us to 1 ms.
std::uint64_t latency_ns(std::uint64_t i) {
  return 1000 + rankbus::mix_key(i) % 1'000'000;
}

void observe_hit(benchmark::State& state) {
  CacheMetrics cache;
  std::uint64_t i = 0;
  for (auto _ : state) {
    cache.observe_hit(static_cast<std::int64_t>(i) * 1000, 4096, latency_ns(i));
    ++i;
  }
}
BENCHMARK(observe_hit);

void observe_eviction(benchmark::State& state) {
  CacheMetrics cache;
  std::uint64_t i = 0;
  for (auto _ : state) {
    cache.observe_eviction(static_cast<std::int64_t>(i) * 1000, 1,
                           rankbus::CacheEvictionReason::lru, 4096, latency_ns(i));
    ++i;
  }
}
BENCHMARK(observe_eviction);

// Three of four prefixes are new.
void observe_prefix(benchmark::State& state) {
  rankbus::PrefixTracker prefixes;
  std::uint64_t i = 0;
  for (auto _ : state) {
    const std::uint64_t prefix = i % 4 == 0 ? i % 100 : i;
    prefixes.observe_hit(static_cast<std::int64_t>(i) * 1000, prefix, 1 + i % 8192);
    ++i;
  }
}
BENCHMARK(observe_prefix);

CacheMetrics after(std::int64_t events) {
  CacheMetrics cache;
  for (std::int64_t i = 0; i < events; ++i) {
    cache.observe_hit(i * (60'000'000'000 / events), 4096,
                      latency_ns(static_cast<std::uint64_t>(i)));
  }
  return cache;
}

void read_hit_rate(benchmark::State& state) {
  const CacheMetrics cache = after(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(cache.hit_rate(59'999'999'999));
}
BENCHMARK(read_hit_rate)->Arg(1'000)->Arg(1'000'000);

void read_window(benchmark::State& state) {
  const CacheMetrics cache = after(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(cache.window_activity(59'999'999'999));
}
BENCHMARK(read_window)->Arg(1'000)->Arg(1'000'000);

}  // namespace

BENCHMARK_MAIN();
