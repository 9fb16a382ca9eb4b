// What tests of the ledger share: the built aggregator as a process that is killed and started
// again, producers whose every count is known, and a watch over counters that must not go back.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <map>
#include <optional>
#include <rankbus/aggregator/ledger_store.hpp>

#include "bus_fixture.hpp"

namespace bus_test {

inline std::string required_environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) {
    std::fprintf(stderr, "%s is not set; run with ctest\n", name);
    std::abort();
  }
  return value;
}

// Lets a moment go by, so that what comes next meets the others somewhere else.
inline void let_pass_us(std::uint64_t microseconds) {
  const std::uint64_t end = rankbus::bus::monotonic_ns() + 1000 * microseconds;
  while (rankbus::bus::monotonic_ns() < end) sched_yield();
}

// `/metrics` as text, and its samples by "name{labels}".
struct Scrape {
  std::string text;
  std::map<std::string, double> samples;
  std::map<std::string, std::string> types;  // By family.

  explicit Scrape(std::string body) : text(std::move(body)) {
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
      if (line.rfind("# TYPE ", 0) == 0) {
        const std::size_t space = line.find(' ', 7);
        types[line.substr(7, space - 7)] = line.substr(space + 1);
      } else if (!line.empty() && line[0] != '#') {
        const std::size_t space = line.rfind(' ');
        samples[line.substr(0, space)] = std::strtod(line.c_str() + space, nullptr);
      }
    }
  }
  // The sum of all series of that name.
  double total(const std::string& name) const {
    double sum = 0;
    for (const auto& [series, value] : samples) {
      if (series == name || series.rfind(name + "{", 0) == 0) sum += value;
    }
    return sum;
  }
};

// `rankbus aggregate` on a free port.
class AggregatorProcess {
 public:
  struct Options {
    std::string bus;
    std::vector<std::string> arguments;
    std::string kill_at;     // See ledger_kill_points.cpp.
    bool is_awaited = true;  // Until it listens; else it may be anywhere.
  };
  explicit AggregatorProcess(const Options& options) {
    char log_path[] = "/dev/shm/rankbus-test-log-XXXXXX";
    log_fd_ = mkstemp(log_path);
    if (log_fd_ < 0) std::abort();
    unlink(log_path);
    const std::string binary = required_environment("RANKBUS_BINARY");
    const std::string points =
        required_environment("RANKBUS_BUILD") + "/tests/libledger_kill_points.so";
    std::vector<std::string> arguments = {binary,     "aggregate",   "--bus",          options.bus,
                                          "--listen", "127.0.0.1:0", "--log-interval", "0"};
    arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
    std::fflush(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(9);
      dup2(log_fd_, STDOUT_FILENO);
      dup2(log_fd_, STDERR_FILENO);
      if (!options.kill_at.empty()) {
        setenv("LD_PRELOAD", points.c_str(), 1);
        setenv("RANKBUS_TEST_KILL_AT", options.kill_at.c_str(), 1);
      }
      std::vector<char*> pointers;
      for (std::string& argument : arguments) pointers.push_back(argument.data());
      pointers.push_back(nullptr);
      execv(binary.c_str(), pointers.data());
      _exit(127);
    }
    if (!options.is_awaited) return;
    const std::string before = "metrics on http://127.0.0.1:";
    wait_until([&] {
      const std::string text = log();
      const std::size_t at = text.find(before);
      if (at == std::string::npos || text.find("/metrics", at) == std::string::npos)
        return !is_running();
      port_ =
          static_cast<std::uint16_t>(std::strtoul(text.c_str() + at + before.size(), nullptr, 10));
      return true;
    });
  }
  ~AggregatorProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(log_fd_);
  }
  AggregatorProcess(const AggregatorProcess&) = delete;
  AggregatorProcess& operator=(const AggregatorProcess&) = delete;

  std::string log() const {
    std::string text;
    char part[4096];
    for (off_t at = 0;;) {
      const ssize_t got = pread(log_fd_, part, sizeof part, at);
      if (got <= 0) return text;
      text.append(part, static_cast<std::size_t>(got));
      at += got;
    }
  }
  bool is_running() const {
    siginfo_t info{};
    return pid_ > 0 &&
           waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
  }
  pid_t pid() const { return pid_; }
  // Returns when the last of its threads has stopped: a signal sent is not one that has arrived.
  bool freeze() const {
    siginfo_t stopped{};
    return ::kill(pid_, SIGSTOP) == 0 &&
           waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED | WNOWAIT) == 0;
  }
  void go_on() const { ::kill(pid_, SIGCONT); }
  // The exit status; negative for a signal.
  int end(int number) {
    ::kill(pid_, number);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // Nothing if it dies meanwhile; waits for the first pass.
  std::optional<Scrape> scrape() const {
    std::optional<Scrape> result;
    const bool in_time = wait_until([&] {
      const std::string reply = get("/metrics");
      if (reply.rfind("HTTP/1.1 200", 0) == 0) {
        const std::size_t body = reply.find("\r\n\r\n");
        // Cut short by a kill, it ends in the middle.
        if (body != std::string::npos && reply.back() == '\n')
          result.emplace(reply.substr(body + 4));
      }
      return result.has_value() || !is_running();
    });
    if (!in_time) ADD_FAILURE() << "no metrics\n" << log();
    return result;
  }
  // The reply to one request, or what came of it.
  std::string get(const std::string& path) const {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    std::string reply;
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      const std::string request =
          "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
      char part[16384];
      ssize_t got = send(fd, request.data(), request.size(), MSG_NOSIGNAL);
      while (got > 0 && (got = recv(fd, part, sizeof part, 0)) > 0)
        reply.append(part, static_cast<std::size_t>(got));
    }
    close(fd);
    return reply;
  }

 private:
  pid_t pid_ = 0;
  int log_fd_ = -1;
  std::uint16_t port_ = 0;
};

