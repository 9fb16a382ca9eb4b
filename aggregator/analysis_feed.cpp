#include <time.h>

#include <algorithm>
#include <limits>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/analysis_outputs.hpp>
#include <rankbus/bus/declaration.hpp>
#include <set>
#include <utility>

namespace rankbus {
namespace {

// No virtual clock goes from one record to the next by more than this, nor beyond that.
constexpr std::int64_t kLongestStep_ns = std::int64_t{30} * 86'400 * 1'000'000'000;
constexpr std::int64_t kLatest_ns = std::int64_t{1} << 62;

// Whether anything on /metrics is made of that stream's samples.
bool feeds_families(const std::string& stream) {
  const auto outputs = analysis_outputs();
  return std::any_of(outputs.begin(), outputs.end(), [&](const AnalysisOutput& output) {
    return bus::names_word(output.streams, stream.c_str());
  });
}

bool tells_levels(AnalysisPurpose purpose) {
  return purpose == AnalysisPurpose::cache_storage || purpose == AnalysisPurpose::cache_eviction;
}

double realtime_s() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

AnalysisFeed::AnalysisFeed(const AnalysisOptions& options) : options_(options) {}
AnalysisFeed::~AnalysisFeed() = default;

// The engine of a segment, or null where it cannot be analysed with the others of that name.
AnalysisFeed::Engine* AnalysisFeed::find_engine(const LiveSegment& live) {
  const EngineKey key = engine_of(live.who);
  auto at = engines_.find(key);
  if (at == engines_.end() && engines_.size() >= kMaxEngines) forget_engine_that_ended_first();
  if (at == engines_.end() && engines_.size() < kMaxEngines) {
    at = engines_.emplace(key, std::make_unique<Engine>()).first;
    at->second->who = live.who;
  }
  if (at == engines_.end()) return nullptr;
  Engine& engine = *at->second;
  const bool is_virtual = live.reader->header().clock_domain == 2;
  // Times of two clocks cannot be compared.
  if (engine.lives()) return engine.is_virtual == is_virtual ? &engine : nullptr;
  // A virtual clock begins anew with each run.
  if (is_virtual || engine.is_virtual) engine.forget_all_but_counters();
  engine.is_virtual = is_virtual;
  return &engine;
}

// All its streams at once, so that a loss is seen also where no record is ever read.
AnalysisFeed::Segment& AnalysisFeed::find_segment(const LiveSegment& live) {
  std::unique_ptr<Segment>& known = segments_[live.reader->serial()];
  if (known) return *known;
  known = std::make_unique<Segment>();
  known->id = next_segment_++;
  known->engine = find_engine(live);
  if (known->engine == nullptr) return *known;
  known->engine->segments.insert(known.get());
  for (const StreamState& state : live.reader->streams()) {
    if (state.schema.name == "finished_request" && !options_.slo.any()) continue;
    auto stream = make_analysis_stream(state);
    if (!stream) continue;
    stream->segment = known.get();
    stream->source = &known->engine->sources[state.schema.name];
    stream->source->feeds_families = feeds_families(state.schema.name);
    known->streams[&state.schema] = std::move(stream);
  }
  return *known;
}

// Null if nothing is made of that stream.
AnalysisFeed::Stream* AnalysisFeed::find_stream(const LiveSegment& live,
                                                const StreamSchema& schema) {
  if (latest_schema_ == &schema && latest_serial_ == live.reader->serial()) return latest_stream_;
  const Segment& known = find_segment(live);
  const auto at = known.streams.find(&schema);
  latest_schema_ = &schema;
  latest_serial_ = live.reader->serial();
  latest_stream_ = at == known.streams.end() ? nullptr : at->second.get();
  return latest_stream_;
}

std::int64_t AnalysisFeed::time_of(Engine& engine, const LiveSegment& live, const Sample& sample,
                                   const TickClock& clock) {
  const bool has_stamp = sample.stream.plan.fields[0].kind == bus::Kind::stamp;
  if (!has_stamp)
    return engine.is_virtual ? std::max<std::int64_t>(engine.now_ns, 0) : clock.now_ns();
  const auto source = static_cast<bus::ClockSource>(live.reader->header().clock_source);
  const std::int64_t stamp_ns = clock.nanoseconds(live.reader->stamp_here(sample.raw(0)), source);
  // What is of the future is of now.
  if (!engine.is_virtual) return std::min(stamp_ns, clock.now_ns());
  const std::int64_t time_ns = std::clamp<std::int64_t>(stamp_ns, 0, kLatest_ns);
  if (engine.now_ns == Engine::kNever) {
    engine.now_ns = time_ns;
  } else if (time_ns - engine.now_ns > kLongestStep_ns) {
    return engine.now_ns;
  }
  engine.now_ns = std::max(engine.now_ns, time_ns);
  return time_ns;
}

void AnalysisFeed::observe(const LiveSegment& live, const Sample& sample, const TickClock& clock) {
  Stream* const stream = find_stream(live, sample.stream);
  if (stream == nullptr) return;
  Engine& engine = *stream->segment->engine;
  const std::int64_t time_ns = time_of(engine, live, sample, clock);
  // A stream's own order stands, whatever stamps a caller gave.
  const std::int64_t order_ns =
      stream->pass == pass_ ? std::max(stream->latest_ns, time_ns) : time_ns;
  stream->pass = pass_;
  stream->latest_ns = order_ns;
  Event event{time_ns, order_ns, sample.number, stream->segment, Event::Loss{}};
  if (count(*stream, live, sample, time_ns) &&
      stream->purpose == AnalysisPurpose::kv_block_operations) {
    events_.push_back(event);
  }
  stream->segment->levels_are_old |= tells_levels(stream->purpose);
  if (stream->purpose != AnalysisPurpose::finished_request) {
    decode_untrusted(*stream, *live.reader, sample, ids_, event);
    events_.push_back(event);
    return;
  }
  // What happened before anybody looked was judged by who looked then, or by nobody.
  if (sample.is_history) return;
  Goodput one;
  stream->judge->judge(sample, options_.slo, one);
  engine.goodput.aggregate(one);
  if (Goodput* slot = engine.recent_goodput.at(time_ns)) slot->aggregate(one);
}

// Returns whether records before this one are missing.
bool AnalysisFeed::count(Stream& stream, const LiveSegment& live, const Sample& sample,
                         std::int64_t time_ns) {
  // What was overwritten before this aggregator came was not its to read.
  const bool is_late = !stream.has_begun && !live.began_here && sample.number > 0;
  if (is_late) stream.next_number = sample.number;
  stream.has_begun = true;
  const std::uint64_t lost = sample.number - std::min(sample.number, stream.next_number);
  stream.next_number = sample.number + 1;
  count_coverage(stream, {1, lost}, time_ns);
  return lost != 0 || is_late;
}

// Lost records behind which none has been read yet.
void AnalysisFeed::count_losses_at_the_end(Stream& stream, const LiveSegment& live) {
  const std::uint64_t position = stream.state->position;
  if (!stream.has_begun && !live.began_here) stream.next_number = position;
  if (position <= stream.next_number) return;
  Engine& engine = *stream.segment->engine;
  count_coverage(stream, {0, position - stream.next_number}, engine.now_ns);
  stream.has_begun = true;
  stream.next_number = position;
  stream.segment->levels_are_old |= tells_levels(stream.purpose);
  if (stream.purpose != AnalysisPurpose::kv_block_operations) return;
  engine.saw_all_blocks = false;
  if (engine.blocks) engine.blocks->forget(stream.segment->id);
}

void AnalysisFeed::count_coverage(Stream& stream, const Coverage& seen, std::int64_t time_ns) {
  stream.source->total.aggregate(seen);
  if (Coverage* slot = stream.source->window.at(time_ns)) slot->aggregate(seen);
}

void AnalysisFeed::end_pass(const BusReader& bus, const TickClock& clock) {
  const double wall_ahead_s = realtime_s() - static_cast<double>(clock.now_ns()) * 1e-9;
  for (const auto& [key, engine] : engines_) {
    engine->wall_ahead_s = wall_ahead_s;
    if (!engine->is_virtual) engine->now_ns = clock.now_ns();
  }
  std::stable_sort(events_.begin(), events_.end(),
                   [](const Event& a, const Event& b) { return a.order() < b.order(); });
  for (const Event& event : events_) event.segment->engine->take(event, ids_);
  events_.clear();
  ids_.clear();
  ++pass_;
  std::set<Engine*> changed;
  for (const auto& [name, live] : bus.live()) {
    Segment& segment = find_segment(live);
    if (segment.engine == nullptr) continue;
    for (const auto& [schema, stream] : segment.streams) count_losses_at_the_end(*stream, live);
    if (!segment.levels_are_old) continue;
    segment.read_levels(*live.reader);
    changed.insert(segment.engine);
  }
  for (Engine* engine : changed) engine->sum_levels();
}

void AnalysisFeed::forget_dead(const BusReader& bus) {
  std::set<std::uint64_t> living;
  for (const auto& [name, live] : bus.live()) living.insert(live.reader->serial());
  for (auto at = segments_.begin(); at != segments_.end();) {
    if (living.count(at->first) != 0) {
      ++at;
      continue;
    }
    Segment& gone = *at->second;
    if (Engine* engine = gone.engine; engine != nullptr) {
      if (engine->blocks) engine->blocks->end(gone.id);
      engine->block_segments.erase(gone.id);
      engine->segments.erase(&gone);
      if (!gone.levels.empty()) engine->sum_levels();
      if (!gone.adapters.empty()) engine->tell_adapters(engine->now_ns);
      if (!engine->lives()) engine->ended = ++engines_ended_;
    }
    at = segments_.erase(at);
  }
}

void AnalysisFeed::forget_engines(const BusReader& bus, double now_s, double retain_s) {
  std::set<EngineKey> kept;
  for (const auto& [who, state] : bus.identities()) {
    if (now_s - state.last_alive_s <= retain_s) kept.insert(engine_of(who));
  }
  for (const auto& [key, engine] : engines_) {
    if (engine->lives() || kept.count(key) != 0 || engine->sources.empty()) continue;
    engine->forget_all_but_counters();
    engine->sources.clear();
  }
}

void AnalysisFeed::forget_engine_that_ended_first() {
  const auto rank = [](const auto& entry) {
    return std::pair(entry.second->lives(), entry.second->ended);
  };
  const auto first =
      std::min_element(engines_.begin(), engines_.end(),
                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (!first->second->lives()) engines_.erase(first);
}

}  // namespace rankbus
