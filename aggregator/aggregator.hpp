// aggregator/aggregator.hpp: the thread that reads the bus and makes snapshots.
//
// One thread owns all reading and folding. Whoever wants a current view asks with `fresh`: the
// thread then makes a pass that began after the request, for everybody who asked by then. Snapshots
// for the log go through a lock-free queue to a thread of their own, so that a slow disk does not
// delay a read. Warnings, which are rare, are written by the reading thread itself.
#pragma once

#include <boost/lockfree/spsc_queue.hpp>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <rankbus/aggregator/alerts.hpp>
#include <rankbus/aggregator/analysis_feed.hpp>
#include <rankbus/aggregator/dialect.hpp>
#include <rankbus/aggregator/reduce.hpp>
#include <semaphore>
#include <string>
#include <thread>

namespace rankbus {

struct AggregatorOptions {
  BusOptions bus;
  ReduceOptions reduce;
  Dialect dialect;  // Names of the families that exporters see.
  AnalysisOptions analysis;
  std::vector<AlertRule> alerts;
  double log_interval_s = 10;  // 0: no periodic snapshots for the log.
};

// Whoever needs the records one by one.
struct Feeds {
  explicit Feeds(const AnalysisOptions& options = {}) : analysis(options) {}

  SampleFeed samples;
  AnalysisFeed analysis;

  // One pass of the bus through both. Returns true if any record was read.
  bool pass(BusReader& bus, const TickClock& clock, double now_s, bool fresh);
};

// One snapshot of a bus as it was read last, in the records' own names.
Snapshot make_snapshot(const BusReader& bus, const Feeds& feeds, const TickClock& clock,
                       double now_s, const ReduceOptions& options);

// Reads a bus that somebody else may own, once, for a snapshot equal to what `/metrics` would show.
// Nothing is kept, so totals of producers that died and were removed are not in it.
Result<Snapshot> read_bus_once(const BusOptions& options, const ReduceOptions& reduce,
                               BusReader::Warn warn);

class Aggregator {
 public:
  // `periodic` is called on the log's thread: with true every interval, with false when processes
  // came or went in between.
  using Periodic = std::function<void(const Snapshot&, bool interval_is_over)>;

  static Result<std::unique_ptr<Aggregator>> open(const AggregatorOptions& options,
                                                  BusReader::Warn warn, Periodic periodic);
  ~Aggregator();
  Aggregator(const Aggregator&) = delete;
  Aggregator& operator=(const Aggregator&) = delete;

  void start();
  // A last pass, a last periodic call, then both threads end. Idempotent.
  void stop();

  // The result of a pass that began after this call. After `limit_s`, in which this process ran,
  // the newest there is, which is not `complete` then: what is old must not be taken for fresh.
  // With analyses only where asked for, because nobody scrapes them.
  std::shared_ptr<const Snapshot> fresh(SnapshotParts parts = SnapshotParts::families,
                                        double limit_s = 5.0);

  const std::string& directory() const { return bus_->directory(); }

 private:
  struct ForLog {
    std::shared_ptr<const Snapshot> snapshot;
    bool interval_is_over = false;
  };

  Aggregator(const AggregatorOptions& options, Periodic periodic);
  void read_loop();
  void log_loop();
  void one_pass(bool fresh);
  Ledger::Sections sections() const;
  std::shared_ptr<const Snapshot> make_snapshot(SnapshotParts parts);
  void look_for_alerts(std::vector<Family>& families);
  void hand_to_log(bool interval_is_over);

  AggregatorOptions options_;
  Periodic periodic_;

  // Touched by the reading thread only.
  std::unique_ptr<BusReader> bus_;
  TickClock clock_;
  Feeds feeds_;
  AlertWatch watch_;
  AlertBoard board_;
  std::vector<AlertNote> alert_notes_;  // Not yet handed to the log.
  double next_look_s_ = 0;
  std::uint64_t changes_seen_ = 0;
  std::uint64_t passes_ = 0;
  double pass_s_ = 0;  // When the latest pass began, CLOCK_MONOTONIC.
  double next_log_s_ = 0;
  double poll_s_ = 0.02;

  // Guarded by the mutex.
  std::mutex mutex_;
  std::condition_variable wake_reader_;
  std::condition_variable snapshot_made_;
  std::uint64_t requested_ = 0;
  std::uint64_t served_ = 0;
  SnapshotParts requested_parts_ = SnapshotParts::families;
  bool stopping_ = false;
  std::shared_ptr<const Snapshot> latest_;

  // Between the reading thread and the log's.
  boost::lockfree::spsc_queue<ForLog, boost::lockfree::capacity<64>> for_log_;
  std::counting_semaphore<> log_work_{0};

  std::thread reader_;
  std::thread logger_;
};

}  // namespace rankbus
