// tests/e2e/writer.cpp: one process of an engine, steered line by line by e2e_lifetime.py.
//
//   writer BUS MODEL ENGINE ROLE RANK TP
//
// It is compiled by the test with nothing but -I of the headers that a worker gets. What one record
// adds to which series stands in ADDED of the test. It says `open SEGMENT` once its producer is
// open; then each command on standard input is answered by a line:
//
//   write N      N records of each type of its role                  -> written TOTAL
//   stream FILE  writes until it dies; the first word of FILE, which
//                has one, is set to the number of records made        -> streaming
//   fork FD      forks a child that records in vain, and lives until
//                FD, the read end of a pipe, ends                     -> forked PID WHY-IT-IS-INERT
//   close        closes the producer                                  -> closed
//   where        where the first stream's number of records stands    -> where OFFSET
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <rankbus/producer.hpp>

namespace {

class Writer {
 public:
  Writer(const char* bus, const char* model, unsigned engine, const char* role, unsigned rank,
         unsigned tp) {
    rankbus::OpenOptions options;
    options.bus = bus;
    options.model = model;
    options.engine = engine;
    options.max_model_len = 4096;
    if (std::strcmp(role, "scheduler") == 0) options.role = rankbus::Role::scheduler;
    if (std::strcmp(role, "frontend") == 0) options.role = rankbus::Role::frontend;
    if (std::strcmp(role, "worker") == 0) {
      options.role = rankbus::Role::worker;
      options.axes[0].name = "tp";
      options.axes[0].rank = rank;
      options.axes[0].size = tp;
    }
    role_ = options.role;
    producer_ = rankbus::Producer::open(options);
    std::printf("open %s\n", producer_.segment_name());
  }

  void record() {
    switch (role_) {
      case rankbus::Role::scheduler: {
        rankbus::SchedulerStep step;
        step.num_running_reqs = 7;
        step.num_waiting_reqs = 5;
        step.kv_cache_usage = 0.25;
        step.prefix_cache_requests = 1;
        step.prefix_cache_queries = 10;
        step.prefix_cache_hits = 4;
        producer_.record(step);
        break;
      }
      case rankbus::Role::frontend: {
        rankbus::IterationStats iteration;
        iteration.prompt_computed_tokens = 2;
        iteration.num_generation_tokens = 3;
        const double latency_s[] = {0.03};
        iteration.inter_token_latency_seconds = latency_s;
        producer_.record(iteration);
        rankbus::FinishedRequest finished;
        finished.finished_reason = rankbus::FinishedReason::stop;
        finished.num_prompt_tokens = 2;
        finished.num_generation_tokens = 3;
        producer_.record(finished);
        break;
      }
      default: {
        rankbus::WorkerStep step;
        step.step = ++steps_;
        step.padded_tokens = 5;
        producer_.record(step);
      }
    }
  }

  void obey(const char* command) {
    unsigned long count = 0;
    int hold = -1;
    char file[256];
    if (std::sscanf(command, "write %lu", &count) == 1) {
      for (unsigned long i = 0; i < count; ++i) record();
      written_ += count;
      std::printf("written %lu\n", written_);
    } else if (std::sscanf(command, "stream %255s", file) == 1) {
      stream(file);
    } else if (std::sscanf(command, "fork %d", &hold) == 1) {
      fork_child(hold);
    } else if (std::strncmp(command, "close", 5) == 0) {
      producer_.close();
      std::printf("closed\n");
    } else if (std::strncmp(command, "where", 5) == 0) {
      std::printf("where %lu\n", static_cast<unsigned long>(rankbus::bus::kActivityOffset));
    } else {
      std::printf("unknown command: %s", command);
    }
  }

 private:
  // Between a record's end and the store of its number the process may die, so the number is at
  // most one too small.
  [[noreturn]] void stream(const char* file) {
    const int fd = open(file, O_RDWR | O_CLOEXEC);
    void* memory = mmap(nullptr, sizeof(unsigned long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) std::exit(1);
    auto* made = static_cast<volatile unsigned long*>(memory);
    std::printf("streaming\n");
    for (;;) {
      record();
      *made = ++written_;
    }
  }

  void fork_child(int hold) {
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 1000; ++i) record();
      std::printf("forked %d %s\n", getpid(), producer_.inert() ? producer_.reason() : "(writes)");
      std::fflush(stdout);
      char byte = 0;
      while (read(hold, &byte, 1) > 0) {
      }
      _exit(0);
    }
  }

  rankbus::Producer producer_;
  rankbus::Role role_ = rankbus::Role::other;
  unsigned long steps_ = 0;
  unsigned long written_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto number = [&](int i) { return static_cast<unsigned>(std::atoi(argv[i])); };
  Writer writer(argv[1], argv[2], number(3), argv[4], number(5), number(6));
  char command[300];
  while (std::fgets(command, sizeof command, stdin) != nullptr) writer.obey(command);
  return 0;
}
