// What the totals of a stream must be, counted a second time: plain loops over the declaration, a
// linear search for the bucket, doubles added one by one. Shares the layout of a body with the code
// under test (bytes.md, "Totals"), and nothing else of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/producer.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bus_records.hpp"

namespace bus_test {

using rankbus::bus::Kind;
using rankbus::bus::Type;
using rankbus::bus::Word;

// vLLM's formulas for the fields that follow from others, spelled again.
template <class T>
void fill_derived(T&) {}
inline void fill_derived(rankbus::SchedulerStep& r) {
  r.num_requests_waiting = r.num_waiting_reqs + r.num_skipped_waiting_reqs;
}
inline void fill_derived(rankbus::IterationStats& r) {
  r.prompt_cached_tokens = r.prompt_local_cache_hit_tokens + r.prompt_external_kv_transfer_tokens;
  r.prompt_tokens = r.prompt_computed_tokens + r.prompt_local_cache_hit_tokens +
                    r.prompt_external_kv_transfer_tokens;
  r.iteration_tokens = r.prompt_computed_tokens + r.num_generation_tokens;
}
inline void fill_derived(rankbus::FinishedRequest& r) {
  r.finished = 1;
  const std::uint64_t cached =
      r.num_cached_tokens < 0 ? 0 : static_cast<std::uint64_t>(r.num_cached_tokens);
  r.prefill_kv_computed_tokens = cached > r.num_prompt_tokens ? 0 : r.num_prompt_tokens - cached;
  if (r.max_tokens_param == 0) r.max_tokens_param = ~std::uint64_t{0};
}
inline void fill_derived(rankbus::WorkerStep& r) {
  r.steps = 1;
}
inline void fill_derived(rankbus::CudaGraph& r) {
  const bool replayed = r.captured == 0;
  r.replays = replayed;
  r.captures = !replayed;
  r.replayed_tokens = replayed ? r.num_unpadded_tokens : 0;
  const bool is_padded = r.num_padded_tokens > r.num_unpadded_tokens;
  r.num_paddings = replayed && is_padded ? r.num_padded_tokens - r.num_unpadded_tokens : 0;
}
inline void fill_derived(rankbus::StepPhases& r) {
  r.steps = 1;
}
inline void fill_derived(rankbus::RequestKvEviction& r) {
  r.evictions = 1;
}
inline void fill_derived(rankbus::KvBlockOperations& r) {
  r.num_evicted = r.operation == rankbus::KvBlockOperation::evict ? r.num_blocks : 0;
}
inline void fill_derived(rankbus::CacheEviction& r) {
  r.evictions = 1;
}
inline void fill_derived(rankbus::MooncakeStoreOperation& r) {
  r.operations = 1;
}
// What a rank moved follows from the transfer; one without a duration did not succeed.
template <class Transfer>
void fill_rank_transfer(Transfer& r, std::uint32_t failures) {
  const bool succeeded = bits_of(r.transfer_duration_seconds) != ~Word{0};
  r.rank_failures = failures;
  r.rank_transfers = succeeded;
  r.rank_bytes = succeeded ? r.bytes_transferred : 0;
  r.rank_seconds = succeeded ? r.transfer_duration_seconds : 0.0;
}
inline void fill_derived(rankbus::NixlTransfer& r) {
  fill_rank_transfer(r, r.num_failed_transfers + r.num_failed_notifications);
}
inline void fill_derived(rankbus::MoriioTransfer& r) {
  fill_rank_transfer(r, r.num_failed_transfers + r.num_failed_notifications);
}
inline void fill_derived(rankbus::MooncakeTransfer& r) {
  fill_rank_transfer(r, r.num_failed_transfers + r.num_failed_recvs);
}

// The upper bounds of a distribution's cells, in the stored unit. Powers of 2^(1/8) come from the
// wide logarithm of the C library here.
inline std::vector<double> cell_bounds(const rankbus::bus::FieldSpec& spec,
                                       std::uint64_t max_model_len) {
  std::vector<double> bounds(spec.bounds.values, spec.bounds.values + spec.bounds.count);
  int first = spec.bounds.native_first;
  int last = spec.bounds.native_last;
  if (spec.bounds.model_length) {
    const std::uint64_t length = max_model_len == 0 ? 131072 : max_model_len;
    for (std::uint64_t power = 1; power <= length; power *= 10) {
      for (const std::uint64_t m : {1U, 2U, 5U}) {
        if (m * power <= length) bounds.push_back(static_cast<double>(m * power));
      }
    }
    first = last = 0;
    while ((std::uint64_t{1} << last) < length) ++last;
  }
  for (int j = 8 * first; j <= 8 * last; ++j) {
    bounds.push_back(static_cast<double>(std::exp2(static_cast<long double>(j) / 8)));
  }
  std::sort(bounds.begin(), bounds.end());
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
  if (spec.unit == rankbus::bus::Unit::nanoseconds) {
    // n nanoseconds are within a bound exactly when n is at most the bound's whole nanoseconds. A
    // decimal bound is meant as it is written, not as its nearest double.
    for (double& bound : bounds) {
      const long double scaled = static_cast<long double>(bound) * 1e9L;
      const long double nearest = std::round(scaled);
      const bool whole = std::abs(scaled - nearest) <= 1e-12L * nearest;
      bound = static_cast<double>(whole ? nearest : std::floor(scaled));
    }
  }
  return bounds;
}

// Counts the slots that calls of `record` fill, and folds them.
template <class T>
class StreamModel {
 public:
  using Record = typename T::RankbusRecord;

