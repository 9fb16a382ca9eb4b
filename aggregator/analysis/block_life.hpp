// aggregator/analysis/block_life.hpp: the life of one KV block, from allocation to eviction.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/instant.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <string>
#include <vector>

namespace rankbus::analysis {

// A block that is being followed. Of its accesses, the last kStamps stamps are kept.
class BlockLife {
 public:
  static constexpr std::size_t kStamps = 10;

  BlockLife() = default;
  explicit BlockLife(std::int64_t birth_ns) : birth_ns_(birth_ns), last_access_ns_(birth_ns) {}

  // A stamp before the last one counts as that one: there are no negative gaps.
  void record_access(std::int64_t now_ns, bool keeps_stamp = true) {
    last_access_ns_ = std::max(now_ns, last_access_ns_);
    add_saturating(access_count_, 1);
    if (!keeps_stamp) return;
    if (stamp_count_ == kStamps) {
      std::move(stamps_ns_.begin() + 1, stamps_ns_.end(), stamps_ns_.begin());
      --stamp_count_;
    }
    stamps_ns_[stamp_count_++] = last_access_ns_;
  }

  std::int64_t birth_ns() const { return birth_ns_; }
  std::int64_t last_access_ns() const { return last_access_ns_; }  // Or birth.
  std::uint64_t access_count() const { return access_count_; }
  std::int64_t lifetime_ns(std::int64_t now_ns) const { return elapsed_ns(birth_ns_, now_ns); }
  std::int64_t idle_ns(std::int64_t now_ns) const { return elapsed_ns(last_access_ns_, now_ns); }
  // Between neighbouring stamps; from birth to the first access is no gap.
  std::vector<std::int64_t> reuse_gaps_ns() const {
    std::vector<std::int64_t> gaps;
    for (std::size_t i = 1; i < stamp_count_; ++i) {
      gaps.push_back(elapsed_ns(stamps_ns_[i - 1], stamps_ns_[i]));
    }
    return gaps;
  }
  // Accesses per second; 0 at no lifetime.
  double access_frequency(std::int64_t now_ns) const {
    const std::int64_t lifetime = lifetime_ns(now_ns);
    return lifetime == 0 ? 0 : static_cast<double>(access_count_) / seconds_of(lifetime);
  }

  friend auto operator<=>(const BlockLife&, const BlockLife&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(birth_ns_, last_access_ns_, access_count_, stamp_count_, stamps_ns_);
    stamp_count_ = std::min<std::uint64_t>(stamp_count_, kStamps);
  }

 private:
  std::int64_t birth_ns_ = 0;
  std::int64_t last_access_ns_ = 0;
  std::uint64_t access_count_ = 0;
  std::uint64_t stamp_count_ = 0;
  std::array<std::int64_t, kStamps> stamps_ns_{};
};

// How the life of a followed block ended.
struct BlockEviction {
  std::int64_t evicted_ns = 0;
  std::uint64_t stream = 0;
  std::uint64_t number = 0;  // Orders evictions of one stream at one time.
  std::uint64_t block_id = 0;
  std::int64_t lifetime_ns = 0;
  std::optional<std::int64_t> idle_ns;  // None where no detail is kept.
  std::uint64_t access_count = 0;
  std::vector<std::int64_t> reuse_gaps_ns;
  double timestamp = 0;  // Seconds since the epoch.
  std::string reason;
  bool is_drained = false;

  double lifetime_s() const { return seconds_of(lifetime_ns); }

  Json as_dict() const {
    Json gaps = Json::array();
    for (const std::int64_t gap : reuse_gaps_ns) gaps.push_back(seconds_of(gap));
    return {{"block_id", block_id},
            {"lifetime_seconds", lifetime_s()},
            {"idle_seconds", idle_ns ? Json(seconds_of(*idle_ns)) : Json()},
            {"access_count", access_count},
            {"reuse_gaps_seconds", gaps},
            {"timestamp", timestamp},
            {"reason", reason}};
  }

  // By time, then by stream, then as they came: the same order however streams were read.
  bool is_before(const BlockEviction& other) const {
    if (evicted_ns != other.evicted_ns) return evicted_ns < other.evicted_ns;
    if (stream != other.stream) return stream < other.stream;
    return number < other.number;
  }

  friend bool operator==(const BlockEviction&, const BlockEviction&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(evicted_ns, stream, number, block_id, lifetime_ns, idle_ns, access_count, reuse_gaps_ns,
            timestamp, reason, is_drained);
  }
};

}  // namespace rankbus::analysis
