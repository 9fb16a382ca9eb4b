// aggregator/cache_window.hpp: hit rate over the latest requests, as vLLM logs it.
#pragma once

#include <cstdint>
#include <deque>
#include <rankbus/aggregator/snapshot.hpp>

namespace rankbus {

// vLLM's CachingMetrics (vllm/v1/metrics/stats.py): updates are kept whole, the oldest leave while
// more than `max_requests` are summed, and the newest always stays. A reset of the cache clears the
// window; an update without requests stores nothing.
class CacheHitWindow {
 public:
  explicit CacheHitWindow(std::uint64_t max_requests = 1000) : max_requests_(max_requests) {}

  void observe(bool reset, std::uint64_t requests, std::uint64_t queries, std::uint64_t hits) {
    if (reset) {
      updates_.clear();
      sum_ = CacheWindow{};
    }
    if (requests == 0) return;
    updates_.push_back({requests, queries, hits});
    sum_.requests += requests;
    sum_.queries += queries;
    sum_.hits += hits;
    while (updates_.size() > 1 && sum_.requests > max_requests_) {
      const CacheWindow& oldest = updates_.front();
      sum_.requests -= oldest.requests;
      sum_.queries -= oldest.queries;
      sum_.hits -= oldest.hits;
      updates_.pop_front();
    }
  }
  const CacheWindow& sum() const { return sum_; }

 private:
  std::uint64_t max_requests_;
  std::deque<CacheWindow> updates_;
  CacheWindow sum_;
};

}  // namespace rankbus
