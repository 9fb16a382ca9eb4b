// aggregator/analysis_events.hpp: records as events, which can wait for the end of a pass.
//
// What a segment's records mean is found by the names and shapes of their fields; texts are texts,
// whatever numbers a producer gives them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>
#include <rankbus/aggregator/goodput.hpp>
#include <rankbus/aggregator/sample_fields.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace rankbus {

struct AnalysisEngine;
struct AnalysisSource;

enum class AnalysisPurpose : std::uint8_t {
  kv_block_operations,
  cache_lookup,
  cache_storage,
  cache_eviction,
  finished_request,
  scheduler_step,
  spec_decoding,
  cuda_graph,
  step_phases,
  request_kv_eviction,
  lora_requests,
};

// Running and waiting requests by LoRA adapter.
using AdapterRequests = std::map<std::string, std::pair<std::uint64_t, std::uint64_t>>;

struct AnalysisSegment {
  // Since its process began, from its totals.
  struct LevelBytes {
    std::uint64_t written = 0;
    std::uint64_t freed = 0;
    std::optional<std::uint64_t> capacity;
  };
  struct Stream;

  std::uint64_t id = 0;
  AnalysisEngine* engine = nullptr;  // Null: not analysed.
  std::map<const StreamSchema*, std::unique_ptr<Stream>> streams;
  std::map<std::string, LevelBytes> levels;
  bool levels_are_old = true;
  AdapterRequests adapters;

  // Takes the levels from the totals, which miss nothing.
  void read_levels(const SegmentReader& reader);
};

struct AnalysisSegment::Stream {
  static constexpr std::size_t kMaxTexts = 4096;

  AnalysisPurpose purpose{};
  const StreamState* state = nullptr;
  AnalysisSegment* segment = nullptr;
  AnalysisSource* source = nullptr;
  std::array<int, 8> fields{};  // -1: the stream has no such scalar.
  int array = -1;
  std::optional<GoodputJudge> judge;
  std::uint64_t next_number = 0;
  bool has_begun = false;
  std::uint64_t pass = 0;                      // The latest one with a record ...
  std::int64_t latest_ns = 0;                  // ... and the latest time in it.
  std::map<std::uint64_t, std::string> texts;  // Of the values of its labels.

  std::uint64_t number(const Sample& sample, std::size_t field) const {
    return whole(sample, fields[field]);
  }
  // Stays where it is until the segment is gone.
  const std::string& text_untrusted(const SegmentReader& reader, const Sample& sample,
                                    std::size_t field);
};

// Null unless something is made of streams of that name.
std::unique_ptr<AnalysisSegment::Stream> make_analysis_stream(const StreamState& state);

struct AnalysisEvent {
  struct Loss {};
  struct Blocks {
    const std::string* operation = nullptr;  // allocate, access or evict.
    std::uint64_t count = 0;
    double sample_rate = 0;
    std::size_t first_id = 0;  // In the ids of the pass.
    std::size_t ids = 0;
    const std::string* reason = nullptr;
  };
  struct Lookup {
    const std::string* level = nullptr;
    CacheEvent hits;
    CacheEvent misses;
    std::uint64_t prefix = 0;
    std::uint64_t prefix_length = 0;
  };
  struct Storage {
    const std::string* level = nullptr;
    std::uint64_t written_bytes = 0;
  };
  struct Eviction {
    const std::string* level = nullptr;
    EvictionEvent event;
    std::uint64_t followed = 0;
    std::uint64_t unused = 0;
  };
  // The numbers of a scheduler's record in the order of its stream's fields.
  struct Scheduler {
    AnalysisPurpose purpose{};
    std::array<std::uint64_t, 8> numbers{};
    double kv_cache_usage = 0;
    bool has_wave = false;
    const std::string* text = nullptr;
    std::size_t first_id = 0;  // Accepted tokens by position, in the ids of the pass.
    std::size_t ids = 0;
  };

  std::int64_t time_ns = 0;
  std::int64_t order_ns = 0;  // Not earlier than that of the record before it in its stream.
  std::uint64_t number = 0;
  AnalysisSegment* segment = nullptr;
  std::variant<Loss, Blocks, Lookup, Storage, Eviction, Scheduler> what;

  auto order() const { return std::tie(order_ns, segment->id, number); }
};

// Everything of the sample but its time. Its ids are appended to `ids`.
void decode_untrusted(AnalysisSegment::Stream& stream, const SegmentReader& reader,
                      const Sample& sample, std::vector<std::uint64_t>& ids, AnalysisEvent& event);

}  // namespace rankbus
