// Goal:   every text that a user hands over is understood or refused with a sentence: traces,
// recorded
//         calls, options from a file, thresholds, dialects, addresses, names of hosts, and what the
//         ledger keeps for others. Nothing else may come out of it, whatever the text.
// Method: libFuzzer over texts; the first byte chooses who reads the rest. What was understood is
//         used: a trace is walked, calls become records, rules look at families.
// Replay: build/fuzz/tests/fuzz/fuzz_trace FILE
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/command_line.hpp>
#include <rankbus/aggregator/daemon.hpp>
#include <rankbus/exporters/http_hosts.hpp>
#include <rankbus/exporters/http_request.hpp>
#include <rankbus/exporters/listen_address.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <rankbus/producer/replay/call_records.hpp>
#include <rankbus/producer/replay/replay.hpp>
#include <rankbus/producer/simulator/trace.hpp>
#include <sstream>
#include <string>

#include "fuzz_lib.hpp"

namespace fuzz {
namespace {

using Text = const std::string&;

// A file of these bytes, which is in memory only.
class MemoryFile {
 public:
  explicit MemoryFile(Text bytes) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    FUZZ_REQUIRE(::write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
                 "");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

// What the user is told: words, and not megabytes of the file.
void require_sentence(Text message) {
  FUZZ_REQUIRE(!message.empty() && message.size() < 100'000, message);
}

void read_trace(Text text) {
  using namespace rankbus::simulator;
  std::istringstream in(text);
  try {
    const Workload workload = rankbus::simulator::read_trace(in, "trace", 1);
    FUZZ_REQUIRE(!workload.requests.empty(), "a trace without requests");
    std::uint64_t before = 0;
    for (std::uint32_t i = 0; i < workload.requests.size(); ++i) {
      FUZZ_REQUIRE(workload.requests[i].arrival_ns >= before, "out of order");
      before = workload.requests[i].arrival_ns;
      for (const std::uint32_t node : workload.nodes_of(i))
        FUZZ_REQUIRE(node < workload.node_count, "a node that is none");
    }
  } catch (const InputError& error) {
    require_sentence(error.what());
  }
}

// A producer that has all that calls can be about; on a virtual clock, as the replay's own.
rankbus::Producer& recorder() {
  using namespace rankbus;
  static Producer made = [] {
    static const std::string bus = folder() + "/bus";
    OpenOptions options;
    options.bus = bus.c_str();
    options.model = "model";
    options.role = Role::frontend;
    options.clock = ClockDomain::virtual_time;
    options.clock_start_ns = 1;
    options.segment_bytes = 1;
    std::size_t next = 0;
    for (const bus::RecordType* type :
         {record_type<SchedulerStep>(),     record_type<CorruptedRequests>(),
          record_type<KvBlockEviction>(),   record_type<SpecDecoding>(),
          record_type<DiffusionDecoding>(), record_type<PerfStats>(),
          record_type<CudaGraph>(),         record_type<IterationDetails>(),
          record_type<LoraState>(),         record_type<CacheConfig>(),
          record_type<NixlTransfer>(),      record_type<MoriioTransfer>(),
          record_type<MooncakeTransfer>(),  record_type<MooncakeStoreOperation>(),
          record_type<Offloading>(),        record_type<OffloadingCpu>(),
          record_type<OffloadingSkipped>(), record_type<OffloadingLookup>(),
          record_type<OffloadingConfig>(),  record_type<HiSparse>(),
          record_type<SleepState>(),        record_type<MultimodalCache>()}) {
      options.records[next++] = type;
    }
    return Producer::open(options);
  }();
  FUZZ_REQUIRE(!made.inert(), made.reason());
  return made;
}

void read_calls(Text text) {
  using namespace rankbus::replay;
  const MemoryFile file(text);
  try {
    CallsFile calls(file.path());
    std::vector<std::string> unknown;
    Features configured;
    if (calls.header().features) configured = features_of(*calls.header().features, unknown);
    if (calls.header().cache_config.is_object())
      (void)cache_config_text(calls.header().cache_config);
    Call call;
    for (;;) {
      try {
        if (!calls.next(call)) break;
        CallRecords records(call, calls.header(), configured);
        (void)records.features();
        records.write(recorder(), calls.line());
      } catch (const BadLine& bad) {
        require_sentence(bad.what());
      }
    }
  } catch (const std::runtime_error& error) {
    require_sentence(error.what());
  }
}

const std::vector<rankbus::Family>& families() {
  static const std::vector<rankbus::Family> all = [] {
    std::vector<rankbus::Family> made;
    for (const char* name :
         {"rankbus_records_total", "rankbus_samples_lost_total", "vllm:generation_tokens_total",
          "vllm:num_requests_running", "vllm:time_to_first_token_seconds"}) {
      rankbus::Family family{name, "help", rankbus::FamilyType::gauge, {}};
      for (int i = 0; i < 2; ++i) {
        rankbus::Series series;
        series.labels = {{"engine", std::to_string(i)}, {"model_name", "m"}};
        series.engine = std::to_string(i);
        series.value = rankbus::Number(2.5);
        family.series.push_back(series);
      }
      made.push_back(family);
    }
    std::sort(made.begin(), made.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return made;
  }();
  return all;
}

void read_alert(Text text) {
  auto rule = rankbus::AlertRule::parse(text);
  if (!rule) return require_sentence(rule.error());
  rankbus::AlertWatch watch({rule.value()});
  rankbus::AlertBoard board;
  rankbus::Snapshot snapshot;
  for (const double now_s : {1.0, 2.0, 1e9}) {
    board.begin(now_s);
    watch.look(families(), now_s, board);
    (void)board.end();
  }
  rankbus::FamilyBuilder builder;
  board.add_families(builder);
  snapshot.families = builder.take();
  std::string out;
  rankbus::render_prometheus_text(snapshot, {}, out);
  require_prometheus_text(out);
}

void read_dialect(Text text) {
  const MemoryFile file(text);
  auto dialect = rankbus::Dialect::load({file.path(), true, true});
  if (!dialect) return require_sentence(dialect.error());
  rankbus::Snapshot snapshot;
  snapshot.families = families();
  dialect->apply(snapshot.families);
  std::string out;
  rankbus::render_prometheus_text(snapshot, {}, out);
  require_prometheus_text(out);
}

// The program's own options, but what they would start.
void read_config(Text text) {
  const MemoryFile file(text);
  CLI::App app("rankbus", "rankbus");
  app.require_subcommand(1);
  app.set_config("--config", "", "");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.fallthrough();
  // They own what is parsed into.
  const std::function<int()> commands[] = {rankbus::add_aggregate_command(app),
                                           rankbus::replay::add_replay_command(app)};
  rankbus::CommandLine given;
  const char* const arguments[] = {"rankbus", "aggregate", "--config", file.path().c_str()};
  try {
    rankbus::read_command_line(app, 4, arguments, given);
    std::vector<std::string> reversed(given.arguments.rbegin(), given.arguments.rend());
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) require_sentence(rankbus::explain(app, given, error));
  }
}

void read_address(Text text) {
  auto address = rankbus::parse_listen_address(text);
  if (!address) return require_sentence(address.error());
  auto again = rankbus::parse_listen_address(address->text());
  FUZZ_REQUIRE(again && again->text() == address->text(), text);
}

void read_hosts(Text text) {
  const std::size_t line = std::min(text.find('\n'), text.size());
  auto hosts = rankbus::HttpHosts::parse({text.substr(0, line)});
  if (!hosts) return require_sentence(hosts.error());
  (void)hosts->allow_untrusted(text.substr(std::min(line + 1, text.size())));
  (void)rankbus::parse_target_untrusted(text);
}

void read_counters(Text text) {
  rankbus::AnalysisFeed feed;
  if (!feed.restore_untrusted(text)) return;
  rankbus::AnalysisFeed again;
  const std::string saved = feed.saved_counters();
  FUZZ_REQUIRE(again.restore_untrusted(saved) && again.saved_counters() == saved, "");
}

void read_text(Text text) {
  for (const std::size_t most : {std::size_t{0}, std::size_t{1}, std::size_t{7}, text.size()}) {
    const std::string clean = rankbus::analysis::clean_text_untrusted(text, most);
    FUZZ_REQUIRE(clean.size() <= most && is_utf8(clean), clean);
  }
  using rankbus::analysis::ExportFormat;
  (void)rankbus::analysis::parse_export_format_untrusted(text,
                                                         {ExportFormat::json, ExportFormat::csv});
}

constexpr void (*kReaders[])(Text) = {read_trace,   read_calls,    read_alert,
                                      read_dialect, read_config,   read_address,
                                      read_hosts,   read_counters, read_text};

}  // namespace
}  // namespace fuzz

// C-19
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, bytes - 1);
  // Letters, so that a case can be read.
  fuzz::kReaders[(data[0] - 'a') % std::size(fuzz::kReaders)](text);
  return 0;
}
