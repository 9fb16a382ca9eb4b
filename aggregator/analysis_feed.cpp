#include <time.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/analysis_outputs.hpp>
#include <rankbus/bus/declaration.hpp>
#include <tuple>
#include <utility>

namespace rankbus {
namespace {

using analysis::Instant;

constexpr std::size_t kMaxTexts = 4096;

enum class Purpose : std::uint8_t {
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
    {"cache_storage", Purpose::cache_storage, {"level", "written_bytes", "capacity_bytes"}},
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
     {"request_id_hash", "reason", "num_blocks"}},
    {"lora_requests", Purpose::lora_requests, {"adapter", "num_running_reqs", "num_waiting_reqs"}},
};

bool tells_sizes(Purpose purpose) {
  return purpose == Purpose::cache_storage || purpose == Purpose::cache_eviction;
}

// Whether anything on /metrics is made of that stream's samples.
bool feeds_families(const std::string& stream) {
  const auto outputs = analysis_outputs();
  return std::any_of(outputs.begin(), outputs.end(), [&](const AnalysisOutput& output) {
    return bus::names_word(output.streams, stream.c_str());
  });
}

double ms(std::uint64_t nanoseconds) {
  return static_cast<double>(nanoseconds) / 1e6;
}

double realtime_s() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

struct AnalysisStream;

struct AnalysisSegment {
  struct LevelSize {
    std::int64_t bytes = 0;
    std::optional<std::uint64_t> capacity;
  };
  std::uint64_t id = 0;
  AnalysisEngine* engine = nullptr;
  std::map<const StreamSchema*, std::unique_ptr<AnalysisStream>> streams;
  std::map<std::string, LevelSize> sizes;
  bool sizes_are_known = false;  // Else they come from its totals at the end of the pass.
};

struct AnalysisStream {
  Purpose purpose = Purpose::scheduler_step;
  const StreamState* state = nullptr;
  std::array<int, 10> fields{};
  int array = -1;
  std::optional<GoodputJudge> judge;
  AnalysisSegment* segment = nullptr;
  AnalysisEngine* engine = nullptr;
  AnalysisSource* source = nullptr;
  std::uint64_t next_number = 0;
  bool has_begun = false;
  std::int64_t latest_ns = 0;  // Of this pass: a stream's records keep their order.
  std::uint64_t pass = 0;
  std::map<std::uint64_t, std::string> texts;  // Of a label's values.

  std::uint64_t number(const Sample& sample, std::size_t field) const {
    return whole(sample, fields[field]);
  }
  // Stays where it is until the segment is gone.
  const std::string& text(const LiveSegment& live, const Sample& sample, std::size_t field) {
    static const std::string other = "other";
    const int index = fields[field];
    if (index < 0) return other;
    const std::uint64_t value = sample.raw(index);
    const std::uint64_t key = std::uint64_t{field} << 32 | (value & 0xFFFFFFFFu);
    if (const auto at = texts.find(key); at != texts.end()) return at->second;
    std::string text =
        label_text(*live.reader, sample.stream.fields[static_cast<std::size_t>(index)], value);
    // A text that is not there yet may come; it is not remembered.
    if (text == other || text.empty() || texts.size() >= kMaxTexts) return other;
    return texts.emplace(key, std::move(text)).first->second;
  }
};

struct AnalysisEvent {
  struct Loss {};
  struct Blocks {
    std::uint64_t operation = 0;
    std::uint64_t count = 0;
    double sample_rate = 0;
    std::size_t first_id = 0;
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
    std::optional<std::uint64_t> capacity_bytes;
  };
  struct Eviction {
    const std::string* level = nullptr;
    EvictionEvent event;
    std::uint64_t followed = 0;
    std::uint64_t unused = 0;
  };

  std::int64_t time_ns = 0;
  std::int64_t order_ns = 0;
  std::uint64_t number = 0;
  AnalysisSegment* segment = nullptr;
  std::variant<Loss, Blocks, Lookup, Storage, Eviction> what;

