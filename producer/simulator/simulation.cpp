#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/interprocess/anonymous_shared_memory.hpp>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <new>
#include <rankbus/producer/simulator/simulation.hpp>

namespace rankbus::simulator {

namespace {

constexpr std::uint64_t kProgressEveryNs = 2'000'000'000;
// Children look at the stop flag ten times a second; one that does not end in this time is stuck.
constexpr std::uint64_t kGraceNs = 10'000'000'000;
constexpr std::size_t kObjectAlignment = 128;

template <class T>
constexpr std::size_t room_for() {
  return (sizeof(T) + kObjectAlignment - 1) / kObjectAlignment * kObjectAlignment;
}

std::size_t shared_bytes(const SimulateOptions& options) {
  const std::size_t front_end = room_for<Channel>() + room_for<FrontEndShare>();
  const std::size_t rank = room_for<Channel>() + room_for<RankShare>();
  const std::size_t children = 1u + options.front_ends + options.tp;
  const std::size_t engine = room_for<EngineShared>() + options.front_ends * front_end +
                             options.tp * rank + children * room_for<ChildReport>();
  return room_for<SimulationShared>() + options.engines * engine;
}

// The parent takes these signals when it looks for them, so none can come at a bad moment.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigemptyset(&blocked_);
    for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGUSR1}) sigaddset(&blocked_, signal);
    sigprocmask(SIG_BLOCK, &blocked_, &before_);
  }
  ~BlockedSignals() {
    // A request to end that came too late must not kill a process that is ending anyway.
    while (take({SIGTERM, SIGINT, SIGUSR1}, 0)) {
    }
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  // True when one of the signals had come, or came within the time.
  static bool take(std::initializer_list<int> signals, long wait_ns) {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : signals) sigaddset(&set, signal);
    const timespec wait = {.tv_sec = 0, .tv_nsec = wait_ns};
    return sigtimedwait(&set, nullptr, &wait) > 0;
  }

 private:
  sigset_t blocked_;
  sigset_t before_;
};

void restore_signals_in_child() {
  // A terminal sends SIGINT to everybody; the parent decides what it means.
  signal(SIGINT, SIG_IGN);
  StopFlag::watch_sigterm();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) {
    return "was killed by signal " + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  }
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

double seconds(std::uint64_t ns) {
  return static_cast<double>(ns) / 1e9;
}

EngineTruth truth_of(const EngineLinks& engine) {
  EngineTruth truth;
  truth.scheduler = engine.shared->truth;
  truth.features.add(engine.shared->features);
  for (const FrontEndShare* share : engine.front_end_shares) {
    truth.front_end.add(share->truth);
    truth.features.add(share->features);
  }
  for (const RankShare* share : engine.rank_shares) truth.features.add(share->features);
  return truth;
}

void announce(const RunPlan& plan) {
  const SimulateOptions& options = plan.options;
  if (plan.limits.max_sequence_tokens < options.max_model_len) {
    std::fprintf(stderr,
                 "rankbus simulate: warning: %u KV blocks hold %u tokens, fewer than "
                 "--max-model-len %u: sequences are limited to what the blocks hold\n",
                 options.kv_blocks, plan.limits.max_sequence_tokens, options.max_model_len);
  }
  const std::string source = options.trace.empty() ? "the generated workload" : options.trace;
  std::fprintf(stderr, "rankbus simulate: %zu requests of %s on %u engine%s x TP %u, %s clock\n",
               plan.workload.requests.size(), source.c_str(), options.engines,
               options.engines == 1 ? "" : "s", options.tp, plan.real_clock() ? "real" : "virtual");
}

}  // namespace

OpenOptions ChildContext::producer_options() const {
  OpenOptions options;
  options.bus = plan.options.bus.c_str();
  options.server = plan.server.c_str();
  options.run_id = plan.run_id.c_str();
  options.model = plan.options.model.c_str();
  options.engine = engine_index;
  options.max_model_len = plan.options.max_model_len;
  options.clock = plan.real_clock() ? ClockDomain::real : ClockDomain::virtual_time;
  return options;
}

