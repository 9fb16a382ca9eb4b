// aggregator/connector_stats.hpp: what KV connectors report, as values that pool and reduce.
//
// One type per connector of vLLM's and one for a user's own. Each Accumulates; reduce() gives the
// names and numbers of vLLM's "KV Transfer metrics" line, in its order and with its rounding. Each
// is a value that cereal can store: include the cereal headers of the types that are used (vector,
// string, utility, variant), and archive(stats).
//
// Memory is bounded: 800 KB per list of observations (observations.hpp), kMaxKeys names. Numbers
// that are not finite are left out, as they are from the totals of a stream.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/observations.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/aggregator/transfer_stats.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rankbus {

// Operations by name. Beyond kMaxKeys names, further ones count as `other`, as on the bus.
class MooncakeStoreStats {
 public:
  struct Operation {
    double duration_s = 0;
    std::uint64_t keys = 0;
    std::uint64_t bytes = 0;
    std::uint64_t failed_keys = 0;
    bool is_error = false;  // Its status is the word `error`.
  };

  void add(std::string_view name, const Operation& operation) {
    Pool& pool = pool_of(name);
    if (!pool.durations_s.add(operation.duration_s)) return;
    add_saturating(pool.keys, operation.keys);
    add_saturating(pool.bytes, operation.bytes);
    add_saturating(pool.failed_keys, operation.failed_keys);
    pool.errors += operation.is_error ? 1 : 0;
  }

  void aggregate(const MooncakeStoreStats& other) {
    for (const auto& [name, theirs] : other.pools_) {
      Pool& pool = pool_of(name);
      pool.durations_s.aggregate(theirs.durations_s);
      add_saturating(pool.keys, theirs.keys);
      add_saturating(pool.bytes, theirs.bytes);
      add_saturating(pool.failed_keys, theirs.failed_keys);
      add_saturating(pool.errors, theirs.errors);
    }
  }
  bool is_empty() const { return pools_.empty(); }
  ReducedStats reduce() const {
    ReducedStats out;
    for (const auto& [name, pool] : pools_) {
      const double p90_s = pool.durations_s.nearest_rank_percentile(0.9);
      out.emplace_back(name + "_count", pool.durations_s.count());
      out.emplace_back(name + "_avg_ms", round_as_python(pool.durations_s.mean() * 1e3, 3));
      out.emplace_back(name + "_p90_ms", round_as_python(p90_s * 1e3, 3));
      out.emplace_back(name + "_total_keys", pool.keys);
      out.emplace_back(name + "_total_bytes", pool.bytes);
      out.emplace_back(name + "_failed_keys", pool.failed_keys);
      out.emplace_back(name + "_error_count", pool.errors);
    }
    return out;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(pools_);
  }

 private:
  struct Pool {
    Observations durations_s;
    std::uint64_t keys = 0;
    std::uint64_t bytes = 0;
    std::uint64_t failed_keys = 0;
    std::uint64_t errors = 0;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(durations_s, keys, bytes, failed_keys, errors);
    }
  };

  Pool& pool_of(std::string_view name) {
    const auto by_name = [](const auto& pool, std::string_view wanted) {
      return pool.first < wanted;
    };
    auto at = std::lower_bound(pools_.begin(), pools_.end(), name, by_name);
    if (at != pools_.end() && at->first == name) return at->second;
    if (pools_.size() + 1 >= kMaxKeys && name != "other") return pool_of("other");
    return pools_.emplace(at, std::string(name), Pool{})->second;
  }

  std::vector<std::pair<std::string, Pool>> pools_;  // Sorted by name.
};

// ('CPU_to_GPU',): a tuple of texts as Python prints it.
inline std::string python_tuple(const std::vector<std::string>& texts) {
  std::string out = "(";
  for (const std::string& text : texts) {
    const bool has_apostrophe = text.find('\'') != std::string::npos;
    const char quote = has_apostrophe && text.find('"') == std::string::npos ? '"' : '\'';
    if (out.size() > 1) out += ", ";
    out += quote;
    for (const char c : text) {
      if (c == '\\' || c == quote) out += '\\';
      out += c;
    }
    out += quote;
  }
  return out + (texts.size() == 1 ? ",)" : ")");
}

// Counters, gauges and histograms by metric name and, where a metric has labels, their values.
class OffloadingStats {
 public:
  using LabelValues = std::vector<std::string>;