  auto order() const { return std::tie(order_ns, segment->id, number); }
};

AnalysisFeed::AnalysisFeed(const AnalysisOptions& options) : options_(options) {}
AnalysisFeed::~AnalysisFeed() = default;

// All its streams at once, so that a loss is seen also where no record is ever read.
AnalysisFeed::Segment& AnalysisFeed::find_segment(const LiveSegment& live) {
  std::unique_ptr<Segment>& known = segments_[live.reader->name()];
  if (known) return *known;
  known = std::make_unique<Segment>();
  known->id = next_segment_++;
  const EngineKey key = engine_of(live.who);
  auto at = engines_.find(key);
  if (at == engines_.end() && engines_.size() >= kMaxEngines) forget_engine_that_ended_first();
  if (at == engines_.end() && engines_.size() < kMaxEngines) {
    at = engines_.emplace(key, std::make_unique<Engine>()).first;
    at->second->who = live.who;
  }
  if (at == engines_.end()) return *known;
  Engine& engine = *at->second;
  known->engine = &engine;
  engine.segments.insert(known.get());
  engine.is_virtual |= live.reader->header().clock_domain == 2;
  for (const StreamState& state : live.reader->streams()) {
    const StreamSchema& schema = state.schema;
    for (const KnownStream& kind : kKnownStreams) {
      if (kind.name != schema.name) continue;
      if (kind.purpose == Purpose::finished_request && !options_.slo.any()) continue;
      auto stream = std::make_unique<Stream>();
      stream->purpose = kind.purpose;
      stream->state = &state;
      stream->segment = known.get();
      stream->engine = &engine;
      stream->source = &engine.sources[schema.name];
      stream->source->feeds_families = feeds_families(schema.name);
      stream->fields = find_scalars<10>(schema, kind.fields);
      if (kind.purpose == Purpose::finished_request) stream->judge.emplace(schema);
      if (!kind.array.empty()) stream->array = find_array(schema, kind.array, bus::Type::u64);
      known->streams[&schema] = std::move(stream);
    }
  }
  return *known;
}

// Null if nothing is made of that stream.
AnalysisFeed::Stream* AnalysisFeed::find_stream(const LiveSegment& segment,
                                                const StreamSchema& schema) {
  if (latest_schema_ == &schema) return latest_stream_;
  const Segment& known = find_segment(segment);
  const auto at = known.streams.find(&schema);
  latest_schema_ = &schema;
  latest_stream_ = at == known.streams.end() ? nullptr : at->second.get();
  return latest_stream_;
}

void AnalysisFeed::observe(const LiveSegment& segment, const Sample& sample,
                           const TickClock& clock) {
  Stream* const found = find_stream(segment, sample.stream);
  if (found == nullptr) return;
  Stream& stream = *found;
  const bool has_stamp = sample.stream.plan.fields[0].kind == bus::Kind::stamp;
  const auto source = static_cast<bus::ClockSource>(segment.reader->header().clock_source);
  std::int64_t time_ns = has_stamp ? clock.nanoseconds(sample.raw(0), source) : clock.now_ns();
  if (stream.engine->is_virtual) {
    stream.engine->now_ns = std::max(stream.engine->now_ns, time_ns);
  } else {
    // Nothing has happened yet that is to come.
    time_ns = std::min(time_ns, clock.now_ns());
  }
  count(stream, segment, sample, time_ns);
  switch (stream.purpose) {
    case Purpose::kv_block_operations:
    case Purpose::cache_lookup:
    case Purpose::cache_storage:
    case Purpose::cache_eviction:
      decode(stream, segment, sample, time_ns);
      return;
    case Purpose::finished_request: {
      // What happened before anybody looked was judged by who looked then, or by nobody.
      if (sample.is_history && !segment.began_here) return;
      Goodput one;
      stream.judge->judge(sample, options_.slo, one);
      stream.engine->goodput.aggregate(one);
      if (Goodput* slot = stream.engine->recent_goodput.at(time_ns)) slot->aggregate(one);
      return;
    }
    default:
      observe_scheduler(stream, segment, sample, time_ns);
  }
}

void AnalysisFeed::count(Stream& stream, const LiveSegment& segment, const Sample& sample,
                         std::int64_t time_ns) {
  // What was overwritten before this aggregator came was not its to read.
  if (!stream.has_begun && !segment.began_here) stream.next_number = sample.number;
  stream.has_begun = true;
  const std::uint64_t lost = sample.number - std::min(sample.number, stream.next_number);
  stream.next_number = sample.number + 1;
  count_coverage(stream, {1, lost}, time_ns);
  if (lost == 0) return;
  stream.segment->sizes_are_known &= !tells_sizes(stream.purpose);
  if (stream.purpose == Purpose::kv_block_operations) {
    const std::int64_t order_ns = stream.pass == next_pass_ ? stream.latest_ns : time_ns;
    events_.push_back({time_ns, order_ns, sample.number, stream.segment, Event::Loss{}});
  }
}

// Lost records behind which none has been read yet.
void AnalysisFeed::count_losses_at_the_end(Stream& stream, const LiveSegment& segment) {
  const std::uint64_t position = stream.state->position;
  if (!stream.has_begun && !segment.began_here) stream.next_number = position;
  if (position <= stream.next_number) return;
  const std::uint64_t lost = position - stream.next_number;
  stream.has_begun = true;
  stream.next_number = position;
  count_coverage(stream, {0, lost}, stream.engine->now_ns);
  stream.segment->sizes_are_known &= !tells_sizes(stream.purpose);
  if (stream.purpose == Purpose::kv_block_operations && stream.engine->blocks)
    stream.engine->blocks->forget(stream.segment->id);
}

void AnalysisFeed::count_coverage(Stream& stream, const Coverage& seen, std::int64_t time_ns) {
  stream.source->total.aggregate(seen);
  if (Coverage* slot = stream.source->window.at(time_ns)) slot->aggregate(seen);
}

void AnalysisFeed::decode(Stream& stream, const LiveSegment& segment, const Sample& sample,
                          std::int64_t time_ns) {
  const auto number = [&](std::size_t field) { return stream.number(sample, field); };
  Event event;
  event.time_ns = time_ns;
  event.number = sample.number;
  event.segment = stream.segment;
  // A stream's own order stands, whatever stamps a caller gave.
  event.order_ns = stream.pass == next_pass_ ? std::max(stream.latest_ns, time_ns) : time_ns;
  stream.latest_ns = event.order_ns;
  stream.pass = next_pass_;
  switch (stream.purpose) {
    case Purpose::kv_block_operations: {
      Event::Blocks blocks;
      blocks.operation = number(0);
      blocks.reason = &stream.text(segment, sample, 1);
      blocks.count = sample.part() == 0 ? number(2) : 0;
      blocks.sample_rate = real(sample, stream.fields[3]);
      blocks.first_id = block_ids_.size();
      blocks.ids = stream.array < 0 ? 0 : sample.count(stream.array);
      for (std::size_t i = 0; i < blocks.ids; ++i)
        block_ids_.push_back(sample.element(stream.array, i));
      event.what = blocks;
      break;
    }
    case Purpose::cache_lookup: {
      const std::uint64_t latency_ns = number(5);
      event.what = Event::Lookup{&stream.text(segment, sample, 0),
                                 CacheEvent{time_ns, true, number(3), latency_ns, number(1)},
                                 CacheEvent{time_ns, false, number(4), latency_ns, number(2)},
                                 number(6), number(7)};
      break;
    }
    case Purpose::cache_storage: {
      Event::Storage storage{&stream.text(segment, sample, 0), number(1), std::nullopt};
      if (has_number(sample, stream.fields[2])) storage.capacity_bytes = number(2);
      event.what = storage;
      break;
    }
    default: {
      const CacheEvictionReason reason = reason_of_untrusted(number(1));
      event.what = Event::Eviction{&stream.text(segment, sample, 0),
                                   EvictionEvent{time_ns, number(2), reason, number(3), number(4)},
                                   number(5), number(6)};
    }
  }
  events_.push_back(std::move(event));
}

void AnalysisFeed::observe_scheduler(Stream& stream, const LiveSegment& segment,
                                     const Sample& sample, std::int64_t time_ns) {
  const auto number = [&](std::size_t field) { return stream.number(sample, field); };
  Engine& engine = *stream.engine;
  analysis::SchedulerStats& stats = engine.scheduler_stats(time_ns);
  switch (stream.purpose) {
    case Purpose::scheduler_step:
      stats.record_step(time_ns, number(0), number(1), real(sample, stream.fields[2]));
      stats.prefix_cache.record(number(3), number(4));
      if (number(5) != 0) {
        if (!stats.connector_prefix_cache) stats.connector_prefix_cache.emplace();
        stats.connector_prefix_cache->record(number(5), number(6));
      }
      if (has_number(sample, stream.fields[7])) stats.set_current_wave(time_ns, number(7));
      return;
    case Purpose::spec_decoding: {
      if (stream.array < 0 || sample.part() != 0) return;
      std::vector<std::uint64_t> accepted(sample.count(stream.array));
      for (std::size_t i = 0; i < accepted.size(); ++i)
        accepted[i] = sample.element(stream.array, i);
      if (!stats.spec_decoding)
        stats.spec_decoding.emplace(static_cast<std::uint32_t>(accepted.size()));
      stats.spec_decoding->observe_drafts(number(0), number(1), number(2), accepted);
      return;
    }
    case Purpose::cuda_graph:
      if (!stats.cuda_graphs) stats.cuda_graphs.emplace();
      if (number(0) != 0) {
        stats.cuda_graphs->record_capture(ms(number(1)),
                                          static_cast<double>(number(3)) / (1024.0 * 1024.0));
      } else {
        stats.cuda_graphs->record_replay(ms(number(2)));
      }
      return;
    case Purpose::step_phases:
      stats.perf->record_step(ms(number(0)), ms(number(1)), ms(number(2)));
      stats.perf->record_model_execute(ms(number(3)));
      stats.perf->record_all_reduce(ms(number(4)));
      stats.perf->record_cache_swap(ms(number(5)));
      return;
    case Purpose::request_kv_eviction: {
      char request[17];
      std::snprintf(request, sizeof request, "%016llx", static_cast<unsigned long long>(number(0)));
      const Instant at{time_ns, engine.wall_s(time_ns, wall_behind_monotonic_s_)};
      stats.record_eviction(analysis::KvCacheEvictionEvent::at_untrusted(
          at, request, number(2), stream.text(segment, sample, 1)));
      return;
    }
    case Purpose::lora_requests: {
      if (engine.adapters.size() >= kMaxTexts) return;
      engine.adapters[stream.text(segment, sample, 0)] = {number(1), number(2)};
      std::map<std::string, std::uint64_t> running;
      std::map<std::string, std::uint64_t> waiting;
      for (const auto& [adapter, requests] : engine.adapters) {
        if (requests.first != 0) running[adapter] = requests.first;
        if (requests.second != 0) waiting[adapter] = requests.second;
      }
      stats.set_lora_adapters_untrusted(time_ns, running, waiting);
      return;
    }
    default:
      return;
  }
}

void AnalysisFeed::apply(const Event& event) {
  Segment& segment = *event.segment;
  Engine& engine = *segment.engine;
  const std::int64_t now_ns = event.time_ns;
  struct Apply {
    AnalysisFeed& feed;
    Segment& segment;
    Engine& engine;
    std::int64_t now_ns;

    void operator()(const Event::Loss&) const {
      if (engine.blocks) engine.blocks->forget(segment.id);
    }
    void operator()(const Event::Blocks& blocks) const {
      // Blocks of two rates are two samples; figures of both together would stand for neither.
      if (!engine.blocks || engine.blocks->config().sample_rate != blocks.sample_rate) {
        auto made = analysis::BlockResidency::create({.sample_rate = blocks.sample_rate});
        if (!made || !engine.block_segments.empty()) {
          add_saturating(engine.refused_block_records, 1);
          return;
        }
        engine.blocks = std::move(*made);
      }
      engine.block_segments.insert(segment.id);
      const Instant at{now_ns, engine.wall_s(now_ns, feed.wall_behind_monotonic_s_)};
      for (std::size_t i = 0; i < blocks.ids; ++i) {
        const std::uint64_t id = feed.block_ids_[blocks.first_id + i];
        if (blocks.operation == 1) engine.blocks->follow_allocated(segment.id, id, now_ns);
        if (blocks.operation == 2) engine.blocks->follow_accessed(segment.id, id, now_ns);
        if (blocks.operation == 3)
          engine.blocks->follow_evicted_untrusted(segment.id, id, at, *blocks.reason);
      }
      engine.blocks->count_unsampled(blocks.operation == 1 ? blocks.count : 0,
                                     blocks.operation == 2 ? blocks.count : 0,
                                     blocks.operation == 3 ? blocks.count : 0);
    }
    void operator()(const Event::Lookup& lookup) const {
      if (lookup.prefix_length > 0 && *lookup.level == name_of(CacheType::prefix)) {
        engine.caches.prefix().observe_blocks(lookup.hits, lookup.misses, lookup.prefix,
                                              lookup.prefix_length);
        return;
      }
      CacheMetrics& cache = engine.caches.level(*lookup.level);
      cache.observe(lookup.hits);
      cache.observe(lookup.misses);
    }
    void operator()(const Event::Storage& storage) const {
      Segment::LevelSize& size = segment.sizes[*storage.level];
      size.bytes = add_bounded(size.bytes, storage.written_bytes);
      if (storage.capacity_bytes) size.capacity = storage.capacity_bytes;
      engine.caches.level(*storage.level).observe_write(now_ns, storage.written_bytes);
      sum_sizes(engine);
    }
    void operator()(const Event::Eviction& eviction) const {
      Segment::LevelSize& size = segment.sizes[*eviction.level];
      const auto freed = static_cast<std::int64_t>(std::min<std::uint64_t>(
          eviction.event.bytes_freed, std::numeric_limits<std::int64_t>::max()));
      size.bytes = std::max<std::int64_t>(0, size.bytes - freed);
      CacheMetrics& cache = engine.caches.level(*eviction.level);
      cache.observe_eviction(eviction.event);
      cache.observe_block_use(now_ns, eviction.followed, eviction.unused);
      sum_sizes(engine);
    }
    static std::int64_t add_bounded(std::int64_t bytes, std::uint64_t more) {
      std::int64_t sum = 0;
      return __builtin_add_overflow(bytes, more, &sum) ? std::numeric_limits<std::int64_t>::max()
                                                       : sum;
    }
  };
  std::visit(Apply{*this, segment, engine, now_ns}, event.what);
}

// Totals miss nothing: what was written less what was freed is what this process holds.
void AnalysisFeed::take_sizes(Segment& segment, const SegmentReader& reader) {
  std::map<std::string, std::array<std::uint64_t, 2>> bytes;
  segment.sizes.clear();
  for (const auto& [key, value] : extract_values(reader)) {
    const auto& [family, labels] = key;
    const bool is_written = family == "rankbus_cache_written_bytes_total";
    const bool is_freed = family == "rankbus_cache_freed_bytes_total";
    const bool is_capacity = family == "rankbus_cache_capacity_bytes";
    if (!is_written && !is_freed && !is_capacity) continue;
    std::string level = "other";
    for (const auto& [label, text] : labels) {
      if (label == "level") level = text;
    }
    if (is_capacity) {
      segment.sizes[level].capacity = value.bits;
    } else {
      bytes[level][is_freed ? 1 : 0] = value.bits;
    }
  }
  for (const auto& [level, both] : bytes) {
    if (both[0] == 0 && both[1] == 0) continue;
    const std::uint64_t held = both[0] > both[1] ? both[0] - both[1] : 0;
    segment.sizes[level].bytes = static_cast<std::int64_t>(
        std::min<std::uint64_t>(held, std::numeric_limits<std::int64_t>::max()));
  }
  segment.sizes_are_known = true;
}

void AnalysisFeed::end_pass(const BusReader& bus, const TickClock& clock) {
  wall_behind_monotonic_s_ = realtime_s() - static_cast<double>(clock.now_ns()) * 1e-9;
  std::stable_sort(events_.begin(), events_.end(),
                   [](const Event& a, const Event& b) { return a.order() < b.order(); });
  for (const Event& event : events_) apply(event);
  events_.clear();
  block_ids_.clear();
  ++next_pass_;
  for (const auto& [key, engine] : engines_) {
    if (!engine->is_virtual) engine->now_ns = clock.now_ns();
  }
  for (const auto& [name, live] : bus.live()) {
    Segment& segment = find_segment(live);
    if (segment.engine == nullptr) continue;
    Engine& engine = *segment.engine;
    if (engine.is_virtual) {
      const auto newest_ns = static_cast<std::int64_t>(newest_stamp(*live.reader));
      engine.now_ns = std::max(engine.now_ns, newest_ns);
    }
    for (const auto& [schema, stream] : segment.streams) count_losses_at_the_end(*stream, live);
    if (segment.sizes_are_known) continue;
    take_sizes(segment, *live.reader);
    sum_sizes(engine);
  }
}

void AnalysisFeed::sum_sizes(Engine& engine) {
  std::map<std::string, std::pair<std::uint64_t, std::optional<std::uint64_t>>> levels;
  // Levels that only the dead had are empty now.
  engine.caches.for_each_level(
      [&](const std::string& name, const CacheMetrics&) { levels.try_emplace(name); });
  std::set<std::string> unknown_capacity;
  for (const Segment* segment : engine.segments) {
    for (const auto& [untrusted_level, size] : segment->sizes) {
      engine.caches.level(untrusted_level);
      const bool has_own = engine.caches.find(untrusted_level) != nullptr;
      const std::string level = has_own ? untrusted_level : "other";
      auto& [bytes, capacity] = levels[level];
      add_saturating(bytes, static_cast<std::uint64_t>(size.bytes));
      if (!size.capacity) {
        unknown_capacity.insert(level);
      } else {
        std::uint64_t sum = capacity.value_or(0);
        add_saturating(sum, *size.capacity);
        capacity = sum;
      }
    }
  }
  for (const auto& [level, known] : levels) {
    CacheMetrics& cache = engine.caches.level(level);
    cache.set_size(known.first);
    cache.set_capacity(unknown_capacity.count(level) != 0 ? std::nullopt : known.second);
  }
}

void AnalysisFeed::forget_dead(const BusReader& bus) {
  latest_schema_ = nullptr;
  latest_stream_ = nullptr;
  for (auto at = segments_.begin(); at != segments_.end();) {
    if (bus.live().count(at->first) != 0) {
      ++at;
      continue;
    }
    Segment& gone = *at->second;
    if (Engine* engine = gone.engine; engine != nullptr) {
      if (engine->blocks) engine->blocks->end(gone.id);
      engine->block_segments.erase(gone.id);
      engine->segments.erase(&gone);
      if (engine->segments.empty()) engine->ended = ++engines_ended_;
      if (!gone.sizes.empty()) sum_sizes(*engine);
    }
    at = segments_.erase(at);
  }
}

void AnalysisFeed::forget_engine_that_ended_first() {
  const auto rank = [](const auto& entry) {
    const Engine& engine = *entry.second;
    return std::pair(!engine.segments.empty(), engine.ended);
  };
  const auto first =
      std::min_element(engines_.begin(), engines_.end(),
                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (first->second->segments.empty()) engines_.erase(first);
}

const Goodput* AnalysisFeed::goodput(const EngineKey& engine) const {
  const auto at = engines_.find(engine);
  return at == engines_.end() || at->second->goodput.is_empty() ? nullptr : &at->second->goodput;
}

}  // namespace rankbus
