#include <algorithm>
#include <chrono>
#include <rankbus/aggregator/aggregator.hpp>
#include <utility>

namespace rankbus {
namespace {

// A reader that spins slows the writers down, so busy polls are gentle and idle ones rare. Rings
// hold seconds; a fifth of one also finds new processes before they have written much.
constexpr double kBusyPoll_s = 0.02;
constexpr double kIdlePoll_s = 0.2;
// Whoever waits for a snapshot looks at the clock so often.
constexpr double kSlice_s = 0.1;
// Alerts are looked for in every snapshot; this often there is one.
constexpr double kLookForAlertsEvery_s = 5;
// The ledger's section of counters that are made of finished requests.
constexpr const char* kGoodputSection = "goodput";

double monotonic_s() {
  return static_cast<double>(bus::monotonic_ns()) * 1e-9;
}

}  // namespace

bool Feeds::pass(BusReader& bus, const TickClock& clock, double now_s, bool fresh) {
  const bool any = bus.pass(now_s, fresh, [&](const LiveSegment& segment, const Sample& sample) {
    samples.observe(segment, sample);
    analysis.observe(segment, sample, clock);
  });
  analysis.end_pass(bus, clock);
  return any;
}

Snapshot make_snapshot(const BusReader& bus, const Feeds& feeds, const TickClock& clock,
                       double now_s, const ReduceOptions& options) {
  Snapshot snapshot;
  snapshot.monotonic_s = now_s;
  snapshot.complete = bus.complete();
  FamilyBuilder families;
  const ValuesByIdentity values = collect_values(bus, clock, now_s, options.gauge_ttl_s);
  reduce_records(bus, values, now_s, options, families);
  feeds.analysis.add_families(bus, now_s, options.retain_engine_s, families);
  families.set_created(process_start_s());
  add_self_metrics(bus, clock, now_s, options, families);
  snapshot.families = families.take();
  snapshot.engines = engine_totals(bus, values, clock, now_s, options, feeds.samples);
  snapshot.caches = feeds.samples.server_caches();
  return snapshot;
}

Aggregator::Aggregator(const AggregatorOptions& options, Periodic periodic)
    : options_(options),
      periodic_(std::move(periodic)),
      feeds_(options.analysis),
      watch_(options.alerts) {}

Result<std::unique_ptr<Aggregator>> Aggregator::open(const AggregatorOptions& options,
                                                     BusReader::Warn warn, Periodic periodic) {
  auto bus = BusReader::open(options.bus, std::move(warn));
  if (!bus) return Error{bus.error()};
  std::unique_ptr<Aggregator> aggregator(new Aggregator(options, std::move(periodic)));
  aggregator->bus_ = std::move(bus.value());
  // Bytes that cannot be read are of a build before or after this one; those counters begin anew.
  for (const auto& [name, bytes] : aggregator->bus_->sections_at_start()) {
    if (name == kGoodputSection) (void)aggregator->feeds_.analysis.restore_untrusted(bytes);
  }
  return aggregator;
}

Ledger::Sections Aggregator::sections() const {
  return {{kGoodputSection, feeds_.analysis.saved_counters()}};
}

Aggregator::~Aggregator() {
  stop();
}

void Aggregator::start() {
  next_log_s_ = monotonic_s() + options_.log_interval_s;
  reader_ = std::thread([this] { read_loop(); });
  logger_ = std::thread([this] { log_loop(); });
}

void Aggregator::stop() {
  if (!reader_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_reader_.notify_one();
  reader_.join();
  log_work_.release();
  logger_.join();
}

std::shared_ptr<const Snapshot> Aggregator::fresh(SnapshotParts parts, double limit_s) {
  std::unique_lock lock(mutex_);
  requested_parts_ = std::max(requested_parts_, parts);
  const std::uint64_t ticket = ++requested_;
  wake_reader_.notify_one();
  const auto is_over = [&] { return served_ >= ticket || stopping_; };
  // In slices, because the clock goes on while a process is stopped: after it both threads go on,
  // and the reader gets its time all the same.
  for (double left_s = limit_s; left_s > 0 && !is_over(); left_s -= kSlice_s)
    snapshot_made_.wait_for(lock, std::chrono::duration<double>(kSlice_s), is_over);
  if (is_over() || latest_ == nullptr) return latest_;
  auto old = std::make_shared<Snapshot>(*latest_);
  old->complete = false;
  return old;
}

void Aggregator::read_loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const std::uint64_t tickets = requested_;
    const bool asked = tickets > served_;
    const SnapshotParts parts = std::exchange(requested_parts_, SnapshotParts::families);
    lock.unlock();
    one_pass(asked);
    const bool interval_is_over = options_.log_interval_s > 0 && monotonic_s() >= next_log_s_;
    const bool changed = bus_->changes() != changes_seen_;
    changes_seen_ = bus_->changes();
    if (changed) {
      feeds_.samples.forget_dead(*bus_);
      feeds_.analysis.forget_dead(*bus_);
    }
    std::shared_ptr<const Snapshot> made;
    const bool tells_iterations = feeds_.samples.has_iterations();
    if (asked || interval_is_over || changed || tells_iterations || pass_s_ >= next_look_s_)
      made = make_snapshot(parts);
    lock.lock();
    if (made) latest_ = made;
    if (asked) {
      served_ = tickets;
      snapshot_made_.notify_all();
    }
    lock.unlock();
    if (interval_is_over || changed || tells_iterations || !alert_notes_.empty())
      hand_to_log(interval_is_over);
    lock.lock();
    const double until_log = options_.log_interval_s > 0 ? next_log_s_ - monotonic_s() : poll_s_;
    wake_reader_.wait_for(lock, std::chrono::duration<double>(std::clamp(until_log, 0.0, poll_s_)),
                          [&] { return stopping_ || requested_ > served_; });
  }
  lock.unlock();
  one_pass(true);
  bus_->finish(pass_s_, [this] { return sections(); });
  const auto last = make_snapshot(SnapshotParts::families);
  lock.lock();
  latest_ = last;
  lock.unlock();
  hand_to_log(true);
  snapshot_made_.notify_all();
}

