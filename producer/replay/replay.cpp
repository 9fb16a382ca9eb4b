#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <rankbus/producer/replay/call_records.hpp>
#include <rankbus/producer/replay/call_truth.hpp>
#include <rankbus/producer/replay/replay.hpp>
#include <stdexcept>

namespace rankbus::replay {
namespace {

// The virtual clock begins here, because a stamp of 0 means now.
constexpr std::uint64_t kClockStart_ns = 1'000'000'000;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// SIGTERM and SIGINT end the replay between two calls.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // Waits so long, or until a signal; true if there was one.
  bool wait(double seconds) {
    timespec limit{};
    limit.tv_sec = static_cast<time_t>(seconds);
    limit.tv_nsec = static_cast<long>((seconds - std::floor(seconds)) * 1e9);
    return came_ = came_ || sigtimedwait(&set_, nullptr, &limit) > 0;
  }
  void wait_for_ever() {
    int signal = 0;
    if (!came_) sigwait(&set_, &signal);
  }

 private:
  sigset_t set_{};
  bool came_ = false;
};

std::string server_name() {
  for (const char* variable : {"RANKBUS_SERVER", "POD_NAME"}) {
    const char* value = std::getenv(variable);
    if (value != nullptr && value[0] != '\0') return value;
  }
  return "";
}

class Replay {
 public:
  explicit Replay(const ReplayOptions& options) : options_(options) {}

  int run() {
    survey();
    open_producers();
    write_calls();
    if (!options_.truth.empty() && !signalled_) write_truth();
    report();
    if (options_.linger) {
      std::fprintf(stderr, "rankbus replay: all is published; staying until SIGTERM or SIGINT\n");
      signals_.wait_for_ever();
    }
    return 0;
  }

 private:
  [[noreturn]] void refuse(std::uint64_t line, const std::string& what) const {
    throw BadLine(options_.file + " line " + std::to_string(line) + ": " + what +
                  ". Nothing was published; --skip-bad leaves such lines out");
  }

  // Reads the whole file once, so that nothing is published of a file that cannot be, and so that
  // every family that the file feeds is there from the first call on.
  void survey() {
    CallsFile file(options_.file);
    header_ = file.header();
    Features configured;
    std::vector<std::string> unknown;
    if (header_.features) configured = features_of(*header_.features, unknown);
    Features found;
    std::set<std::uint32_t> engines(header_.engines.begin(), header_.engines.end());
    for_each_call(
        file,
        [&](const Call& call) {
          const CallRecords records(call, header_, configured);
          if (call.is_for_all()) return;
          const bool is_known = header_.engines.empty() || engines.count(call.engine) != 0;
          if (!is_known) {
            throw BadLine("engine " + std::to_string(call.engine) +
                          " is not among the header's engines");
          }
          engines.insert(call.engine);
          found.merge(records.features());
          unknown_connectors_ += records.unknown_connectors();
        },
        /*refusing=*/true);
    if (engines.empty()) engines.insert(0);
    engines_.assign(engines.begin(), engines.end());
    features_ = header_.features ? configured : found;
    // A name that says nothing here may mean any of what the calls contain.
    if (!unknown.empty()) features_.insert(found.begin(), found.end());
    for (const std::string& name : unknown) {
      std::fprintf(stderr,
                   "rankbus replay: features: \"%s\" is no record type (see rankbus describe); "
                   "families appear for what the file contains as well\n",
                   name.c_str());
    }
    if (file.is_cut()) {
      std::fprintf(stderr,
                   "rankbus replay: %s ends in the middle of a line; who wrote it was stopped. The "
                   "lines before it are replayed\n",
                   options_.file.c_str());
    }
    if (unknown_connectors_ > 0) {
      std::fprintf(stderr,
                   "rankbus replay: %llu payloads of connectors that are not known are left out\n",
                   static_cast<unsigned long long>(unknown_connectors_));
    }
    for (const std::string& feature : found) {
      if (features_.count(feature) != 0 || feature == record_type<SchedulerStep>()->name) continue;
      std::fprintf(stderr,
                   "rankbus replay: the calls have %s, which the header's features do not name; it "
                   "is left out, as vLLM does\n",
                   feature.c_str());
    }
    if (header_.cache_config.is_object()) features_.insert(record_type<CacheConfig>()->name);
    truth_ = std::make_unique<CallTruth>(header_, engines_, features_, server_name());
  }

  template <class Use>
  void for_each_call(CallsFile& file, Use use, bool refusing) {
    skipped_ = 0;
    Call call;
    for (;;) {
      try {
        if (!file.next(call)) return;
        use(call);
      } catch (const BadLine& bad) {
        if (refusing && !options_.skip_bad) refuse(file.line(), bad.what());
        ++skipped_;
      }
      if (signalled_) return;
    }
  }

  void open_producers() {
    const bus::RecordType* types[kBuiltInTypes];
    list_built_in_types(types);
    for (const std::uint32_t engine : engines_) {
      OpenOptions options;
      options.bus = options_.bus.c_str();
      options.model = header_.model_name.c_str();
      options.engine = engine;
      options.role = Role::frontend;
      options.max_model_len = header_.max_model_len;
      options.num_speculative_tokens = header_.num_speculative_tokens;
      options.clock = ClockDomain::virtual_time;
      options.clock_start_ns = kClockStart_ns;
      options.segment_bytes = std::uint64_t{4} << 20;
      std::size_t next = 0;
      options.records[next++] = record_type<SchedulerStep>();
      for (const bus::RecordType* type : types) {
        if (type != record_type<SchedulerStep>() && features_.count(type->name) != 0)
          options.records[next++] = type;
      }
      Producer& producer = producers_[engine];
      producer = Producer::open(options);
      if (producer.inert()) throw Failure(std::string(producer.reason()));
      write_first(producer);
    }
  }

