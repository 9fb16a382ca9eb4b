#include <pthread.h>
#include <pwd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/daemon.hpp>
#include <rankbus/aggregator/mapping_guard.hpp>
#include <rankbus/aggregator/sandbox.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/exporters/engine_log.hpp>
#include <rankbus/exporters/http_hosts.hpp>
#include <rankbus/exporters/http_server.hpp>
#include <rankbus/exporters/log_output.hpp>
#include <string>

namespace rankbus {
namespace {

struct AggregateOptions {
  std::string bus;
  std::string listen = "127.0.0.1:9855";
  std::vector<std::string> host_names;
  double log_interval_s = 10;
  std::string log_file;
  std::string log_level = "info";
  double retain_s = 3600;
  std::string state_dir;
  double forget_after_s = LedgerOptions{}.forget_after_s;
  bool observe = false;
  std::vector<std::string> allowed_users;
  std::vector<uid_t> allowed_uids;  // The same, resolved.
  bool sandbox = false;
  double gauge_ttl_s = 0;
  DialectOptions dialect;
  bool created_series = false;
  SloLimits slo;
  bool statistical_alerts = false;
  std::vector<std::string> alerts;
  std::string bad_vllm_interval;  // What VLLM_LOG_STATS_INTERVAL said, if that was no time.
};

// CLI::Range lets NaN pass, because NaN is neither below nor above anything.
CLI::Validator finite_range(double least, double most) {
  return CLI::Validator(
      [least, most](std::string& text) -> std::string {
        double value = 0;
        const bool is_number = CLI::detail::lexical_cast(text, value);
        if (is_number && value >= least && value <= most) return {};
        return "'" + text + "' is no number from " + CLI::detail::to_string(least) + " to " +
               CLI::detail::to_string(most);
      },
      "NUMBER");
}

// A segment costs a descriptor and a mapping; the default soft limit of 1024 is below what a bus
// holds.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Signals are waited for by the main thread, so that no handler runs anywhere.
sigset_t block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A client that hangs up while it is answered is an error of one write, not of the process.
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

// A user id, or the name of a user of this machine; nothing if it is neither.
std::optional<uid_t> user_id(const std::string& text) {
  // All ones are no user: system calls take them for "leave it as it is".
  constexpr std::uint64_t kNobody = std::numeric_limits<uid_t>::max();
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc{} && last == end)
    return number < kNobody ? std::optional(static_cast<uid_t>(number)) : std::nullopt;
  const passwd* user = text.empty() ? nullptr : getpwnam(text.c_str());
  return user == nullptr ? std::nullopt : std::optional(user->pw_uid);
}

int fail(int status, const std::string& message) {
  std::fprintf(stderr, "rankbus: %s\n", message.c_str());
  return status;
}

void wait_for_end(const sigset_t& signals, LogOutput& log) {
  for (;;) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    if (signal != SIGHUP) return;
    if (const std::string why = log.reopen(); !why.empty()) log.logger()->error("{}", why);
  }
}

// Returns the exit status if it fails, else 0. Where this aggregator reads and writes from now on;
// the bus and the state directory are made, if they can be, while that is still allowed.
int enter_sandbox_for(const AggregateOptions& options) {
  char bus_path[bus::kPathBytes];
  bus::resolve_bus_path(options.bus.c_str(), bus_path);
  bus::Reason why;
  const bus::AllowedOwners allowed{options.allowed_uids.data(), options.allowed_uids.size()};
  const int directory = bus::open_bus_directory(bus_path, !options.observe, why, allowed);
  if (directory < 0) return fail(1, why.text);
  close(directory);
  // Ages, states and memory are read from /proc.
  SandboxDirectories directories{{"/proc"}, {}};
  (options.observe ? directories.read_only : directories.read_write).emplace_back(bus_path);
  if (!options.state_dir.empty() && !options.observe) {
    mkdir(options.state_dir.c_str(), 0700);
    directories.read_write.push_back(options.state_dir);
  }
  if (!options.log_file.empty()) {
    const auto folder = std::filesystem::path(options.log_file).parent_path();
    directories.read_write.push_back(folder.empty() ? "." : folder.string());
  }
  const std::string refusal = enter_sandbox(directories);
  return refusal.empty() ? 0 : fail(2, "--sandbox: " + refusal);
}

