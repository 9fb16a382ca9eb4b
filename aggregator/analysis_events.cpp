#include <initializer_list>
#include <rankbus/aggregator/analysis_events.hpp>
#include <rankbus/aggregator/field_value.hpp>
#include <string_view>

namespace rankbus {
namespace {

using Purpose = AnalysisPurpose;
using Stream = AnalysisSegment::Stream;

struct KnownStream {
  std::string_view name;
  Purpose purpose;
  std::initializer_list<std::string_view> fields;
  std::string_view array = {};
};

const KnownStream kKnownStreams[] = {
    {"kv_block_operations",
     Purpose::kv_block_operations,
     {"operation", "reason", "num_blocks", "sample_rate"},
     "block_ids"},
    {"cache_lookup",
     Purpose::cache_lookup,
     {"level", "hits", "misses", "hit_bytes", "miss_bytes", "latency_ns", "prefix_hash",
      "prefix_length"}},
    {"cache_storage", Purpose::cache_storage, {"level", "written_bytes"}},
    {"cache_eviction",
     Purpose::cache_eviction,
     {"level", "reason", "num_blocks", "freed_bytes", "latency_ns", "followed_blocks",
      "unused_blocks"}},
    {"finished_request", Purpose::finished_request, {}},
    {"scheduler_step",
     Purpose::scheduler_step,
     {"num_running_reqs", "num_requests_waiting", "kv_cache_usage", "prefix_cache_queries",
      "prefix_cache_hits", "external_prefix_cache_queries", "external_prefix_cache_hits",
      "current_wave"}},
    {"spec_decoding",
     Purpose::spec_decoding,
     {"num_drafts", "num_draft_tokens", "num_accepted_tokens"},
     "num_accepted_tokens_per_pos"},
    {"cuda_graph",
     Purpose::cuda_graph,
     {"captured", "capture_ns", "replay_ns", "graph_memory_bytes"}},
    {"step_phases",
     Purpose::step_phases,
     {"schedule_ns", "model_forward_ns", "sample_ns", "model_execute_ns", "all_reduce_ns",
      "cache_swap_ns"}},
    {"request_kv_eviction",
     Purpose::request_kv_eviction,
     {"request_id_hash", "num_blocks", "reason"}},
    {"lora_requests", Purpose::lora_requests, {"num_running_reqs", "num_waiting_reqs", "adapter"}},
};

// Which of a scheduler's fields is a text; their numbers mean nothing to others.
constexpr std::size_t kTextField = 2;
bool has_text(Purpose purpose) {
  return purpose == Purpose::request_kv_eviction || purpose == Purpose::lora_requests;
}

std::size_t append_array(const Stream& stream, const Sample& sample,
                         std::vector<std::uint64_t>& ids) {
  if (stream.array < 0) return 0;
  const std::size_t count = sample.count(stream.array);
  for (std::size_t i = 0; i < count; ++i) ids.push_back(sample.element(stream.array, i));
  return count;
}

}  // namespace

const std::string& Stream::text_untrusted(const SegmentReader& reader, const Sample& sample,
                                          std::size_t field) {
  static const std::string other = "other";
  const int index = fields[field];
  if (index < 0) return other;
  const FieldSchema& label = sample.stream.fields[static_cast<std::size_t>(index)];
  if (sample.stream.plan.fields[index].kind != bus::Kind::label) return other;
  const std::uint64_t value = sample.raw(index);
  const std::uint64_t key = std::uint64_t{field} << 32 | (value & 0xFFFFFFFFu);
  if (const auto at = texts.find(key); at != texts.end()) return at->second;
  std::string text = label_text(reader, label, value);
  // A text that is not there yet may come; it is not remembered.
  if (text == other || texts.size() >= kMaxTexts) return other;
  return texts.emplace(key, std::move(text)).first->second;
}

std::unique_ptr<Stream> make_analysis_stream(const StreamState& state) {
  const StreamSchema& schema = state.schema;
  for (const KnownStream& kind : kKnownStreams) {
    if (kind.name != schema.name) continue;
    auto stream = std::make_unique<Stream>();
    stream->purpose = kind.purpose;
    stream->state = &state;
    stream->fields = find_scalars<8>(schema, kind.fields);
    if (!kind.array.empty()) stream->array = find_array(schema, kind.array, bus::Type::u64);
    if (kind.purpose == Purpose::finished_request) stream->judge.emplace(schema);
    return stream;
  }
  return nullptr;
}

void AnalysisSegment::read_levels(const SegmentReader& reader) {
  levels.clear();
  for (const auto& [schema, stream] : streams) {
    if (stream->purpose != Purpose::cache_storage && stream->purpose != Purpose::cache_eviction)
      continue;
    for (const auto& [key, value] : extract_values(reader, *stream->state)) {
      const auto& [family, labels] = key;
      std::string level = "other";
      for (const auto& [label, text] : labels) {
        if (label == "level") level = text;
      }
      if (value.is_real()) continue;
      if (family == "rankbus_cache_written_bytes_total" && value.bits != 0)
        add_saturating(levels[level].written, value.bits);
      if (family == "rankbus_cache_freed_bytes_total" && value.bits != 0)
        add_saturating(levels[level].freed, value.bits);
      if (family == "rankbus_cache_capacity_bytes") levels[level].capacity = value.bits;
    }
  }
  levels_are_old = false;
}

void decode_untrusted(Stream& stream, const SegmentReader& reader, const Sample& sample,
                      std::vector<std::uint64_t>& ids, AnalysisEvent& event) {
  const auto number = [&](std::size_t field) { return stream.number(sample, field); };
  const auto text = [&](std::size_t field) {
    return &stream.text_untrusted(reader, sample, field);
  };
  switch (stream.purpose) {
    case Purpose::kv_block_operations: {
      AnalysisEvent::Blocks blocks;
      blocks.operation = text(0);
      blocks.reason = text(1);
      blocks.count = sample.part() == 0 ? number(2) : 0;
      blocks.sample_rate = real(sample, stream.fields[3]);
      blocks.first_id = ids.size();
      blocks.ids = append_array(stream, sample, ids);
      event.what = blocks;
      return;
    }
    case Purpose::cache_lookup:
      event.what = AnalysisEvent::Lookup{
          text(0), CacheEvent{event.time_ns, true, number(3), number(5), number(1)},
          CacheEvent{event.time_ns, false, number(4), number(5), number(2)}, number(6), number(7)};
      return;
    case Purpose::cache_storage:
      event.what = AnalysisEvent::Storage{text(0), number(1)};
      return;
    case Purpose::cache_eviction: {
      const CacheEvictionReason reason = reason_of_untrusted(std::string_view(*text(1)));
      event.what = AnalysisEvent::Eviction{
          text(0), EvictionEvent{event.time_ns, number(2), reason, number(3), number(4)}, number(5),
          number(6)};
      return;
    }
    default: {
      AnalysisEvent::Scheduler scheduler;
      scheduler.purpose = stream.purpose;
      for (std::size_t i = 0; i < scheduler.numbers.size(); ++i) scheduler.numbers[i] = number(i);
      if (has_text(stream.purpose)) scheduler.text = text(kTextField);
      if (stream.purpose == Purpose::scheduler_step) {
        scheduler.kv_cache_usage = real(sample, stream.fields[2]);
        scheduler.has_wave = has_number(sample, stream.fields[7]);
      }
      scheduler.first_id = ids.size();
      // Positions beyond a slot go on in the next part, of which nobody has so many.
      if (sample.part() == 0) scheduler.ids = append_array(stream, sample, ids);
      event.what = scheduler;
    }
  }
}

}  // namespace rankbus
