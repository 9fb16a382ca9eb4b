// What /metrics must say of the features after a run: the second half of truth.hpp, by the same
// rules. Each process counts its own share; the parent adds them up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <rankbus/producer/simulator/activity_truth.hpp>
#include <rankbus/producer/simulator/block_residency.hpp>
#include <rankbus/producer/simulator/connector_model.hpp>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <rankbus/producer/simulator/features.hpp>
#include <rankbus/producer/simulator/step_features.hpp>
#include <rankbus/producer/simulator/truth_series.hpp>
#include <string_view>
#include <type_traits>

namespace rankbus::simulator {

// Which configuration makes a series appear.
enum class FeatureFamily : std::uint8_t {
  always,
  corrupted,
  residency,
  speculation,
  diffusion,
  perf,
  nixl,
  moriio,
  offloading,
  hisparse,
};
bool is_configured(FeatureFamily family, const FeatureOptions& features);

enum class FeatureCounter : std::size_t {
  external_queries,
  external_hits,
  multimodal_queries,
  multimodal_hits,
  corrupted,
  drafts,
  draft_tokens,
  accepted_tokens,
  denoising_steps,
  canvas_positions,
  committed_tokens,
  flops,
  read_bytes,
  write_bytes,
  nixl_failed_transfers,
  nixl_failed_notifications,
  nixl_expired,
  moriio_failed_transfers,
  moriio_failed_notifications,
  moriio_expired,
  load_bytes,
  store_bytes,
  stores_skipped,
  allocation_failures,
  hisparse_hits,
  hisparse_misses,
  hisparse_bytes,
  count_of_counters,
};
inline constexpr auto kFeatureCounters =
    static_cast<std::size_t>(FeatureCounter::count_of_counters);

enum class FeatureHistogram : std::size_t {
  block_lifetime,
  block_idle,
  block_reuse_gap,
  nixl_transfer_time,
  nixl_post_time,
  nixl_bytes,
  nixl_descriptors,
  moriio_transfer_time,
  moriio_post_time,
  moriio_bytes,
  moriio_descriptors,
  load_size,
  store_size,
  allocation_size,
  lookup_sync_delay,
  lookup_async_delay,
  count_of_histograms,
};
inline constexpr auto kFeatureHistograms =
    static_cast<std::size_t>(FeatureHistogram::count_of_histograms);

// One operation of the Mooncake store with one status. Such series appear on first use.
struct StoreOperationTruth {
  std::uint64_t operations = 0;
  std::uint64_t keys = 0;
  std::uint64_t bytes = 0;
  std::uint64_t failed_keys = 0;
  TruthCells seconds;
};

// Gauges of which the newest stands.
struct CpuCacheTruth {
  bool reported = false;
  std::uint64_t stamp = 0;
  double usage = 0;
  double write_usage = 0;
  double read_usage = 0;
};

// Plain memory, as EngineTruth is.
struct FeatureTruth {
  std::array<std::uint64_t, kFeatureCounters> counters{};
  std::array<TruthCells, kFeatureHistograms> histograms{};
  std::array<std::uint64_t, kMostDraftTokens> accepted_at{};
  std::array<std::array<StoreOperationTruth, kStoreStatuses.size()>, kStoreOperations.size()>
      store_operations{};
  ActivityTruth activity;
  double load_s = 0;
  double store_s = 0;
  CpuCacheTruth cpu_cache;
  std::uint32_t sleep_level = 0;  // 0: awake
  bool lora_reported = false;
  std::array<char, 2048> lora_adapters{};  // joined by commas, NUL-terminated

  void observe(const SchedulerCounts& counts);
  void observe(const SpeculationOutcome& outcome);
  void observe(const DiffusionOutcome& outcome);
  void observe(const WorkEstimate& estimate);
  void observe(const BlockEviction& eviction);
  void observe(Connector connector, const TransferOutcome& transfer);
  void observe(const StoreOperationOutcome& operation);
  void observe(const OffloadingOutcome& outcome, std::uint64_t stamp);
  void observe(const HiSparseOutcome& outcome);
  void observe_images(std::uint64_t queries, std::uint64_t hits);
  void observe_corrupted(std::uint64_t requests);
  void observe_lora(std::string_view adapters);

  // Adds another process's share. Of equally new gauges the later argument's stand.
  void add(const FeatureTruth& other);

 private:
  void count(FeatureCounter counter, std::uint64_t amount);
  void count(FeatureHistogram histogram, double value);
};
static_assert(std::is_trivially_copyable_v<FeatureTruth>, "it is read by another process");

// Writes the series of one engine.
void write_features(SeriesWriter& out, const FeatureTruth& truth, const FeatureOptions& features,
                    std::uint32_t kv_blocks);

}  // namespace rankbus::simulator