  explicit StreamModel(std::uint64_t max_model_len = 0) {
    std::uint64_t next = 6;
    for (unsigned i = 0; i < Record::kFieldCount; ++i) {
      if (Record::kFields[i].kind == Kind::label) labels_.push_back(i);
    }
    rows_ = labels_.empty() ? 0 : 32;
    next += rows_;
    bool any = false;
    for (unsigned i = 0; i < Record::kFieldCount; ++i) {
      const rankbus::bus::FieldSpec& spec = Record::kFields[i];
      Place& place = places_[i];
      if (spec.kind == Kind::distribution) place.bounds = cell_bounds(spec, max_model_len);
      const bool single = spec.kind == Kind::counter || spec.kind == Kind::running_total ||
                          spec.kind == Kind::gauge;
      place.words = spec.kind == Kind::distribution ? 3 + place.bounds.size() : single ? 1 : 0;
      if (spec.indexed) place.words = spec.capacity + 1u;
      place.split = spec.by[0] != '\0';
      place.at = next;
      any = any || place.words > 0;
      next += place.words * (place.split ? rows_ : 1);
    }
    body.assign(any ? next : 0, 0);
    if (!any) return;
    if (rows_ > 0) body[4] = 1;
    for (unsigned i = 0; i < Record::kFieldCount; ++i) {
      if (Record::kFields[i].kind != Kind::gauge) continue;
      for (std::uint64_t r = 0; r < (places_[i].split ? rows_ : 1); ++r) {
        body[places_[i].at + r] = ~Word{0};
      }
    }
  }

  // Slots that one call fills: as many as its longest array needs, at least one.
  static std::uint64_t parts(const T& record) {
    PartCounter counter;
    Record::visit(record, counter);
    return counter.parts;
  }

  // Folds slot `part` of a call.
  void add(const T& given, std::uint64_t part) {
    T record = given;
    fill_derived(record);
    ++slots;
    if (body.empty()) return;
    ++body[0];
    row_ = 0;
    if (!labels_.empty()) {
      KeyMaker keys;
      Record::visit(record, keys);
      row_ = row_of(keys.key);
    }
    PartAdder adder{*this, part};
    Record::visit(record, adder);
  }
  void add_call(const T& record) {
    const std::uint64_t all = parts(record);
    for (std::uint64_t part = 0; part < all; ++part) add(record, part);
  }

  std::uint64_t slots = 0;
  std::vector<Word> body;  // Empty if the type has samples only.

  // Adds the body of another stream of the type, as an aggregator adds incarnations. For types
  // without labels; gauges keep the other's value.
  void add_body(const StreamModel& other) {
    slots += other.slots;
    for (std::size_t i = 0; i < 6 && !body.empty(); ++i) body[i] += other.body[i];
    for (unsigned i = 0; i < Record::kFieldCount; ++i) {
      const rankbus::bus::FieldSpec& spec = Record::kFields[i];
      const Place& place = places_[i];
      for (std::uint64_t w = 0; w < place.words; ++w) {
        Word& mine = body[place.at + w];
        const Word theirs = other.body[place.at + w];
        const bool real = spec.type == Type::f64 && w == 0;
        mine = spec.kind == Kind::gauge ? theirs
               : real                   ? bits_of(double_of(mine) + double_of(theirs))
                                        : mine + theirs;
      }
    }
  }

  // The words of a field without a label: its value, or sum and cells.
  std::vector<Word> field(unsigned i) const {
    const Place& place = places_[i];
    const auto from = body.begin() + static_cast<std::ptrdiff_t>(place.at);
    return {from, from + static_cast<std::ptrdiff_t>(place.words)};
  }