// What records of a Writer add up to.
struct Counts {
  std::uint64_t iterations = 0, generation = 0, steps = 0;

  static Counts after(std::uint64_t iterations, std::uint64_t steps) {
    Counts counts;
    counts.iterations = iterations;
    for (std::uint64_t n = 0; n < iterations; ++n) counts.generation += 1 + n % 5;
    counts.steps = steps;
    return counts;
  }
  void add(const Counts& other) {
    iterations += other.iterations;
    generation += other.generation;
    steps += other.steps;
  }
};

// A process that writes until it is killed. What it published is read from a mapping that the test
// keeps, so that it is known to the last record.
class Writer {
 public:
  Writer(const std::string& bus, std::uint32_t rank, std::uint64_t most = ~std::uint64_t{0})
      : child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
          options.rank = rank;
          options.segment_bytes = 64 << 10;
          options.records[0] = rankbus::record_type<rankbus::IterationStats>();
          options.records[1] = rankbus::record_type<rankbus::WorkerStep>();
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.inert() ? std::string("inert: ") + producer.reason()
                                    : producer.segment_name());
          for (std::uint64_t n = 0; n < most; ++n) {
            rankbus::IterationStats iteration;
            const double latency_s[] = {0.001 * static_cast<double>(1 + n % 40)};
            iteration.prompt_computed_tokens = 2;
            iteration.num_generation_tokens = 1 + n % 5;
            iteration.inter_token_latency_seconds = latency_s;
            producer.record(iteration);
            producer.record(rankbus::WorkerStep{.step = n});
            // Some bursts fit into the rings, and some lap the reader.
            if (n % 200 == 0) let_pass_us(n % 3 * 1000);
          }
          (void)line.hear();
          return 0;
        }),
        name_(child_.hear()),
        published_(bus, name_) {}

  void kill() { child_.kill9(); }
  const std::string& name() const { return name_; }
  pid_t pid() const { return child_.pid(); }
  Counts counts() const { return Counts::after(published_.of_stream(0), published_.of_stream(1)); }
  bool wait_for(std::uint64_t records) const {
    return wait_until([&] { return published_.of_stream(1) >= records; });
  }

 private:
  Child child_;
  std::string name_;
  PublishedWords published_;
};