  void add_to_counter(std::string_view name, const Number& value, const LabelValues& labels = {}) {
    Entry* entry = entry_of(name, labels, Kind::counter);
    if (entry != nullptr && is_finite(value)) entry->value = add_numbers(entry->value, value);
  }
  void set_gauge(std::string_view name, const Number& value, const LabelValues& labels = {}) {
    Entry* entry = entry_of(name, labels, Kind::gauge);
    if (entry != nullptr && is_finite(value)) entry->value = value;
  }
  void observe(std::string_view name, const Number& value, const LabelValues& labels = {}) {
    Entry* entry = entry_of(name, labels, Kind::histogram);
    if (entry == nullptr || !is_finite(value)) return;
    ++entry->count;
    entry->value = add_numbers(entry->value, value);
  }

  void aggregate(const OffloadingStats& other) {
    for (const Entry& theirs : other.entries_) {
      Entry* entry = entry_of(theirs.name, theirs.labels, theirs.kind);
      if (entry == nullptr) continue;
      entry->count += theirs.count;
      entry->value =
          theirs.kind == Kind::gauge ? theirs.value : add_numbers(entry->value, theirs.value);
    }
  }
  bool is_empty() const { return entries_.empty(); }
  ReducedStats reduce() const {
    ReducedStats out;
    for (const Entry& entry : entries_) {
      std::string key = entry.name;
      if (!entry.labels.empty()) key += ':' + python_tuple(entry.labels);
      if (entry.kind == Kind::histogram) out.emplace_back(key + "_count", entry.count);
      out.emplace_back(entry.kind == Kind::histogram ? key + "_sum" : key, entry.value);
    }
    return out;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(entries_);
  }

 private:
  enum class Kind : std::uint8_t { counter, gauge, histogram };

  // Of a histogram, the value is the sum of what was observed.
  struct Entry {
    std::string name;
    LabelValues labels;
    Kind kind = Kind::counter;
    std::uint64_t count = 0;
    Number value = std::uint64_t{0};

    template <class Archive>
    void serialize(Archive& archive) {
      archive(name, labels, kind, count, value);
    }
  };

  // Null where the name is already one of another kind, or where there are too many: the first
  // definition of a name wins, as everywhere on a node.
  Entry* entry_of(std::string_view name, const LabelValues& labels, Kind kind) {
    auto behind = entries_.end();  // Rows of one metric stay together, as in vLLM's nested dict.
    for (auto at = entries_.begin(); at != entries_.end(); ++at) {
      if (at->name != name) continue;
      if (at->kind != kind) return nullptr;
      if (at->labels == labels) return &*at;
      behind = at + 1;
    }
    if (entries_.size() >= kMaxKeys) return nullptr;
    Entry entry;
    entry.name = name;
    entry.labels = labels;
    entry.kind = kind;
    return &*entries_.insert(behind, std::move(entry));
  }

  std::vector<Entry> entries_;  // Names as first seen, and so the label values of each.
};

class HiSparseStats {
 public:
  void add(std::uint64_t cache_hits, std::uint64_t cache_misses,
           std::uint64_t host_to_device_bytes) {
    aggregate(HiSparseStats(1, cache_hits, cache_misses, host_to_device_bytes));
  }

  HiSparseStats() = default;
  void aggregate(const HiSparseStats& other) {
    add_saturating(reports_, other.reports_);
    add_saturating(cache_hits_, other.cache_hits_);
    add_saturating(cache_misses_, other.cache_misses_);
    add_saturating(host_to_device_bytes_, other.host_to_device_bytes_);
  }
  bool is_empty() const { return reports_ == 0; }
  ReducedStats reduce() const {
    return {{"HiSparse hot-buffer hits", cache_hits_},
            {"HiSparse hot-buffer misses", cache_misses_},
            {"HiSparse host-to-device bytes", host_to_device_bytes_}};
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(reports_, cache_hits_, cache_misses_, host_to_device_bytes_);
  }

 private:
  HiSparseStats(std::uint64_t reports, std::uint64_t hits, std::uint64_t misses,
                std::uint64_t bytes)
      : reports_(reports), cache_hits_(hits), cache_misses_(misses), host_to_device_bytes_(bytes) {}

  std::uint64_t reports_ = 0;  // A report of zeros is a report.
  std::uint64_t cache_hits_ = 0;
  std::uint64_t cache_misses_ = 0;
  std::uint64_t host_to_device_bytes_ = 0;
};

// A user's own connector: counters, and observations with their count, mean and 90th percentile.
// The unit is the user's, so these are rounded to six significant digits, not to decimals.
class UserConnectorStats {
 public:
  void add_to_counter(std::string_view name, const Number& value) {
    Entry* entry = entry_of(name, false);
    if (entry != nullptr && is_finite(value)) entry->total = add_numbers(entry->total, value);
  }
  void observe(std::string_view name, double value) {
    Entry* entry = entry_of(name, true);
    if (entry != nullptr) entry->observations.add(value);
  }

