#include <algorithm>
#include <rankbus/aggregator/sample_feed.hpp>
#include <set>
#include <string_view>
#include <utility>

namespace rankbus {
namespace {

// A log that nobody reads, or an interval without end, must not become memory without end.
constexpr std::size_t kMaxBatches = 10'000;
constexpr std::size_t kMaxIterations = 100'000;

constexpr std::string_view kConnectorPrefix = "connector:";

// The connector whose stream it is, or empty.
std::string connector_of(const std::string& stream) {
  if (stream.rfind(kConnectorPrefix, 0) != 0) return {};
  const std::string name = stream.substr(kConnectorPrefix.size());
  return name.substr(0, name.find(':'));
}

}  // namespace

std::string server_key(const EngineKey& engine) {
  return engine.server.empty() ? "model " + engine.model : engine.server + " model " + engine.model;
}

namespace {

// The connectors that a server's living processes declare, by the server's key.
std::map<std::string, std::set<std::string>> configured_connectors(const BusReader& bus) {
  std::map<std::string, std::set<std::string>> connectors;
  for (const auto& [name, segment] : bus.live()) {
    for (const StreamState& stream : segment.reader->streams()) {
      if (const std::string connector = connector_of(stream.schema.name); !connector.empty())
        connectors[server_key(engine_of(segment.who))].insert(connector);
    }
  }
  return connectors;
}

}  // namespace

SampleFeed::Use SampleFeed::use_of(const StreamSchema& stream) {
  Use use;
  if (stream.name == "scheduler_step") {
    use.purpose = Purpose::scheduler_step;
    use.fields =
        find_scalars<10>(stream, {"prefix_cache_reset", "prefix_cache_requests",
                                  "prefix_cache_queries", "prefix_cache_hits",
                                  "external_prefix_cache_reset", "external_prefix_cache_requests",
                                  "external_prefix_cache_queries", "external_prefix_cache_hits"});
  } else if (stream.name == "multimodal_cache") {
    use.purpose = Purpose::multimodal_cache;
    use.fields = find_scalars<10>(stream, {"reset", "requests", "queries", "hits"});
  } else if (stream.name == "cuda_graph") {
    use.purpose = Purpose::cuda_graph;
    use.fields = find_scalars<10>(stream, {"num_unpadded_tokens", "num_padded_tokens",
                                           "num_paddings", "runtime_mode", "captured"});
  } else if (stream.name == "iteration_details") {
    use.purpose = Purpose::iteration_details;
    use.fields = find_scalars<10>(
        stream, {"iteration_index", "num_ctx_requests", "num_ctx_tokens", "num_generation_requests",
                 "num_generation_tokens", "num_encoder_inputs", "num_encoder_output_tokens",
                 "elapsed_ms", "kv_cache_usage", "is_dummy"});
  } else if (use.connector = connector_of(stream.name); !use.connector.empty()) {
    use.purpose = Purpose::connector;
  }
  return use;
}

const SampleFeed::Use& SampleFeed::find_use(const LiveSegment& segment,
                                            const StreamSchema& stream) {
  const std::uint64_t serial = segment.reader->serial();
  if (latest_stream_ == &stream && latest_serial_ == serial) return *latest_use_;
  const auto [at, is_new] = uses_[serial].try_emplace(&stream);
  if (is_new) at->second = use_of(stream);
  latest_stream_ = &stream;
  latest_serial_ = serial;
  latest_use_ = &at->second;
  return at->second;
}

void SampleFeed::observe(const LiveSegment& segment, const Sample& sample) {
  const Use& use = find_use(segment, sample.stream);
  // What happened before anybody looked fills the windows, but belongs to no interval of a log.
  const bool is_of_window =
      use.purpose == Purpose::scheduler_step || use.purpose == Purpose::multimodal_cache;
  if (sample.is_history && !segment.began_here && !is_of_window) return;
  switch (use.purpose) {
    case Purpose::none:
      return;
    case Purpose::scheduler_step:
    case Purpose::multimodal_cache:
      observe_caches(segment, use, sample);
      return;
    case Purpose::cuda_graph:
      observe_batch(segment, use, sample);
      return;
    case Purpose::iteration_details:
      observe_iteration(segment, use, sample);
      return;
    case Purpose::connector:
      pool_connector_sample(use.connector, *segment.reader, sample,
                            intervals_[engine_of(segment.who)].connectors);
      return;
  }
}

void SampleFeed::observe_caches(const LiveSegment& segment, const Use& use, const Sample& sample) {
  const EngineKey engine = engine_of(segment.who);
  auto& feeders = feeders_[engine];
  if (feeders.insert(segment.reader->serial()).second && feeders.size() == 1)
    windows_.erase(engine);
  for (CacheWindows* windows : {&windows_[engine], &server_windows_[server_key(engine)]}) {
    if (use.purpose == Purpose::multimodal_cache) {
      observe_cache(use, sample, 0, windows->multimodal);
    } else {
      observe_cache(use, sample, 0, windows->prefix);
      observe_cache(use, sample, 4, windows->external_prefix);
    }
  }
}

void SampleFeed::observe_cache(const Use& use, const Sample& sample, std::size_t first,
                               CacheHitWindow& window) {
  const auto field = [&](std::size_t offset) { return whole(sample, use.fields[first + offset]); };
  window.observe(field(0) != 0, field(1), field(2), field(3));
}

void SampleFeed::observe_batch(const LiveSegment& segment, const Use& use, const Sample& sample) {
  if (whole(sample, use.fields[4]) != 0) return;  // Captures are no batches.
  auto& batches = intervals_[engine_of(segment.who)].batches;
  const int mode = use.fields[3];
  const std::string text =
      mode < 0 ? "other"
               : label_text(*segment.reader, sample.stream.fields[static_cast<std::size_t>(mode)],
                            sample.raw(mode));
  const Batch batch{whole(sample, use.fields[0]), whole(sample, use.fields[1]),
                    whole(sample, use.fields[2]), text};
  if (batches.size() >= kMaxBatches && batches.count(batch) == 0) return;
  BatchCount& count = batches[batch];
  if (count.count++ == 0) count.first_seen = batches_seen_;
  ++batches_seen_;
}

void SampleFeed::observe_iteration(const LiveSegment& segment, const Use& use,
                                   const Sample& sample) {
  if (iterations_.size() >= kMaxIterations) return;
  const auto field = [&](std::size_t index) { return whole(sample, use.fields[index]); };
  IterationDetail detail;
  detail.server = server_key(engine_of(segment.who));
  detail.engine = segment.who.engine;
  detail.index = field(0);
  detail.ctx_requests = field(1);
  detail.ctx_tokens = field(2);
  detail.generation_requests = field(3);
  detail.generation_tokens = field(4);
  detail.encoder_inputs = field(5);
  detail.encoder_output_tokens = field(6);
  detail.elapsed_ms = real(sample, use.fields[7]);
  detail.kv_cache_usage = real(sample, use.fields[8]);
  detail.is_dummy = field(9) != 0;
  iterations_.push_back(std::move(detail));
}

const CacheWindows* SampleFeed::windows(const EngineKey& engine) const {
  const auto found = windows_.find(engine);
  return found == windows_.end() ? nullptr : &found->second;
}

std::vector<ServerCaches> SampleFeed::server_caches() const {
  std::vector<ServerCaches> all;
  for (const auto& [server, windows] : server_windows_) {
    all.push_back(
        {server, windows.prefix.sum(), windows.external_prefix.sum(), windows.multimodal.sum()});
  }
  return all;
}

// Highest count first; equal ones stay in the order in which they were seen, as vLLM's table does.
std::vector<CudaGraphCount> SampleFeed::counts_of(const std::map<Batch, BatchCount>& batches) {
  std::vector<std::pair<Batch, BatchCount>> rows(batches.begin(), batches.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return std::pair(b.second.count, a.second.first_seen) <
           std::pair(a.second.count, b.second.first_seen);
  });
  std::vector<CudaGraphCount> out;
  for (const auto& [batch, count] : rows) {
    const auto& [unpadded, padded, paddings, mode] = batch;
    out.push_back({unpadded, padded, paddings, mode, count.count});
  }
  return out;
}