 private:
  struct Place {
    std::uint64_t at = 0;
    std::uint64_t words = 0;  // Per row.
    bool split = false;
    std::vector<double> bounds;
  };
  struct PartCounter {
    std::uint64_t parts = 1;
    template <unsigned I, class V>
    void scalar(const V&) {}
    template <unsigned I, class V>
    void array(const rankbus::Values<V>& values) {
      const std::uint64_t room = Record::kFields[I].capacity;
      parts = std::max<std::uint64_t>(parts, (values.size + room - 1) / room);
    }
  };
  struct KeyMaker {
    std::uint64_t key = 0;
    int shift = 0;
    template <unsigned I, class V>
    void scalar(const V& value) {
      if (Record::kFields[I].kind != Kind::label) return;
      key |= (static_cast<std::uint64_t>(value) & 0xffff) << shift;
      shift += 16;
    }
    template <unsigned I, class V>
    void array(const rankbus::Values<V>&) {}
  };
  struct PartAdder {
    StreamModel& model;
    std::uint64_t part;
    template <unsigned I, class V>
    void scalar(const V& value) {
      if (part == 0) model.template add_value<I>(value);
      // The stamp repeats in every part.
      if (I == 0 && static_cast<std::uint64_t>(value) != 0) {
        model.body[1] = static_cast<std::uint64_t>(value);
      }
    }
    template <unsigned I, class V>
    void array(const rankbus::Values<V>& values) {
      const std::uint64_t room = Record::kFields[I].capacity;
      for (std::uint64_t k = part * room; k < (part + 1) * room && k < values.size; ++k) {
        // Of totals by index, the last one takes what lies beyond the first slot's room.
        const std::uint64_t index = Record::kFields[I].indexed ? std::min(k, room) : 0;
        model.template add_value<I>(values.data[k], index);
      }
    }
  };

  std::uint64_t row_of(std::uint64_t key) {
    if (key == 0) return 0;
    const auto at = rows_by_key_.find(key);
    if (at != rows_by_key_.end()) return at->second;
    const std::uint64_t row = rows_by_key_.size() + 1;
    if (row >= rows_) {
      ++body[5];
      return 0;
    }
    rows_by_key_[key] = row;
    body[4] = row + 1;
    body[6 + row] = key;
    return row;
  }

  template <unsigned I, class V>
  void add_value(const V& value, std::uint64_t index = 0) {
    const rankbus::bus::FieldSpec& spec = Record::kFields[I];
    const Place& place = places_[I];
    if (place.words == 0) return;
    Word* total = body.data() + place.at + (place.split ? row_ * place.words : 0) + index;
    if constexpr (std::is_same_v<V, double>) {
      add_double(spec.kind, place, total, value);
    } else if constexpr (!std::is_enum_v<V>) {
      add_integer(spec.kind, place, total, value);
    }
  }

  void add_double(Kind kind, const Place& place, Word* total, double value) {
    if (bits_of(value) == ~Word{0}) return;  // Absent.
    if (!std::isfinite(value)) {
      ++body[2];
      return;
    }
    if (kind == Kind::gauge || kind == Kind::running_total) {
      *total = bits_of(value);
      return;
    }
    if (value < 0) ++body[3];
    const bool counts = std::isnormal(value) && value > 0;  // Subnormals count as zero.
    if (counts && !std::isfinite(double_of(*total) + value)) {
      ++body[2];
      return;
    }
    if (counts) *total = bits_of(double_of(*total) + value);
    if (kind == Kind::distribution) ++total[1 + (counts ? cell(place, value) : 0)];
  }

  template <class V>
  void add_integer(Kind kind, const Place& place, Word* total, V value) {
    if (value == static_cast<V>(~V{0})) return;  // Absent.
    const auto raw = static_cast<std::uint64_t>(value);
    if (kind == Kind::gauge || kind == Kind::running_total) {
      *total = raw;
      return;
    }
    bool negative = false;
    if constexpr (std::is_signed_v<V>) negative = value < 0;
    if (negative) ++body[3];
    if (!negative) *total += raw;
    if (kind != Kind::distribution) return;
    ++total[1 + (negative || raw == 0 ? 0 : cell(place, static_cast<long double>(raw)))];
  }

  // Of a value above zero: one more than the index of the first bound that is not below it.
  template <class V>
  static std::size_t cell(const Place& place, V value) {
    std::size_t i = 0;
    while (i < place.bounds.size() && value > place.bounds[i]) ++i;
    return 1 + i;
  }