bool ChildContext::begin(const Producer& producer) {
  if (producer.inert()) {
    std::snprintf(report.inert_reason, sizeof report.inert_reason, "%s", producer.reason());
  }
  ++simulation.ready;
  simulation.events.post();
  return wait_unless_stopped(simulation.start, simulation.stop);
}

void ChildContext::end() {
  ++simulation.published;
  simulation.events.post();
  wait_unless_stopped(simulation.release, simulation.stop);
}

TimeScale ChildContext::time_scale() const {
  if (!plan.real_clock()) return {};
  return {.origin_ns = simulation.origin_ns, .speed = plan.options.speed};
}

Simulation::Simulation(RunPlan plan)
    : plan_(std::move(plan)),
      memory_(boost::interprocess::anonymous_shared_memory(shared_bytes(plan_.options))) {
  shared_ = make_shared_object<SimulationShared>();
  for (std::uint32_t engine = 0; engine < plan_.options.engines; ++engine) {
    EngineLinks& links = engines_.emplace_back();
    links.shared = make_shared_object<EngineShared>();
    for (std::uint32_t i = 0; i < plan_.options.front_ends; ++i) {
      links.front_ends.push_back(make_shared_object<Channel>());
      links.front_end_shares.push_back(make_shared_object<FrontEndShare>());
    }
    for (std::uint32_t rank = 0; rank < plan_.options.tp; ++rank) {
      links.ranks.push_back(make_shared_object<Channel>());
      links.rank_shares.push_back(make_shared_object<RankShare>());
    }
  }
}

Simulation::~Simulation() {
  for (const Child& child : children_) {
    if (child.pid == 0) continue;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
  }
}

template <class T>
T* Simulation::make_shared_object() {
  auto* place = static_cast<std::byte*>(memory_.get_address()) + memory_used_;
  memory_used_ += room_for<T>();
  return new (place) T();
}

int Simulation::run() {
  const BlockedSignals signals;
  announce(plan_);
  started_ns_ = monotonic_now_ns();
  next_progress_ns_ = started_ns_ + kProgressEveryNs;
  Watched watched = Watched::failed;
  if (start_children()) {
    const auto all = static_cast<std::uint32_t>(children_.size());
    watched = watch([&] { return shared_->ready == all; });
    if (watched == Watched::reached) {
      warn_about_inert_producers();
      watched = wait_while_held();
    }
    if (watched == Watched::reached) {
      shared_->origin_ns = monotonic_now_ns();
      for (std::uint32_t i = 0; i < all; ++i) shared_->start.post();
      watched = watch([&] { return shared_->published == all; });
    }
  }
  if (watched == Watched::reached) {
    if (!plan_.options.truth.empty()) write_truth();
    print_summary();
    return linger_and_release();
  }
  if (watched == Watched::interrupted) {
    std::fprintf(stderr, "rankbus simulate: told to end before the workload was served%s\n",
                 plan_.options.truth.empty() ? "" : "; no truth file is written");
  }
  end_children(/*release=*/false);
  return watched == Watched::interrupted ? 0 : 1;
}

bool Simulation::start_children() {
  std::fflush(nullptr);  // What is buffered now would otherwise be printed by every child.
  for (std::uint32_t engine = 0; engine < plan_.options.engines; ++engine) {
    const std::string number = std::to_string(engine);
    if (!start_child(engine, "scheduler", "sim-sched-" + number, run_scheduler)) return false;
    for (std::uint32_t i = 0; i < plan_.options.front_ends; ++i) {
      const bool alone = plan_.options.front_ends == 1;
      const std::string which = alone ? "" : " " + std::to_string(i);
      const std::string short_which = alone ? "" : "." + std::to_string(i);
      if (!start_child(engine, "front end" + which, "sim-front-" + number + short_which,
                       [i](ChildContext& context) { return run_front_end(context, i); })) {
        return false;
      }
    }
    for (std::uint32_t rank = 0; rank < plan_.options.tp; ++rank) {
      std::string short_name = "sim-rank-";
      short_name.append(number).append(".").append(std::to_string(rank));
      if (!start_child(engine, "rank " + std::to_string(rank), short_name,
                       [rank](ChildContext& context) { return run_rank(context, rank); })) {
        return false;
      }
    }
  }
  return true;
}

