// The simulation as a group of processes: who they are, how they end, and that the truth they count
// together is the same every time.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/process_sync.hpp>
#include <rankbus/producer/simulator/simulate.hpp>
#include <rankbus/producer/simulator/workload.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace rankbus::simulator {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// A folder in shared memory that goes away with the test; the bus is one folder in it.
class Folder {
 public:
  Folder() {
    char name[] = "/dev/shm/rankbus-unit-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// `rankbus simulate` in a process of its own. All processes that it starts hold the other end of
// the pipe, so the end of the output means that the last one of them is gone.
class Simulate {
 public:
  explicit Simulate(const SimulateOptions& options) {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[0]);
      dup2(ends[1], STDOUT_FILENO);
      dup2(ends[1], STDERR_FILENO);
      close(ends[1]);
      const int status = run_simulate(options);
      std::fflush(nullptr);
      _exit(status);
    }
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~Simulate() {
    if (pid_ > 0) kill(pid_, SIGTERM);
    read_to_end();
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    fclose(output_);
  }
  Simulate(const Simulate&) = delete;
  Simulate& operator=(const Simulate&) = delete;

  // Reads until a line holds `wanted`; false when the output ends without it.
  bool read_until(const std::string& wanted) {
    char* line = nullptr;
    std::size_t size = 0;
    bool found = false;
    while (!found && getline(&line, &size, output_) > 0) {
      said_ += line;
      found = std::string(line).find(wanted) != std::string::npos;
    }
    std::free(line);
    return found;
  }
  void read_to_end() { read_until(std::string(1, '\0') + "never said"); }

  // Reads all output and returns the exit status, negative for a signal.
  int wait() {
    read_to_end();
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  pid_t pid() const { return pid_; }
  const std::string& said() const { return said_; }

  std::vector<pid_t> children() const {
    std::istringstream list(
        text_of("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children"));
    std::vector<pid_t> pids;
    for (pid_t pid = 0; list >> pid;) pids.push_back(pid);
    return pids;
  }

 private:
  pid_t pid_ = 0;
  std::FILE* output_ = nullptr;
  std::string said_;
};

SimulateOptions small_run(const Folder& folder) {
  SimulateOptions options;
  options.bus = folder / "bus";
  options.truth = folder / "truth.json";
  options.workload = "generated:60";
  options.engines = 2;
  options.tp = 2;
  options.speed = kMaxSpeed;
  return options;
}

TEST(Simulate, SameCommandOnTheVirtualClock_GivesTheSameTruthByteForByte) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.kv_blocks = 70;
  EXPECT_EQ(Simulate(options).wait(), 0);
  const std::string first = text_of(options.truth);
  EXPECT_NE(first.find("\"clock\": \"virtual\""), std::string::npos);
  EXPECT_EQ(Simulate(options).wait(), 0);
  EXPECT_EQ(text_of(options.truth), first);
  options.seed = 2;
  EXPECT_EQ(Simulate(options).wait(), 0);
  EXPECT_NE(text_of(options.truth), first);
}

TEST(Simulate, VirtualClockHeldBack_GivesTheSameTruthAsAtFullSpeed) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  EXPECT_EQ(Simulate(options).wait(), 0);
  const std::string at_full_speed = text_of(options.truth);
  options.speed = 1000;
  options.clock = ClockKind::virtual_time;
  EXPECT_EQ(Simulate(options).wait(), 0);
  EXPECT_EQ(text_of(options.truth), at_full_speed);
}

TEST(Simulate, EventLog_IsOneFilePerEngineAndTheSameAtAnySpeed) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.kv_blocks = 70;
  options.features.multimodal = true;
  const auto run = [&](const std::string& name) {
    options.event_log = folder / name;
    EXPECT_EQ(Simulate(options).wait(), 0);
    std::string all;
    for (const char* part : {".engine0", ".engine1", ".engine0.front0", ".engine1.front0"}) {
      const std::string text = text_of(options.event_log + part);
      EXPECT_FALSE(text.empty()) << part;
      all += text;
    }
    return all;
  };
  const std::string first = run("first");
  for (const char* line : {"block,", "lookup,", "write,", "evict,", "step,"}) {
    EXPECT_NE(first.find(line), std::string::npos) << line;
  }
  options.speed = 1000;
  options.clock = ClockKind::virtual_time;
  EXPECT_EQ(run("held_back"), first);
  // What is recorded does not change what happens.
  options.features.cache_metrics = true;
  options.features.block_operations_sample = 0.5;
  EXPECT_EQ(run("recorded"), first);
}