  std::vector<unsigned> labels_;
  std::uint64_t rows_ = 0;
  std::uint64_t row_ = 0;
  std::map<std::uint64_t, std::uint64_t> rows_by_key_;
  std::array<Place, Record::kFieldCount> places_;
};

// Totals of a sequence of calls after any number of slots, kept every few hundred slots so that a
// thousand readers of the same sequence cost one pass.
template <class T>
class Oracle {
 public:
  Oracle(const RecordSequence<T>& sequence, std::uint64_t max_model_len = 0)
      : sequence_(sequence), frontier_{StreamModel<T>(max_model_len), 0, 0} {
    kept_[0] = frontier_;
    for (std::uint64_t i = 0; i < sequence.distinct(); ++i) {
      slots_before_.push_back(slots_per_round_);
      slots_per_round_ += StreamModel<T>::parts(sequence.call(i));
    }
  }

  StreamModel<T> after(std::uint64_t slots) {
    while (frontier_.model.slots < slots) {
      step(frontier_);
      if (frontier_.model.slots % kEvery == 0) kept_[frontier_.model.slots] = frontier_;
    }
    State state = std::prev(kept_.upper_bound(slots))->second;
    while (state.model.slots < slots) step(state);
    return state.model;
  }

  // Slots that the first `calls` calls fill.
  std::uint64_t slots_of_calls(std::uint64_t calls) const {
    const std::uint64_t distinct = sequence_.distinct();
    return calls / distinct * slots_per_round_ +
           slots_before_[static_cast<std::size_t>(calls % distinct)];
  }

 private:
  static constexpr std::uint64_t kEvery = 256;
  struct State {
    StreamModel<T> model;
    std::uint64_t call;
    std::uint64_t part;
  };
  void step(State& state) const {
    const T record = sequence_.call(state.call);
    state.model.add(record, state.part);
    if (++state.part < StreamModel<T>::parts(record)) return;
    state.part = 0;
    ++state.call;
  }

  const RecordSequence<T>& sequence_;
  State frontier_;
  std::map<std::uint64_t, State> kept_;
  std::vector<std::uint64_t> slots_before_;
  std::uint64_t slots_per_round_ = 0;
};

// Whether a reader's totals are the model's, word for word; says which field differs.
template <class T>
testing::AssertionResult equals_model(const rankbus::StreamState& stream,
                                      const StreamModel<T>& model) {
  if (stream.totals == model.body) return testing::AssertionSuccess();
  std::ostringstream out;
  out << "stream " << stream.schema.name << " after " << stream.position << " records";
  if (stream.totals.size() != model.body.size()) {
    out << ": " << stream.totals.size() << " words, the model has " << model.body.size();
    return testing::AssertionFailure() << out.str();
  }
  int shown = 0;
  for (std::size_t w = 0; w < model.body.size() && shown < 8; ++w) {
    if (stream.totals[w] == model.body[w]) continue;
    std::string where = "head";
    for (std::size_t f = 0; f < stream.schema.fields.size(); ++f) {
      const std::uint32_t at = stream.schema.plan.fields[f].totals_offset;
      if (at <= w && stream.schema.plan.fields[f].row_words > 0) {
        where = stream.schema.fields[f].name + " + " + std::to_string(w - at);
      }
    }
    out << "\n  word " << w << " (" << where << "): reader " << stream.totals[w] << " = "
        << double_of(stream.totals[w]) << ", model " << model.body[w] << " = "
        << double_of(model.body[w]);
    ++shown;
  }
  return testing::AssertionFailure() << out.str();
}

inline const rankbus::StreamState* find_stream(const rankbus::SegmentReader& reader,
                                               const std::string& name) {
  for (const rankbus::StreamState& stream : reader.streams()) {
    if (stream.schema.name == name) return &stream;
  }
  return nullptr;
}

// Whether the counters and distributions that an aggregator holds of a label-free type are the
// model's.
template <class T>
testing::AssertionResult values_equal_model(const rankbus::FieldValues& values,
                                            const StreamModel<T>& model) {
  using Record = typename T::RankbusRecord;
  for (unsigned i = 0; i < Record::kFieldCount; ++i) {
    const rankbus::bus::FieldSpec& spec = Record::kFields[i];
    const std::vector<Word> expected = model.field(i);
    if (spec.metric[0] == '\0' || expected.empty() || spec.kind == Kind::gauge) continue;
    rankbus::Labels labels;
    if (spec.fixed_label[0] != '\0') labels.emplace_back(spec.fixed_label, spec.fixed_value);
    const auto at = values.find({spec.metric, labels});
    if (at == values.end()) return testing::AssertionFailure() << spec.metric << " is not there";
    std::vector<Word> found{at->second.bits};
    found.insert(found.end(), at->second.cells.begin(), at->second.cells.end());
    if (found == expected) continue;
    return testing::AssertionFailure()
           << spec.metric << ": " << found[0] << " = " << double_of(found[0]) << ", the model has "
           << expected[0] << " = " << double_of(expected[0]) << ", or other cells";
  }
  return testing::AssertionSuccess();
}

}  // namespace bus_test