int run_aggregate(AggregateOptions& options) {
  const sigset_t signals = block_signals();
  raise_descriptor_limit();
  auto address = parse_listen_address(options.listen);
  if (!address) return fail(2, "--listen " + options.listen + ": " + address.error());
  const auto hosts = HttpHosts::parse(options.host_names);
  if (!hosts) return fail(2, "--allow-host " + hosts.error());
  for (const std::string& user : options.allowed_users) {
    const auto uid = user_id(user);
    if (!uid) {
      return fail(2, "--allow-uid " + user +
                         ": neither a user id, 0 to 4294967294, nor the name of a user here");
    }
    options.allowed_uids.push_back(*uid);
  }
  LogOptions log_options;
  log_options.level = spdlog::level::from_str(options.log_level);
  log_options.file = options.log_file;
  auto log = LogOutput::open(log_options);
  if (!log) return fail(1, "--log-file: " + log.error());
  const auto logger = log->logger();

  auto dialect = Dialect::load(options.dialect);
  if (!dialect) return fail(2, "--names " + dialect.error());
  AggregatorOptions aggregator_options;
  aggregator_options.dialect = dialect.value();
  aggregator_options.analysis = {options.slo, options.statistical_alerts};
  for (const std::string& text : options.alerts) {
    auto rule = AlertRule::parse(text);
    if (!rule) return fail(2, "--alert " + rule.error());
    aggregator_options.alerts.push_back(rule.value());
  }
  aggregator_options.reduce.created_series = options.created_series;
  aggregator_options.bus = {options.bus, options.observe, {}};
  aggregator_options.bus.allowed_uids = options.allowed_uids;
  // Segments are polled all day, so they are mapped; whoever cuts one must not end this process.
  if (MappingGuard::install()) aggregator_options.bus.access = ByteAccess::mapped;
  LedgerOptions& ledger = aggregator_options.bus.ledger;
  ledger.keep = true;
  ledger.directory = options.state_dir;
  ledger.retain_s = options.retain_s;
  ledger.forget_after_s = options.forget_after_s;
  aggregator_options.reduce.retain_engine_s = options.retain_s;
  // A rank's series do not outlive those of its engine.
  aggregator_options.reduce.retain_rank_s =
      std::min(aggregator_options.reduce.retain_rank_s, options.retain_s);
  ledger.retain_rank_s = aggregator_options.reduce.retain_rank_s;
  aggregator_options.reduce.gauge_ttl_s = options.gauge_ttl_s;
  aggregator_options.log_interval_s = options.log_interval_s;
  // Everything that was named is open, nothing of a stranger has been read, and no thread runs yet.
  if (options.sandbox) {
    if (const int status = enter_sandbox_for(options); status != 0) return status;
  }
  EngineLog engine_log(logger);
  auto aggregator = Aggregator::open(
      aggregator_options, [logger](const std::string& warning) { logger->warn("{}", warning); },
      [&engine_log](const Snapshot& snapshot, bool interval_is_over) {
        if (interval_is_over) {
          engine_log.log(snapshot);
        } else {
          engine_log.observe(snapshot);
        }
      });
  if (!aggregator) return fail(1, aggregator.error());
  Aggregator& running = *aggregator.value();
  auto server = HttpServer::start(
      *address, [&running](SnapshotParts parts) { return running.fresh(parts); }, {},
      options.host_names);
  if (!server) return fail(1, server.error());
  logger->info("Reading {}, metrics on http://{}/metrics", running.directory(),
               (*server)->address().text());
  if (!options.bad_vllm_interval.empty()) {
    logger->warn("VLLM_LOG_STATS_INTERVAL is '{}', expected seconds above 0; the interval is {} s",
                 options.bad_vllm_interval, options.log_interval_s);
  }
  running.start();
  wait_for_end(signals, *log);
  running.stop();
  (*server)->stop();
  logger->info("Ended after a last read of {}", running.directory());
  return 0;
}

}  // namespace