TEST(Simulate, EventLogThatCannotBe_IsStatus1AndNamed) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.event_log = "/nowhere/at/all";
  Simulate run(options);
  EXPECT_EQ(run.wait(), 1);
  EXPECT_NE(run.said().find("/nowhere/at/all.engine0"), std::string::npos) << run.said();
}

// Counters of the truth file, summed over the engines.
std::uint64_t counted(const nlohmann::json& truth, const std::string& name) {
  std::uint64_t sum = 0;
  for (const auto& [series, value] : truth["counters"].items()) {
    if (series.starts_with(name + "{")) sum += value.get<std::uint64_t>();
  }
  return sum;
}

TEST(Simulate, RealClock_ServesTheWholeWorkloadAndSaysWhichClock) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.speed = 1000;
  Simulate simulate(options);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  EXPECT_NE(simulate.said().find("s on the real clock"), std::string::npos) << simulate.said();
  const nlohmann::json truth = nlohmann::json::parse(text_of(options.truth));
  EXPECT_EQ(truth["clock"], "real");
  std::uint64_t prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  for (const Request& request : generate_workload(60, options.seed).requests) {
    prompt_tokens += request.prompt_tokens;
    output_tokens += request.output_tokens;
  }
  EXPECT_EQ(counted(truth, "vllm:prompt_tokens_total"), prompt_tokens);
  EXPECT_EQ(counted(truth, "vllm:prefix_cache_queries_total"), prompt_tokens);
  EXPECT_EQ(counted(truth, "vllm:generation_tokens_total"), output_tokens);
  EXPECT_EQ(counted(truth, "vllm:request_success_total"), 60u);
}

TEST(Simulate, RealClockWithoutCollectives_Ends) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.clock = ClockKind::real;
  options.collectives = 0;
  EXPECT_EQ(Simulate(options).wait(), 0);
}

TEST(Simulate, Duration_BoundsTheArrivals) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.duration_s = 10;
  EXPECT_EQ(Simulate(options).wait(), 0);
  Workload workload = generate_workload(60, options.seed);
  limit_duration(workload, 10'000'000'000);
  ASSERT_GT(workload.requests.size(), 0u);
  ASSERT_LT(workload.requests.size(), 60u);
  const nlohmann::json truth = nlohmann::json::parse(text_of(options.truth));
  EXPECT_EQ(counted(truth, "vllm:request_success_total"), workload.requests.size());
}

TEST(Simulate, SchedulersFrontEndsAndRanks_AreProcessesOfTheirOwnOnEitherClock) {
  for (const ClockKind clock : {ClockKind::virtual_time, ClockKind::real}) {
    const Folder folder;
    SimulateOptions options = small_run(folder);
    options.clock = clock;
    options.linger = true;
    Simulate simulate(options);
    ASSERT_TRUE(simulate.read_until("simulated 60 requests")) << simulate.said();
    EXPECT_TRUE(fs::exists(options.truth)) << "the truth is written before lingering";
    std::multiset<std::string> names;
    for (const pid_t pid : simulate.children()) {
      names.insert(text_of("/proc/" + std::to_string(pid) + "/comm"));
    }
    const std::multiset<std::string> expected = {
        "sim-sched-0\n",  "sim-sched-1\n",  "sim-front-0\n",  "sim-front-1\n",
        "sim-rank-0.0\n", "sim-rank-0.1\n", "sim-rank-1.0\n", "sim-rank-1.1\n"};
    EXPECT_EQ(names, expected);
    std::size_t segments = 0;
    for (const auto& entry : fs::directory_iterator(options.bus)) {
      segments += entry.path().filename().string()[0] != '.';
    }
    EXPECT_EQ(segments, expected.size());
    kill(simulate.pid(), SIGTERM);
    EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  }
}