bool Simulation::start_child(std::uint32_t engine, const std::string& part,
                             const std::string& short_name,
                             const std::function<int(ChildContext&)>& body) {
  const std::string name = "engine " + std::to_string(engine) + " " + part;
  auto* report = make_shared_object<ChildReport>();
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    std::fprintf(stderr, "rankbus simulate: no process for %s: %s\n", name.c_str(),
                 std::strerror(errno));
    return false;
  }
  if (pid > 0) {
    children_.push_back({pid, name, report});
    return true;
  }
  // A child never outlives its parent, not even one that is killed before this line.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  prctl(PR_SET_NAME, short_name.c_str());
  // Slept work is microseconds long; the default slack would add 50 of them to each.
  prctl(PR_SET_TIMERSLACK, 1000);
  restore_signals_in_child();
  // The parent says it once for all.
  setenv("RANKBUS_QUIET", "1", 1);
  _exit(run_child(engine, *report, name, body));
}

int Simulation::run_child(std::uint32_t engine, ChildReport& report, const std::string& name,
                          const std::function<int(ChildContext&)>& body) {
  try {
    ChildContext context = {plan_, *shared_, engines_[engine], engine, report};
    const int status = body(context);
    return StopFlag::told_to_end() ? kToldToEnd : status;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rankbus simulate: %s: %s\n", name.c_str(), error.what());
    return 1;
  }
}

Simulation::Watched Simulation::watch(const std::function<bool()>& reached, bool lingering) {
  for (;;) {
    if (reached()) return Watched::reached;
    wait_a_moment(shared_->events);
    // Before the children: whoever ends a whole process group means all of us, in any order.
    if (BlockedSignals::take({SIGTERM, SIGINT}, 0)) return Watched::interrupted;
    const Watched watched = reap_children(lingering);
    if (watched != Watched::reached) return watched;
    if (!lingering) show_progress();
  }
}

// Everybody who looks at the bus meanwhile sees all series before anything is counted.
Simulation::Watched Simulation::wait_while_held() {
  if (!plan_.options.hold) return Watched::reached;
  std::fprintf(stderr, "rankbus simulate: all processes are ready; waiting for SIGUSR1\n");
  return watch([] { return BlockedSignals::take({SIGUSR1}, 0); });
}

// `reached` here means that nothing stands in the way.
Simulation::Watched Simulation::reap_children(bool lingering) {
  for (Child& child : children_) {
    int status = 0;
    if (child.pid == 0 || waitpid(child.pid, &status, WNOHANG) != child.pid) continue;
    const pid_t pid = std::exchange(child.pid, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == kToldToEnd && !lingering) {
      std::fprintf(stderr, "rankbus simulate: %s (pid %d) was told to end\n", child.name.c_str(),
                   pid);
      return Watched::interrupted;
    }
    std::fprintf(stderr, "rankbus simulate: %s (pid %d) %s; %s\n", child.name.c_str(), pid,
                 describe_exit(status).c_str(),
                 lingering ? "the others stay" : "the simulation cannot go on without it");
    if (!lingering) return Watched::failed;
  }
  return Watched::reached;
}

void Simulation::warn_about_inert_producers() const {
  std::map<std::string, int> reasons;
  for (const Child& child : children_) {
    if (child.report->inert_reason[0] != '\0') ++reasons[child.report->inert_reason];
  }
  for (const auto& [reason, count] : reasons) {
    std::fprintf(stderr,
                 "rankbus simulate: warning: %d of %zu processes write no records, the simulation "
                 "goes on without them: %s\n",
                 count, children_.size(), reason.c_str());
  }
}