std::function<int()> add_aggregate_command(CLI::App& app) {
  auto options = std::make_shared<AggregateOptions>();
  CLI::App* command = app.add_subcommand(
      "aggregate", "Read every producer of a bus, and publish to Prometheus and the log");
  if (const char* interval = std::getenv("VLLM_LOG_STATS_INTERVAL")) {
    char* end = nullptr;
    const double seconds = std::strtod(interval, &end);
    if (end != interval && *end == '\0' && seconds > 0) {
      options->log_interval_s = seconds;
    } else if (interval[0] != '\0') {
      options->bad_vllm_interval = interval;
    }
  }
  command->add_option("--bus", options->bus,
                      "Bus directory; else RANKBUS_BUS, /run/rankbus or /dev/shm/rankbus-$UID");
  command->add_option("--listen", options->listen, "Address and port for HTTP")
      ->capture_default_str();
  command
      ->add_option(
          "--allow-host", options->host_names,
          "Name under which HTTP may be asked, besides addresses and localhost. Repeat for "
          "several")
      ->type_name("NAME")
      ->allow_extra_args(false);
  command
      ->add_option("--log-interval", options->log_interval_s,
                   "Seconds between throughput lines; 0: none. VLLM_LOG_STATS_INTERVAL is honoured")
      ->check(finite_range(0.0, 86400.0))
      ->capture_default_str();
  command->add_option("--log-file", options->log_file, "Also log to this file; reopened on SIGHUP");
  command
      ->add_option("--log-level", options->log_level, "debug also shows the lines of idle engines")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  command
      ->add_option("--retain", options->retain_s,
                   "Seconds that an engine's series stay after its last process ended")
      ->check(finite_range(0.0, 1e9))
      ->capture_default_str();
  command->add_option("--state-dir", options->state_dir,
                      "Directory of the ledger, which carries counts over restarts; else the bus");
  command
      ->add_option("--forget-after", options->forget_after_s,
                   "Seconds after which the ledger forgets an engine that did not come back")
      ->check(finite_range(0.0, 1e9))
      ->capture_default_str();
  command
      ->add_option("--names", options->dialect.names,
                   "Names of the engines' families: vllm, sglang, or a JSON file of your own")
      ->capture_default_str();
  command->add_flag("--deprecated-names", options->dialect.deprecated,
                    "Also show families that vLLM has deprecated");
  const auto add_limit = [&](const char* name, std::optional<double>& limit, const char* help) {
    command
        ->add_option_function<double>(
            name, [&limit](double seconds) { limit = seconds; }, help)
        ->check(finite_range(1e-6, 1e9))
        ->type_name("SECONDS");
  };
  add_limit("--slo-ttft", options->slo.ttft_s,
            "Requests whose time to first token is longer missed their objective");
  add_limit("--slo-inter-token", options->slo.inter_token_s,
            "... whose mean time per output token is longer");
  add_limit("--slo-end-to-end", options->slo.end_to_end_s, "... that took longer as a whole");
  command
      ->add_option("--alert", options->alerts,
                   "NAME [info|warning|critical] METRIC{label=\"value\"} > NUMBER [for SECONDS]; "
                   "rate(METRIC{...}) for growth per second. Repeat for several")
      ->type_name("RULE")
      ->allow_extra_args(false);
  command->add_flag("--statistical-alerts", options->statistical_alerts,
                    "Alert on unusual lives of KV blocks and on full caches; else only counted");
  command->add_flag("--created-series", options->created_series,
                    "Show when each counter and histogram began, as <name>_created");
  command->add_flag("--per-peer", options->dialect.per_peer,
                    "Show KV transfers by peer, not only by rank");
  command
      ->add_option("--gauge-ttl", options->gauge_ttl_s,
                   "Seconds after which a gauge that its living process did not set again is no "
                   "longer shown; 0: never")
      ->check(finite_range(0.0, 1e9))
      ->capture_default_str();
  command->add_flag("--sandbox", options->sandbox,
                    "Give up all files but bus, state, log and /proc, and system calls that start "
                    "programs or reach others; fails where the kernel cannot");
  command->add_flag("--observe", options->observe,
                    "Read a bus that another aggregator owns; remove nothing");
  command
      ->add_option("--allow-uid", options->allowed_users,
                   "User whose bus and segments are read as well, besides this user's own and "
                   "root's: an id or a name. Repeat for several")
      ->type_name("USER")
      ->allow_extra_args(false);
  return [options] { return run_aggregate(*options); };
}

}  // namespace rankbus
