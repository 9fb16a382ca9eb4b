// aggregator/analysis/batched_block_residency.hpp: block residency for callers that have many
// blocks at a time. One stamp serves a batch, blocks outside the sample are counted and never
// stored, and nothing else is done before kBatch of a kind have come or somebody reads.
//
// The calls are published in their order with the times that they were made at, so that the result
// is that of single calls. Bounds: those of BlockResidency, fewer than kBatch waiting entries of
// each of the three kinds, and the batch of the caller.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <rankbus/aggregator/analysis/block_residency.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rankbus::analysis {

class BatchedBlockResidency {
 public:
  static constexpr std::size_t kBatch = 100;

  static Result<BatchedBlockResidency> create(const ResidencyConfig& config);

  void batch_allocate(std::uint64_t stream, std::span<const std::uint64_t> block_ids,
                      std::int64_t now_ns);
  void batch_access(std::uint64_t stream, std::span<const std::uint64_t> block_ids,
                    std::int64_t now_ns);
  void batch_evict_untrusted(std::uint64_t stream, std::span<const std::uint64_t> block_ids,
                             Instant now, std::string_view reason = "capacity");
  void forget(std::uint64_t stream);
  void flush_all();

  std::size_t pending() const {
    return std::accumulate(pending_of_kind_.begin(), pending_of_kind_.end(), std::size_t{0});
  }
  std::size_t stored() const { return queue_.size(); }  // Of the pending ones.
  // Without what is pending.
  const BlockResidency& published() const { return residency_; }
  // With everything; summaries, trends, alerts, events and exports are had from there.
  BlockResidency& flushed() {
    flush_all();
    return residency_;
  }
  CacheMetricsSummary summary() { return flushed().summary(); }

 private:
  enum class Kind : std::uint8_t { allocation, access, eviction };
  struct Entry {
    Kind kind = Kind::allocation;
    std::uint64_t stream = 0;
    std::uint64_t block_id = 0;
    Instant at;
    std::size_t reason = 0;  // In reasons_, of an eviction.
  };

  explicit BatchedBlockResidency(BlockResidency residency) : residency_(std::move(residency)) {}
  void add(Kind kind, std::uint64_t stream, std::span<const std::uint64_t> block_ids, Instant now,
           std::string_view reason);

  BlockResidency residency_;
  std::vector<Entry> queue_;  // Of sampled blocks, as called.
  std::vector<std::string> reasons_;
  std::array<std::size_t, 3> pending_of_kind_{};
  std::array<std::size_t, 3> unsampled_of_kind_{};  // Of those.
};

// Plain or batched, with the same settings.
using MetricsCollector = std::variant<BlockResidency, BatchedBlockResidency>;
Result<MetricsCollector> create_metrics_collector(double sample_rate = 0.01,
                                                  bool batch_mode = false,
                                                  ResidencyConfig config = {});

}  // namespace rankbus::analysis