void Simulation::show_progress() {
  const std::uint64_t now_ns = monotonic_now_ns();
  if (now_ns < next_progress_ns_) return;
  next_progress_ns_ = now_ns + kProgressEveryNs;
  std::uint64_t requests = 0;
  std::uint64_t clock_ns = 0;
  for (const EngineLinks& engine : engines_) {
    requests += engine.shared->finished_requests + engine.shared->refused_requests;
    clock_ns = std::max<std::uint64_t>(clock_ns, engine.shared->clock_ns);
  }
  std::fprintf(stderr, "rankbus simulate: %" PRIu64 " of %zu requests, %.1f s on the %s clock\n",
               requests, plan_.workload.requests.size(), seconds(clock_ns),
               plan_.real_clock() ? "real" : "virtual");
}

void Simulation::write_truth() const {
  std::vector<EngineTruth> engines;
  for (const EngineLinks& engine : engines_) engines.push_back(truth_of(engine));
  const TruthHeader header = {.clock = plan_.real_clock() ? "real" : "virtual",
                              .seed = plan_.options.seed,
                              .model_name = plan_.options.model,
                              .server = plan_.server,
                              .max_model_len = plan_.options.max_model_len,
                              .features = plan_.options.features,
                              .kv_blocks = plan_.options.kv_blocks};
  write_truth_file(plan_.options.truth, truth_json(header, engines));
}

void Simulation::print_summary() const {
  std::uint64_t finished = 0;
  std::uint64_t unfinished = 0;
  std::uint64_t refused = 0;
  std::uint64_t steps = 0;
  std::uint64_t clock_ns = 0;
  std::uint64_t prompt = 0;
  std::uint64_t cached = 0;
  std::uint64_t generated = 0;
  for (const EngineLinks& engine : engines_) {
    const FrontEndTruth truth = truth_of(engine).front_end;
    unfinished += engine.shared->unfinished_requests;
    finished += engine.shared->finished_requests;
    refused += engine.shared->refused_requests;
    steps += engine.shared->steps;
    clock_ns = std::max<std::uint64_t>(clock_ns, engine.shared->clock_ns);
    prompt += truth.computed_tokens + truth.local_cache_hit_tokens + truth.external_tokens;
    cached += truth.local_cache_hit_tokens;
    generated += truth.generation_tokens;
  }
  const std::string left = std::isfinite(plan_.options.until_s)
                               ? ", " + std::to_string(unfinished) + " not finished"
                               : "";
  std::printf(
      "simulated %" PRIu64 " requests (%" PRIu64 " refused as too long%s), %" PRIu64
      " prompt tokens (%" PRIu64 " from the prefix cache), %" PRIu64 " output tokens in %" PRIu64
      " steps on %u engine%s x TP %u: %.1f s on the %s clock, %.1f s of ours%s%s\n",
      finished, refused, left.c_str(), prompt, cached, generated, steps, plan_.options.engines,
      plan_.options.engines == 1 ? "" : "s", plan_.options.tp, seconds(clock_ns),
      plan_.real_clock() ? "real" : "virtual", seconds(monotonic_now_ns() - started_ns_),
      plan_.options.truth.empty() ? "" : "; truth in ", plan_.options.truth.c_str());
  std::fflush(stdout);
}

int Simulation::linger_and_release() {
  if (plan_.options.linger) {
    std::fprintf(stderr, "rankbus simulate: all is published; staying until SIGTERM or SIGINT\n");
    watch([] { return false; }, /*lingering=*/true);
  }
  end_children(/*release=*/true);
  return 0;
}

void Simulation::end_children(bool release) {
  if (release) {
    for (std::size_t i = 0; i < children_.size(); ++i) shared_->release.post();
  } else {
    shared_->stop.stop_all();
  }
  const std::uint64_t deadline_ns = monotonic_now_ns() + kGraceNs;
  for (Child& child : children_) {
    while (child.pid != 0 && waitpid(child.pid, nullptr, WNOHANG) == 0) {
      if (monotonic_now_ns() > deadline_ns) kill(child.pid, SIGKILL);
      BlockedSignals::take({SIGCHLD}, 100'000'000);
    }
    child.pid = 0;
  }
}

}  // namespace rankbus::simulator