std::vector<IntervalStats> SampleFeed::take_interval(const BusReader& bus) {
  const auto configured = configured_connectors(bus);
  const auto is_several = [&](const std::string& server) {
    const auto found = configured.find(server);
    return found != configured.end() && found->second.size() > 1;
  };
  std::vector<IntervalStats> out;
  std::map<std::string, Interval> pooled;
  std::map<std::string, std::size_t> engines;
  for (auto& [engine, interval] : intervals_) {
    IntervalStats stats;
    stats.server = server_key(engine);
    stats.engine = engine.engine;
    stats.has_several_connectors = is_several(stats.server);
    stats.connectors = interval.connectors.reduce();
    stats.cuda_graphs = counts_of(interval.batches);
    Interval& all = pooled[stats.server];
    for (const auto& [batch, count] : interval.batches) {
      BatchCount& sum = all.batches[batch];
      sum.first_seen =
          sum.count == 0 ? count.first_seen : std::min(sum.first_seen, count.first_seen);
      sum.count += count.count;
    }
    all.connectors.aggregate(interval.connectors);
    ++engines[stats.server];
    if (!stats.connectors.empty() || !stats.cuda_graphs.empty()) out.push_back(std::move(stats));
  }
  for (auto& [server, interval] : pooled) {
    IntervalStats stats;
    stats.server = server;
    stats.has_several_connectors = is_several(server);
    stats.connectors = interval.connectors.reduce();
    stats.cuda_graphs = counts_of(interval.batches);
    if (!stats.connectors.empty() || !stats.cuda_graphs.empty()) out.push_back(std::move(stats));
  }
  intervals_.clear();
  return out;
}

std::vector<IterationDetail> SampleFeed::take_iterations() {
  return std::exchange(iterations_, {});
}

void SampleFeed::forget_dead(const BusReader& bus) {
  latest_stream_ = nullptr;
  latest_use_ = nullptr;
  std::set<std::uint64_t> living;
  for (const auto& [name, live] : bus.live()) living.insert(live.reader->serial());
  const auto is_gone = [&](std::uint64_t serial) { return living.count(serial) == 0; };
  std::erase_if(uses_, [&](const auto& entry) { return is_gone(entry.first); });
  for (auto& [engine, feeders] : feeders_) std::erase_if(feeders, is_gone);
  // A server without any feeder is over; its window would speak of another life.
  std::erase_if(server_windows_, [&](const auto& entry) {
    return std::none_of(feeders_.begin(), feeders_.end(), [&](const auto& fed) {
      return !fed.second.empty() && server_key(fed.first) == entry.first;
    });
  });
}

}  // namespace rankbus
