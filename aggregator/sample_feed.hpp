// aggregator/sample_feed.hpp: what needs the records one by one.
//
// Totals say most things. Windows over the latest requests, percentiles of an interval, counts of
// distinct batches and lines of single iterations cannot be had from totals, so they are fed from
// samples here; where samples were lost they cover less, and never more.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/aggregator/cache_window.hpp>
#include <rankbus/aggregator/connector_pool.hpp>
#include <rankbus/aggregator/sample_fields.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace rankbus {

// vLLM's windows of one engine.
struct CacheWindows {
  CacheHitWindow prefix;
  CacheHitWindow external_prefix;
  CacheHitWindow multimodal;
};

// Used by the reading thread only.
class SampleFeed {
 public:
  void observe(const LiveSegment& segment, const Sample& sample);

  // Null if the engine had no such sample.
  const CacheWindows* windows(const EngineKey& engine) const;
  // Over all engines of each server.
  std::vector<ServerCaches> server_caches() const;

  // What the interval until now told, by engine and pooled by server; the next one begins.
  std::vector<IntervalStats> take_interval(const BusReader& bus);
  std::vector<IterationDetail> take_iterations();
  bool has_iterations() const { return !iterations_.empty(); }

  // Forgets what it keeps for segments that are gone.
  void forget_dead(const BusReader& bus);

 private:
  enum class Purpose : std::uint8_t {
    none,
    scheduler_step,
    multimodal_cache,
    cuda_graph,
    iteration_details,
    connector,
  };
  // What a stream is for, and where its fields are, found once. -1: the stream has no such field.
  struct Use {
    Purpose purpose = Purpose::none;
    std::array<int, 10> fields = {};
    std::string connector;
  };
  using Uses = std::map<const StreamSchema*, Use>;

  // One row of the CUDA graph table: unpadded, padded, paddings, mode.
  using Batch = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::string>;
  struct BatchCount {
    std::uint64_t count = 0;
    std::uint64_t first_seen = 0;
  };
  struct Interval {
    std::map<Batch, BatchCount> batches;
    MultiConnectorStats connectors;
  };

  static Use use_of(const StreamSchema& stream);
  const Use& find_use(const LiveSegment& segment, const StreamSchema& stream);
  void observe_caches(const LiveSegment& segment, const Use& use, const Sample& sample);
  static void observe_cache(const Use& use, const Sample& sample, std::size_t first,
                            CacheHitWindow& window);
  static std::vector<CudaGraphCount> counts_of(const std::map<Batch, BatchCount>& batches);
  void observe_batch(const LiveSegment& segment, const Use& use, const Sample& sample);
  void observe_iteration(const LiveSegment& segment, const Use& use, const Sample& sample);

  std::map<std::uint64_t, Uses> uses_;           // By the serial of the reader.
  const StreamSchema* latest_stream_ = nullptr;  // Records of a stream come in batches.
  std::uint64_t latest_serial_ = 0;
  const Use* latest_use_ = nullptr;
  std::map<EngineKey, CacheWindows> windows_;
  std::map<std::string, CacheWindows> server_windows_;
  // Who feeds an engine's windows. They are of one life of the engine: when all are gone and
  // somebody comes, they begin anew.
  std::map<EngineKey, std::set<std::uint64_t>> feeders_;  // Serials of their readers.
  std::map<EngineKey, Interval> intervals_;
  std::vector<IterationDetail> iterations_;
  std::uint64_t batches_seen_ = 0;
};

// The key of a server that exporters see. A server serves one model: two that were given one name,
// as all containers of a pod are, are two.
std::string server_key(const EngineKey& engine);

}  // namespace rankbus