void Aggregator::one_pass(bool fresh) {
  clock_.update();
  pass_s_ = monotonic_s();
  const bool any = feeds_.pass(*bus_, clock_, pass_s_, fresh || passes_ == 0);
  // A pass as a whole is in the ledger or is not, so nothing may come between the two.
  bus_->keep_ledger(
      pass_s_, [this] { return sections(); }, fresh);
  ++passes_;
  poll_s_ = any ? kBusyPoll_s : std::min(kIdlePoll_s, poll_s_ * 1.5);
}

std::shared_ptr<const Snapshot> Aggregator::make_snapshot(SnapshotParts parts) {
  feeds_.analysis.forget_engines(*bus_, pass_s_, options_.reduce.retain_engine_s);
  // Not a later time: by it, who lived in this pass would already be gone for a moment.
  Snapshot snapshot = rankbus::make_snapshot(*bus_, feeds_, clock_, pass_s_, options_.reduce);
  if (parts == SnapshotParts::analyses_too) snapshot.analyses = feeds_.analysis.analyses();
  snapshot.pass = passes_;
  look_for_alerts(snapshot.families);
  options_.dialect.apply(snapshot.families);
  if (options_.reduce.created_series) add_created_series(snapshot.families);
  return std::make_shared<const Snapshot>(std::move(snapshot));
}

// Alerts are looked for in the records' own names, before the dialect.
void Aggregator::look_for_alerts(std::vector<Family>& families) {
  next_look_s_ = pass_s_ + kLookForAlertsEvery_s;
  board_.begin(pass_s_);
  watch_.look(families, pass_s_, board_);
  feeds_.analysis.raise_alerts(board_);
  for (const AlertChange& change : board_.end()) {
    alert_notes_.push_back({change.alert.name, alert_level_name(change.alert.level),
                            change.alert.message, change.is_over, change.held_s});
  }
  FamilyBuilder builder;
  builder.set_created(process_start_s());
  board_.add_families(builder);
  for (Family& family : builder.take()) families.push_back(std::move(family));
  std::sort(families.begin(), families.end(),
            [](const Family& a, const Family& b) { return a.name < b.name; });
}

// A log that cannot keep up misses intervals; its rates then cover the longer time. What only
// samples told goes to the log and to nobody else; families are not copied for it.
void Aggregator::hand_to_log(bool interval_is_over) {
  if (interval_is_over) next_log_s_ = monotonic_s() + options_.log_interval_s;
  if (for_log_.write_available() == 0) return;
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->pass = latest_->pass;
  snapshot->monotonic_s = latest_->monotonic_s;
  snapshot->complete = latest_->complete;
  snapshot->engines = latest_->engines;
  snapshot->caches = latest_->caches;
  if (interval_is_over) snapshot->intervals = feeds_.samples.take_interval(*bus_);
  snapshot->iterations = feeds_.samples.take_iterations();
  snapshot->alerts = std::exchange(alert_notes_, {});
  if (for_log_.push(ForLog{std::move(snapshot), interval_is_over})) log_work_.release();
}

void Aggregator::log_loop() {
  for (;;) {
    log_work_.acquire();
    ForLog work;
    if (!for_log_.pop(work)) return;  // Woken without work: the end.
    if (periodic_ && work.snapshot) periodic_(*work.snapshot, work.interval_is_over);
  }
}

Result<Snapshot> read_bus_once(const BusOptions& options, const ReduceOptions& reduce,
                               BusReader::Warn warn) {
  BusOptions observing = options;
  observing.observe = true;
  auto bus = BusReader::open(observing, std::move(warn));
  if (!bus) return Error{bus.error()};
  TickClock clock;
  clock.update();
  Feeds feeds;
  const double now_s = monotonic_s();
  feeds.pass(**bus, clock, now_s, true);
  return make_snapshot(**bus, feeds, clock, now_s, reduce);
}

}  // namespace rankbus