// Exactly what was published, no more and no less.
inline void expect_counts(const Scrape& scrape, const Counts& counts) {
  EXPECT_EQ(scrape.total("vllm:generation_tokens_total"), static_cast<double>(counts.generation));
  EXPECT_EQ(scrape.total("vllm:prompt_tokens_total"), static_cast<double>(2 * counts.iterations));
  EXPECT_EQ(scrape.total("vllm:inter_token_latency_seconds_count"),
            static_cast<double>(counts.iterations));
  EXPECT_EQ(scrape.total("rankbus_steps_total"), static_cast<double>(counts.steps));
  EXPECT_EQ(scrape.total("rankbus_records_total"),
            static_cast<double>(counts.iterations + counts.steps));
  EXPECT_EQ(scrape.total("rankbus_checkpoints_mismatches_total"), 0);
}

// No bucket has less than one below it, and the last one has all: histograms are of one moment.
inline void expect_whole_histograms(const Scrape& scrape) {
  std::map<std::string, std::map<double, double>> buckets;  // By series without its bound.
  for (const auto& [series, value] : scrape.samples) {
    const std::size_t bound = series.find("le=\"");
    if (series.find("_bucket{") == std::string::npos || bound == std::string::npos) continue;
    const std::size_t end = series.find('"', bound + 4);
    std::string name = series.substr(0, bound) + series.substr(end + 1);
    name.replace(name.find("_bucket{"), 7, "_count");
    buckets[name][std::strtod(series.c_str() + bound + 4, nullptr)] = value;
  }
  for (const auto& [name, counts] : buckets) {
    double before = 0;
    for (const auto& [bound, count] : counts) {
      EXPECT_GE(count, before) << name << " up to " << bound;
      before = count;
    }
    // Labels that stand before or after the bound leave a comma of their own.
    std::string each = name;
    for (const auto& [from, to] : {std::pair{",,", ","}, {"{,", "{"}, {",}", "}"}, {"{}", ""}}) {
      if (const std::size_t at = each.find(from); at != std::string::npos)
        each.replace(at, std::strlen(from), to);
    }
    const auto total = scrape.samples.find(each);
    ASSERT_NE(total, scrape.samples.end()) << each;
    EXPECT_EQ(total->second, before) << each;
  }
}

// Counters, sums and buckets over all scrapes, whoever answered them: none goes back, and none that
// counted anything disappears.
class CounterWatch {
 public:
  void see(const Scrape& scrape) {
    for (auto& [series, last] : last_) {
      const auto now = scrape.samples.find(series);
      if (last > 0) {
        EXPECT_NE(now, scrape.samples.end()) << series << " disappeared";
      }
    }
    for (const auto& [series, value] : scrape.samples) {
      if (!is_carried_over(scrape, series)) continue;
      double& last = last_[series];
      EXPECT_GE(value, last) << series << " went back";
      last = value;
    }
    ++scrapes_;
  }
  // From now on not: when the newest image is lost, what only the reader knows is as old as the one
  // before it.
  void leave_out_what_only_the_reader_knows() {
    left_out_.insert(left_out_.end(), {"rankbus_checkpoints_", "rankbus_samples_lost_"});
  }
  std::uint64_t scrapes() const { return scrapes_; }
  std::size_t series() const { return last_.size(); }

 private:
  // All but what an aggregator says of itself, which begins with it.
  bool is_carried_over(const Scrape& scrape, const std::string& series) const {
    for (const char* own : left_out_) {
      if (series.rfind(own, 0) == 0) return false;
    }
    std::string family = series.substr(0, series.find('{'));
    for (const char* suffix : {"", "_bucket", "_count", "_sum"}) {
      if (!family.ends_with(suffix)) continue;
      const auto type = scrape.types.find(family.substr(0, family.size() - std::strlen(suffix)));
      if (type != scrape.types.end())
        return type->second == "counter" || type->second == "histogram";
    }
    return false;
  }

  std::vector<const char*> left_out_ = {"process_", "rankbus_http_",
                                        "rankbus_ledger_write_failures_total",
                                        "rankbus_alerts_suppressed_total"};
  std::map<std::string, double> last_;
  std::uint64_t scrapes_ = 0;
};

}  // namespace bus_test