TEST(Simulate, SeveralFrontEnds_AreProcessesOfTheirOwn) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.engines = 1;
  options.tp = 1;
  options.front_ends = 3;
  options.linger = true;
  Simulate simulate(options);
  ASSERT_TRUE(simulate.read_until("simulated 60 requests")) << simulate.said();
  std::multiset<std::string> names;
  for (const pid_t pid : simulate.children()) {
    names.insert(text_of("/proc/" + std::to_string(pid) + "/comm"));
  }
  EXPECT_EQ(names,
            (std::multiset<std::string>{"sim-sched-0\n", "sim-front-0.0\n", "sim-front-0.1\n",
                                        "sim-front-0.2\n", "sim-rank-0.0\n"}));
}

// A gauge of the truth file, summed over the engines.
double gauged(const nlohmann::json& truth, const std::string& name) {
  double sum = 0;
  for (const auto& [series, value] : truth["gauges"].items()) {
    if (series.starts_with(name + "{")) sum += value.get<double>();
  }
  return sum;
}

TEST(Simulate, UntilATime_LeavesRequestsRunningOnEitherClock) {
  for (const double speed : {kMaxSpeed, 10.0}) {
    const Folder folder;
    SimulateOptions options = small_run(folder);
    options.speed = speed;
    options.until_s = 10;
    options.kv_blocks = 300;
    Simulate simulate(options);
    EXPECT_EQ(simulate.wait(), 0) << simulate.said();
    const nlohmann::json truth = nlohmann::json::parse(text_of(options.truth));
    const std::uint64_t finished = counted(truth, "vllm:request_success_total");
    EXPECT_LT(finished, 60u);
    EXPECT_NE(simulate.said().find(std::to_string(60 - finished) + " not finished"),
              std::string::npos)
        << simulate.said();
    EXPECT_GT(gauged(truth, "vllm:num_requests_running"), 0);
    EXPECT_GT(gauged(truth, "vllm:kv_cache_usage_perc"), 0);
  }
}

TEST(Simulate, UntilATimeBehindTheEnd_ChangesNothing) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  EXPECT_EQ(Simulate(options).wait(), 0);
  const std::string without = text_of(options.truth);
  options.until_s = 1e6;
  EXPECT_EQ(Simulate(options).wait(), 0);
  EXPECT_EQ(text_of(options.truth), without);
}

TEST(Simulate, Held_BeginsAtTheSignalAndEndsWhenTold) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.hold = true;
  {
    Simulate simulate(options);
    ASSERT_TRUE(simulate.read_until("waiting for SIGUSR1")) << simulate.said();
    EXPECT_EQ(simulate.children().size(), 8u);
    kill(simulate.pid(), SIGTERM);
    EXPECT_EQ(simulate.wait(), 0) << simulate.said();
    EXPECT_FALSE(fs::exists(options.truth));
  }
  Simulate simulate(options);
  ASSERT_TRUE(simulate.read_until("waiting for SIGUSR1")) << simulate.said();
  kill(simulate.pid(), SIGUSR1);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  EXPECT_TRUE(fs::exists(options.truth));
}

TEST(Simulate, SigtermOrSigintInTheMiddle_EndsAllWithStatus0AndWritesNoTruth) {
  for (const int signal : {SIGTERM, SIGINT}) {
    for (const ClockKind clock : {ClockKind::virtual_time, ClockKind::real}) {
      const Folder folder;
      SimulateOptions options = small_run(folder);
      options.clock = clock;
      options.speed = 1;  // A minute of work, of which the first moment is enough.
      Simulate simulate(options);
      ASSERT_TRUE(simulate.read_until("60 requests of")) << simulate.said();
      kill(simulate.pid(), signal);
      EXPECT_EQ(simulate.wait(), 0) << simulate.said();
      EXPECT_FALSE(fs::exists(options.truth));
    }
  }
}

