#include <rankbus/aggregator/analysis/batched_block_residency.hpp>

namespace rankbus::analysis {

Result<BatchedBlockResidency> BatchedBlockResidency::create(const ResidencyConfig& config) {
  Result<BlockResidency> residency = BlockResidency::create(config);
  if (!residency) return Error{residency.error()};
  return BatchedBlockResidency(std::move(*residency));
}

void BatchedBlockResidency::batch_allocate(std::uint64_t stream,
                                           std::span<const std::uint64_t> block_ids,
                                           std::int64_t now_ns) {
  add(Kind::allocation, stream, block_ids, {now_ns, 0}, {});
}

void BatchedBlockResidency::batch_access(std::uint64_t stream,
                                         std::span<const std::uint64_t> block_ids,
                                         std::int64_t now_ns) {
  add(Kind::access, stream, block_ids, {now_ns, 0}, {});
}

void BatchedBlockResidency::batch_evict_untrusted(std::uint64_t stream,
                                                  std::span<const std::uint64_t> block_ids,
                                                  Instant now, std::string_view reason) {
  add(Kind::eviction, stream, block_ids, now, reason);
}

void BatchedBlockResidency::add(Kind kind, std::uint64_t stream,
                                std::span<const std::uint64_t> block_ids, Instant now,
                                std::string_view reason) {
  if (block_ids.empty()) return;
  if (kind == Kind::eviction && (reasons_.empty() || reasons_.back() != reason)) {
    reasons_.push_back(clean_text_untrusted(reason, BlockResidency::kMaxReasonBytes));
  }
  const std::size_t reason_at = reasons_.empty() ? 0 : reasons_.size() - 1;
  std::size_t unsampled = 0;
  for (const std::uint64_t block_id : block_ids) {
    if (residency_.should_sample(block_id)) {
      queue_.push_back({kind, stream, block_id, now, reason_at});
    } else {
      ++unsampled;
    }
  }
  unsampled_of_kind_[static_cast<std::size_t>(kind)] += unsampled;
  std::size_t& pending = pending_of_kind_[static_cast<std::size_t>(kind)];
  pending += block_ids.size();
  // What waits of other kinds was called before: it goes first, and so goes along.
  if (pending >= kBatch) flush_all();
}

void BatchedBlockResidency::forget(std::uint64_t stream) {
  flush_all();
  residency_.forget(stream);
}

void BatchedBlockResidency::flush_all() {
  const auto [allocations, accesses, evictions] = unsampled_of_kind_;
  residency_.count_unsampled(allocations, accesses, evictions);
  for (const Entry& entry : queue_) {
    switch (entry.kind) {
      case Kind::allocation:
        residency_.on_allocated(entry.stream, entry.block_id, entry.at.monotonic_ns);
        break;
      case Kind::access:
        residency_.on_accessed(entry.stream, entry.block_id, entry.at.monotonic_ns);
        break;
      case Kind::eviction:
        residency_.on_evicted_untrusted(entry.stream, entry.block_id, entry.at,
                                        reasons_[entry.reason]);
        break;
    }
  }
  queue_.clear();
  reasons_.clear();
  pending_of_kind_ = {};
  unsampled_of_kind_ = {};
}

Result<MetricsCollector> create_metrics_collector(double sample_rate, bool batch_mode,
                                                  ResidencyConfig config) {
  config.sample_rate = sample_rate;
  if (batch_mode) {
    Result<BatchedBlockResidency> batched = BatchedBlockResidency::create(config);
    if (!batched) return Error{batched.error()};
    return MetricsCollector(std::move(*batched));
  }
  Result<BlockResidency> plain = BlockResidency::create(config);
  if (!plain) return Error{plain.error()};
  return MetricsCollector(std::move(*plain));
}

}  // namespace rankbus::analysis