  // What vLLM says when an engine has started.
  void write_first(Producer& producer) {
    SleepState awake = sleep_state(false, 0);
    awake.stamp = kClockStart_ns;
    producer.record(awake);
    if (!header_.cache_config.is_object()) return;
    InfoText text = cache_config_text(header_.cache_config);
    CacheConfig config;
    config.stamp = kClockStart_ns;
    config.config = text.words();
    producer.record(config);
  }

  void write_calls() {
    CallsFile file(options_.file);
    const std::uint64_t began_ns = bus::monotonic_ns();
    std::optional<double> first_s;
    double latest_s = 0;
    for_each_call(
        file,
        [&](const Call& call) {
          // The survey skipped what must be skipped; a line that throws here throws before it
          // writes.
          CallRecords records(call, header_, features_);
          if (!header_.engines.empty() && !call.is_for_all() && producers_.count(call.engine) == 0)
            throw BadLine("engine is not among the header's");
          if (call.t_s && !first_s) first_s = *call.t_s;
          if (call.t_s) latest_s = std::max(0.0, *call.t_s - *first_s);
          if (!wait_until(began_ns, latest_s)) return;
          const std::uint64_t stamp = kClockStart_ns + static_cast<std::uint64_t>(latest_s * 1e9);
          if (call.is_for_all()) {
            for (auto& [engine, producer] : producers_) records.write(producer, stamp);
          } else {
            records.write(producers_.at(call.engine), stamp);
          }
          truth_->observe(call);
          ++written_;
        },
        /*refusing=*/false);
    seconds_ = latest_s;
    elapsed_s_ = static_cast<double>(bus::monotonic_ns() - began_ns) * 1e-9;
  }

  // False if a signal came first.
  bool wait_until(std::uint64_t began_ns, double call_s) {
    const double elapsed_s = static_cast<double>(bus::monotonic_ns() - began_ns) * 1e-9;
    const double wait_s = std::isinf(options_.speed) ? 0 : call_s / options_.speed - elapsed_s;
    // Without anything to wait for, a look at the signals now and then is enough.
    if (wait_s > 0 || written_ % 1024 == 0) signalled_ = signals_.wait(std::max(wait_s, 0.0));
    return !signalled_;
  }

  // Written aside and renamed, so that who sees the file sees all of it.
  void write_truth() const {
    const std::string aside = options_.truth + "." + std::to_string(getpid()) + ".tmp";
    std::FILE* file = std::fopen(aside.c_str(), "we");
    const std::string text = truth_->json();
    const bool written =
        file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
    const bool closed = file != nullptr && std::fclose(file) == 0;
    if (!written || !closed || std::rename(aside.c_str(), options_.truth.c_str()) != 0)
      throw Failure("--truth " + options_.truth + ": " + std::strerror(errno));
  }

  void report() const {
    std::printf(
        "replayed %llu calls of %zu engine%s (%llu bad lines left out): %.1f s on the virtual "
        "clock, %.1f s of ours%s%s\n",
        static_cast<unsigned long long>(written_), engines_.size(), engines_.size() == 1 ? "" : "s",
        static_cast<unsigned long long>(skipped_), seconds_, elapsed_s_,
        options_.truth.empty() ? "" : "; truth in ", options_.truth.c_str());
    std::fflush(stdout);
  }

  ReplayOptions options_;
  Signals signals_;
  CallsHeader header_;
  Features features_;
  std::vector<std::uint32_t> engines_;
  std::map<std::uint32_t, Producer> producers_;
  std::unique_ptr<CallTruth> truth_;
  std::uint64_t written_ = 0;
  std::uint64_t skipped_ = 0;
  std::uint64_t unknown_connectors_ = 0;
  double seconds_ = 0;
  double elapsed_s_ = 0;
  bool signalled_ = false;
};

double parse_speed(const std::string& text) {
  if (text == "max") return std::numeric_limits<double>::infinity();
  double speed = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, speed);
  if (error != std::errc{} || rest != end || !(speed >= 0.001 && speed <= 1e6)) {
    throw CLI::ValidationError("--speed",
                               "'" + text + "' is neither max nor a factor from 0.001 to 1e6");
  }
  return speed;
}

}  // namespace

int run_replay(const ReplayOptions& options) {
  try {
    return Replay(options).run();
  } catch (const BadLine& bad) {
    std::fprintf(stderr, "rankbus replay: %s\n", bad.what());
    return 2;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "rankbus replay: %s\n", failure.what());
    return 1;
  }
}

std::function<int()> add_replay_command(CLI::App& app) {
  const auto options = std::make_shared<ReplayOptions>();
  CLI::App* command = app.add_subcommand(
      "replay", "Write a file of recorded record() calls through real producers");
  command
      ->add_option("file", options->file,
                   "JSON lines as the vLLM plug-in records them, plain or gzipped")
      ->required();
  command->add_option("--bus", options->bus, "bus directory");
  command
      ->add_option_function<std::string>(
          "--speed", [options](const std::string& text) { options->speed = parse_speed(text); },
          "recorded seconds per second, or max")
      ->type_name("FACTOR|max")
      ->default_str("1");
  command->add_flag("--linger", options->linger, "keep the producers until SIGTERM or SIGINT");
  command->add_option("--truth", options->truth,
                      "write the expected values of /metrics to this file");
  command->add_flag("--skip-bad", options->skip_bad, "leave bad lines out instead of ending");
  return [options] { return run_replay(*options); };
}

}  // namespace rankbus::replay