TEST(Simulate, KilledRank_EndsTheOthersWithAMessageAndStatus1) {
  for (const ClockKind clock : {ClockKind::virtual_time, ClockKind::real}) {
    const Folder folder;
    SimulateOptions options = small_run(folder);
    options.clock = clock;
    options.speed = 1;
    Simulate simulate(options);
    std::vector<pid_t> children;
    while (children.size() < 8) children = simulate.children();
    kill(children[2], SIGKILL);
    EXPECT_EQ(simulate.wait(), 1) << simulate.said();
    EXPECT_NE(simulate.said().find("engine 0 rank 0"), std::string::npos) << simulate.said();
    EXPECT_NE(simulate.said().find("was killed by signal 9"), std::string::npos);
    EXPECT_FALSE(fs::exists(options.truth));
  }
}

TEST(Simulate, RankToldToEnd_EndsAllWithStatus0) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.speed = 1;
  Simulate simulate(options);
  std::vector<pid_t> children;
  while (children.size() < 8) children = simulate.children();
  kill(children[7], SIGTERM);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  EXPECT_NE(simulate.said().find("engine 1 rank 1"), std::string::npos) << simulate.said();
}

TEST(Simulate, ParentKilled_LeavesNoProcessBehind) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.linger = true;
  Simulate simulate(options);
  ASSERT_TRUE(simulate.read_until("simulated 60 requests")) << simulate.said();
  ASSERT_EQ(simulate.children().size(), 8u);
  kill(simulate.pid(), SIGKILL);
  // Returns only when the last process that could write to us is gone.
  EXPECT_EQ(simulate.wait(), -SIGKILL);
}

TEST(Simulate, RankKilledWhileLingering_LeavesTheOthersAndStatus0) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.linger = true;
  Simulate simulate(options);
  ASSERT_TRUE(simulate.read_until("simulated 60 requests")) << simulate.said();
  kill(simulate.children()[3], SIGKILL);
  ASSERT_TRUE(simulate.read_until("the others stay"));
  EXPECT_EQ(simulate.children().size(), 7u);
  kill(simulate.pid(), SIGTERM);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
}

TEST(Simulate, UnusableBus_IsAWarningAndTheSimulationGoesOn) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  std::ofstream(options.bus) << "a file where a directory should be\n";
  Simulate simulate(options);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  EXPECT_NE(simulate.said().find("warning: 8 of 8 processes write no records"), std::string::npos)
      << simulate.said();
  EXPECT_TRUE(fs::exists(options.truth));
}

TEST(Simulate, BadInput_IsStatus2AndNamesItsPlace) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.workload = "";
  options.trace = folder / "trace.jsonl";
  std::ofstream(options.trace) << "{\"timestamp\": 0}\n";
  Simulate bad_line(options);
  EXPECT_EQ(bad_line.wait(), 2);
  EXPECT_NE(bad_line.said().find("trace.jsonl:1: no \"input_length\""), std::string::npos)
      << bad_line.said();
  options.trace = "";
  options.workload = "invented";
  EXPECT_EQ(Simulate(options).wait(), 2);
}

TEST(Simulate, PromptLongerThanTheModel_IsRefusedAndCountedInTheSummary) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.max_model_len = 3000;
  Simulate simulate(options);
  EXPECT_EQ(simulate.wait(), 0) << simulate.said();
  std::uint64_t refused = 0;
  for (const Request& request : generate_workload(60, options.seed).requests) {
    refused += request.prompt_tokens >= 3000;
  }
  ASSERT_GT(refused, 0u);
  EXPECT_NE(simulate.said().find("simulated " + std::to_string(60 - refused) + " requests (" +
                                 std::to_string(refused) + " refused as too long)"),
            std::string::npos)
      << simulate.said();
}

