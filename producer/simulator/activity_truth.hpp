// What /metrics must say of caches, KV blocks, phases and adapters after a run: the third part of
// truth.hpp, by the same rules.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <rankbus/producer/simulator/cache_model.hpp>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <rankbus/producer/simulator/step_time.hpp>
#include <rankbus/producer/simulator/truth_series.hpp>
#include <type_traits>

namespace rankbus::simulator {

// A level is shown once it was reported, and a reason once it was given.
struct CacheLevelTruth {
  bool looked_up = false;
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t hit_bytes = 0;
  bool stored = false;
  std::uint64_t written_bytes = 0;
  std::uint64_t capacity_bytes = 0;  // 0: no bound
  std::uint64_t freed_bytes = 0;
  std::array<std::uint64_t, kEvictionCauses> evictions{};
  std::array<std::uint64_t, kEvictionCauses> evicted_blocks{};
};

// In the order of its words on /metrics.
enum class BlockOperation : std::uint8_t { allocate, access, evict };
inline constexpr std::array kBlockOperationNames = {"allocate", "access", "evict"};

// The gauges of one LoRA adapter.
struct AdapterTruth {
  bool reported = false;
  AdapterUse use;
};

// Plain memory, as EngineTruth is.
struct ActivityTruth {
  static constexpr std::size_t kMostAdapters = 64;

  std::array<CacheLevelTruth, kCacheLevels> levels{};
  std::array<std::uint64_t, kBlockOperationNames.size()> block_operations{};
  std::uint64_t request_evictions = 0;
  std::uint64_t request_evicted_blocks = 0;
  std::uint64_t timed_steps = 0;
  PhaseTimes phases;
  std::array<std::uint64_t, kCudaGraphModeNames.size()> capture_ns{};
  std::array<std::uint64_t, kCudaGraphModeNames.size()> replay_ns{};
  std::uint64_t graph_memory_bytes = 0;
  std::array<AdapterTruth, kMostAdapters + 1> adapters{};  // by number
  bool has_wave = false;
  std::uint64_t wave = 0;

  void observe(const LookupOutcome& outcome);
  void observe(const StorageOutcome& outcome);
  void observe(const EvictionOutcome& outcome);
  void observe(BlockOperation operation, std::uint64_t blocks);
  void observe_request_eviction(std::uint64_t blocks);
  void observe(const PhaseTimes& step);
  void observe_capture(CudaGraphMode mode, const CudaGraphCapture& capture);
  void observe_replay(CudaGraphMode mode, std::uint64_t duration_ns);
  void observe_adapter(std::uint32_t adapter, const AdapterUse& use);
  void observe_wave(std::uint64_t number);

  // Adds another process's share. Gauges are of one process only, but capacities add up.
  void add(const ActivityTruth& other);
};
static_assert(std::is_trivially_copyable_v<ActivityTruth>, "it is read by another process");

// Writes the series of one engine.
void write_activity(SeriesWriter& out, const ActivityTruth& truth);

}  // namespace rankbus::simulator
