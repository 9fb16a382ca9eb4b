// aggregator/analysis/heavy_hitters.hpp: which keys come most often, of any number of keys.
//
// Misra-Gries with kCounters counters and room for as many newcomers: when the room is full, the
// count of rank kCounters + 1 is taken from every key, and keys without a count are forgotten. So
// for every key, tracked or not,
//     lower(key) <= true count <= lower(key) + error(), and error() <= total() / (kCounters + 1).
// A key with more than that share of all is always tracked. Up to 2 * kCounters different keys,
// counts are exact.
//
// Merging adds counts and then makes room in the same way (Agarwal et al., "Mergeable summaries"):
// it is exactly commutative, and the bounds hold for whatever tree of merges. Which keys near the
// bottom survive may depend on the tree; what is said about them stays true.
//
// Memory: one table of 16 bytes x 4 kCounters, made with the first key. A key costs a few
// nanoseconds, and every kCounters-th newcomer one pass over the table.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/distinct_counter.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <stdexcept>
#include <vector>

namespace rankbus {

template <std::size_t kCounters = 1024>
class HeavyHitters {
 public:
  struct Entry {
    std::uint64_t key = 0;
    std::uint64_t count = 0;  // At least; at most error() more. 0 only in an unused place.
    bool operator==(const Entry&) const = default;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(key, count);
    }
  };

  void add(std::uint64_t key, std::uint64_t times = 1) {
    if (times == 0) return;
    if (table_.empty()) table_.resize(kPlaces);
    add_saturating(total_, times);
    put({key, times});
    if (used_ > 2 * kCounters) rebuild(entries());
  }

  void aggregate(const HeavyHitters& other) {
    if (other.is_empty()) return;
    std::vector<Entry> both = entries();
    for (const Entry& theirs : other.entries()) both.push_back(theirs);
    std::sort(both.begin(), both.end(),
              [](const Entry& a, const Entry& b) { return a.key < b.key; });
    std::size_t kept = 0;
    for (std::size_t i = 1; i < both.size(); ++i) {
      if (both[i].key == both[kept].key) {
        add_saturating(both[kept].count, both[i].count);
      } else {
        both[++kept] = both[i];
      }
    }
    both.resize(std::min(both.size(), kept + 1));
    add_saturating(total_, other.total_);
    add_saturating(error_, other.error_);
    rebuild(std::move(both));
  }
  bool is_empty() const { return total_ == 0; }
  std::vector<Entry> reduce() const { return top(10); }
  void reset() { *this = {}; }

  std::uint64_t total() const { return total_; }
  // By how much any lower() may be too small.
  std::uint64_t error() const { return error_; }
  std::size_t tracked() const { return used_; }

  std::uint64_t lower(std::uint64_t key) const {
    return table_.empty() ? 0 : table_[place_of(key)].count;
  }
  std::uint64_t upper(std::uint64_t key) const {
    std::uint64_t count = lower(key);
    add_saturating(count, error_);
    return count;
  }

  // Most first; equal counts by key, so that the order does not depend on history.
  std::vector<Entry> top(std::size_t how_many) const {
    std::vector<Entry> all = entries();
    std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) {
      return a.count != b.count ? a.count > b.count : a.key < b.key;
    });
    all.resize(std::min(how_many, all.size()));
    return all;
  }

  // The same statements about the same keys.
  bool operator==(const HeavyHitters& other) const {
    return total_ == other.total_ && error_ == other.error_ && used_ == other.used_ &&
           top(used_) == other.top(used_);
  }

  // Reading throws where the bytes are no such table.
  template <class Archive>
  void serialize(Archive& archive) {
    std::vector<Entry> stored;
    if constexpr (!Archive::is_loading::value) stored = top(used_);
    archive(stored, total_, error_);
    if constexpr (Archive::is_loading::value) {
      const bool is_sound = stored.size() <= 2 * kCounters && stored.empty() == (total_ == 0) &&
                            std::none_of(stored.begin(), stored.end(),
                                         [](const Entry& entry) { return entry.count == 0; });
      if (!is_sound) {
        reset();
        throw std::runtime_error("stored heavy hitters: more keys, or fewer counts, than can be");
      }
      rebuild(std::move(stored));
    }
  }

 private:
  static_assert(kCounters >= 1);
  // Half empty but for one key at the fullest, so that a search is short and ends.
  static constexpr std::size_t kPlaces = std::bit_ceil(4 * kCounters);

  // Where the key is, or would be.
  std::size_t place_of(std::uint64_t key) const {
    auto place = static_cast<std::size_t>(mix_key(key)) & (kPlaces - 1);
    while (table_[place].count != 0 && table_[place].key != key) {
      place = (place + 1) & (kPlaces - 1);
    }
    return place;
  }
  void put(const Entry& entry) {
    Entry& place = table_[place_of(entry.key)];
    if (place.count == 0) ++used_;
    place.key = entry.key;
    add_saturating(place.count, entry.count);
  }
  std::vector<Entry> entries() const {
    std::vector<Entry> all;
    all.reserve(used_);
    for (const Entry& entry : table_) {
      if (entry.count != 0) all.push_back(entry);
    }
    return all;
  }

  // The table of these keys. Where they are too many, the same is taken from at least
  // kCounters + 1 of them, which is why error() can never pass its share of the total.
  void rebuild(std::vector<Entry> all) {
    std::uint64_t taken = 0;
    if (all.size() > 2 * kCounters) {
      const auto cut = all.begin() + static_cast<std::ptrdiff_t>(kCounters);
      std::nth_element(all.begin(), cut, all.end(),
                       [](const Entry& a, const Entry& b) { return a.count > b.count; });
      taken = cut->count;
    }
    add_saturating(error_, taken);
    table_.assign(kPlaces, Entry{});
    used_ = 0;
    for (const Entry& entry : all) {
      if (entry.count > taken) put({entry.key, entry.count - taken});
    }
  }

  std::vector<Entry> table_;
  std::size_t used_ = 0;
  std::uint64_t total_ = 0;
  std::uint64_t error_ = 0;
};

static_assert(Accumulates<HeavyHitters<>>);

}  // namespace rankbus