  void aggregate(const UserConnectorStats& other) {
    for (const Entry& theirs : other.entries_) {
      Entry* entry = entry_of(theirs.name, theirs.is_observed);
      if (entry == nullptr) continue;
      entry->observations.aggregate(theirs.observations);
      entry->total = add_numbers(entry->total, theirs.total);
    }
  }
  bool is_empty() const { return entries_.empty(); }
  ReducedStats reduce() const {
    ReducedStats out;
    for (const Entry& entry : entries_) {
      if (!entry.is_observed) {
        out.emplace_back(entry.name, entry.total);
        continue;
      }
      const Observations& observed = entry.observations;
      out.emplace_back(entry.name + "_count", observed.count());
      out.emplace_back(entry.name + "_avg", six_digits(observed.mean()));
      out.emplace_back(entry.name + "_p90", six_digits(observed.interpolated_percentile(0.9)));
    }
    return out;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(entries_);
  }

 private:
  struct Entry {
    std::string name;
    bool is_observed = false;
    Number total = std::uint64_t{0};
    Observations observations;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(name, is_observed, total, observations);
    }
  };

  static double six_digits(double value) {
    std::array<char, 32> text{};
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value,
                                            std::chars_format::scientific, 5);
    double rounded = value;
    std::from_chars(text.data(), end, rounded);
    return rounded;
  }

  // Null where the name already means the other kind, or where there are too many.
  Entry* entry_of(std::string_view name, bool is_observed) {
    for (Entry& entry : entries_) {
      if (entry.name == name) return entry.is_observed == is_observed ? &entry : nullptr;
    }
    if (entries_.size() >= kMaxKeys) return nullptr;
    Entry& entry = entries_.emplace_back();
    entry.name = name;
    entry.is_observed = is_observed;
    return &entry;
  }

  std::vector<Entry> entries_;  // As first seen.
};

using ConnectorStats =
    std::variant<NixlStats, MoriioStats, MooncakeTransferStats, MooncakeStoreStats, OffloadingStats,
                 HiSparseStats, UserConnectorStats>;

// Connectors side by side. reduce() gives one report each, of those with anything to tell: vLLM's
// connectors in the order above, then a user's by name, so that they stand alike in every line.
class MultiConnectorStats {
 public:
  // The statistics of connector `id`, made where it is new; valid until the next is made. Null
  // where that id already has statistics of another type, or where there are too many connectors.
  template <class Stats>
  Stats* child(std::string_view id) {
    for (auto& [name, stats] : children_) {
      if (name == id) return std::get_if<Stats>(&stats);
    }
    if (children_.size() >= kMaxKeys) return nullptr;
    Child made(id, Stats{});
    const auto at = std::find_if(children_.begin(), children_.end(), [&](const Child& child) {
      return std::pair(made.second.index(), id) <
             std::pair(child.second.index(), std::string_view(child.first));
    });
    return std::get_if<Stats>(&children_.insert(at, std::move(made))->second);
  }

  // vLLM asserts that types match; here the first type of an id stays, and the other is left out.
  void aggregate(const MultiConnectorStats& other) {
    for (const auto& [id, theirs] : other.children_) {
      std::visit(
          [&, &name = id]<class Stats>(const Stats& stats) {
            if (Stats* mine = child<Stats>(name)) mine->aggregate(stats);
          },
          theirs);
    }
  }
  bool is_empty() const {
    return std::all_of(children_.begin(), children_.end(), [](const auto& child) {
      return std::visit([](const auto& stats) { return stats.is_empty(); }, child.second);
    });
  }
  std::vector<ConnectorReport> reduce() const {
    std::vector<ConnectorReport> reports;
    for (const auto& [id, child] : children_) {
      std::visit(
          [&, &name = id](const auto& stats) {
            if (!stats.is_empty()) reports.push_back({name, stats.reduce()});
          },
          child);
    }
    return reports;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(children_);
  }

 private:
  using Child = std::pair<std::string, ConnectorStats>;
  std::vector<Child> children_;
};

static_assert(Accumulates<MooncakeStoreStats> && Accumulates<OffloadingStats>);
static_assert(Accumulates<HiSparseStats> && Accumulates<UserConnectorStats>);
static_assert(Accumulates<MultiConnectorStats>);

}  // namespace rankbus