// What the command line answers to `simulate` with these arguments; empty when it accepts them.
std::string command_line_complaint(const std::string& arguments) {
  CLI::App app;
  add_simulate_command(app);
  try {
    app.parse("simulate " + arguments);
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(SimulateCommand, BadFlag_IsNamed) {
  for (const char* arguments :
       {"--speed fast", "--speed 0", "--clock late", "--tp 0", "--engines x", "--block-rule all",
        "--kv-blocks -1", "--duration 0", "--until 0", "--front-ends 0", "--features some",
        "--speculative-tokens 33", "--kv-cache-metrics-sample 1.5", "--kv-connector zmq",
        "--max-loras 0", "--sleep 3"}) {
    const std::string flag = std::string(arguments).substr(0, std::string(arguments).find(' '));
    EXPECT_NE(command_line_complaint(arguments).find(flag), std::string::npos) << arguments;
  }
  EXPECT_NE(command_line_complaint("--bogus 1").find("--bogus"), std::string::npos);
  EXPECT_NE(command_line_complaint("--diffusion --speculative-tokens 2").find("--diffusion"),
            std::string::npos);
  EXPECT_EQ(command_line_complaint("--features all --kv-connector nixl,offloading --sleep 2"), "");
  EXPECT_EQ(command_line_complaint("--speed max --clock real --tp 4 --engines 2 --linger"), "");
}

TEST(Simulate, MoreProcessesThanABusHolds_IsStatus2) {
  const Folder folder;
  SimulateOptions options = small_run(folder);
  options.engines = 256;
  options.tp = 256;
  Simulate simulate(options);
  EXPECT_EQ(simulate.wait(), 2);
  EXPECT_NE(simulate.said().find("--engines 256 x --tp 256"), std::string::npos) << simulate.said();
}

TEST(Channel, MessagesLargerThanABatch_ArriveWhole) {
  const StopFlag stop;
  auto channel = std::make_unique<Channel>();
  ChannelWriter writer(*channel, stop);
  ChannelReader reader(*channel, stop);
  std::vector<std::uint64_t> sent(Channel::kBatchBytes / 8 * 3 + 5);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = i * i;
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(writer.write(round));
    ASSERT_TRUE(writer.write_bytes(sent.data(), sent.size() * 8));
    ASSERT_TRUE(writer.flush());
    int got_round = -1;
    std::vector<std::uint64_t> got(sent.size());
    ASSERT_TRUE(reader.read(got_round));
    ASSERT_TRUE(reader.read_bytes(got.data(), got.size() * 8));
    EXPECT_EQ(got_round, round);
    EXPECT_EQ(got, sent);
  }
}

TEST(Channel, StoppedSimulation_EndsEveryWait) {
  StopFlag stop;
  auto channel = std::make_unique<Channel>();
  auto barrier = std::make_unique<Barrier>();
  stop.stop_all();
  int message = 0;
  EXPECT_FALSE(ChannelReader(*channel, stop).read(message));
  EXPECT_FALSE(BarrierMember(*barrier, 2, stop).arrive_and_wait());
  EXPECT_FALSE(sleep_until_unless_stopped(~std::uint64_t{0}, stop));
}

TEST(Channel, SignalInTheMiddleOfAWait_EndsItWithoutAnError) {
  auto* semaphore = static_cast<Semaphore*>(
      mmap(nullptr, sizeof(Semaphore), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(semaphore), MAP_FAILED);
  new (semaphore) Semaphore(0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t waiter = fork();
  if (waiter == 0) {
    StopFlag::watch_sigterm();
    const StopFlag stop;
    // The parent knows that the handler stands; from here on, nearly all time is spent waiting.
    if (write(ends[1], "w", 1) != 1) _exit(2);
    _exit(wait_unless_stopped(*semaphore, stop) ? 1 : 0);
  }
  char ready = 0;
  ASSERT_EQ(read(ends[0], &ready, 1), 1);
  int status = 0;
  do {
    kill(waiter, SIGTERM);
  } while (waitpid(waiter, &status, WNOHANG) == 0);
  EXPECT_TRUE(WIFEXITED(status)) << "an exception left the wait";
  EXPECT_EQ(WEXITSTATUS(status), 0);
  close(ends[0]);
  close(ends[1]);
  munmap(semaphore, sizeof(Semaphore));
}

}  // namespace
}  // namespace rankbus::simulator
