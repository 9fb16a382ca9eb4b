// What one record costs its writer, beside what a user would take instead, in one run.
//
//   record        Producer::record: slot, publication, private totals and their checkpoints
//   spsc_queue    boost::lockfree::spsc_queue in a Boost.Interprocess managed_shared_memory, of
//   elements with
//                 the record's payload bytes. It moves bytes only: somebody else has to add them
//                 up.
//   prometheus    prometheus-cpp: the same counters, gauges and histograms (with the same buckets)
//   updated one
//                 by one through handles that were looked up before. It moves nothing to another
//                 process.
//
// `reader` means that another process takes the records out meanwhile; both rings are then written
// in bursts of a quarter of their capacity, and the time between bursts, in which the reader
// catches up, is not counted. Stamps are given by the caller, unless the name says `clock`, where
// record() reads the clock itself.
// C-40
//
//   bench_record --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
//
// At the end, medians and ratios. Only ratios of one run mean anything on a machine that others
// use.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/lockfree/spsc_queue.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <rankbus/producer.hpp>
#include <string>
#include <vector>

#ifdef RANKBUS_HAVE_PROMETHEUS_CPP
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#endif

namespace {

namespace bus = rankbus::bus;
namespace ipc = boost::interprocess;

constexpr std::uint64_t kMaxModelLen = 131072;
constexpr std::size_t kSamples = 1024;  // Different records, so that no branch is learnt by heart.

// --- the records
// ----------------------------------------------------------------------------------

template <class T>
struct Samples {
  std::vector<T> records;
  std::deque<std::vector<double>> doubles;  // What the records' arrays point to.
  std::deque<std::vector<std::uint64_t>> integers;
};

class Random {
 public:
  std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  double lognormal(double median, double spread) {
    return std::lognormal_distribution<double>(std::log(median), spread)(engine_);
  }

 private:
  std::mt19937_64 engine_{7};
};

void fill(rankbus::SchedulerStep& r, Random& random, Samples<rankbus::SchedulerStep>&) {
  r.step = random.below(1 << 20);
  r.num_running_reqs = static_cast<std::uint32_t>(random.below(256));
  r.num_waiting_reqs = static_cast<std::uint32_t>(random.below(20));
  r.num_skipped_waiting_reqs = static_cast<std::uint32_t>(random.below(3));
  r.kv_cache_usage = static_cast<double>(random.below(1000)) / 1000;
  r.prefix_cache_queries = random.below(8192);
  r.prefix_cache_hits = random.below(4096);
  r.step_interval_ns = static_cast<std::uint64_t>(random.lognormal(0.03, 0.5) * 1e9);
}

void fill(rankbus::IterationStats& r, Random& random, Samples<rankbus::IterationStats>& samples) {
  r.prompt_computed_tokens = random.below(4096);
  r.prompt_local_cache_hit_tokens = random.below(4096);
  r.num_generation_tokens = 32;
  auto& first = samples.doubles.emplace_back();
  auto& later = samples.doubles.emplace_back();
  auto& lengths = samples.integers.emplace_back();
  first.push_back(random.lognormal(0.4, 1.0));
  for (int i = 0; i < 32; ++i) later.push_back(random.lognormal(0.03, 0.5));
  lengths.push_back(1 + random.below(2000));
  r.time_to_first_token_seconds = first;
  r.inter_token_latency_seconds = later;
  r.max_num_generation_tokens = lengths;
}

void fill(rankbus::FinishedRequest& r, Random& random, Samples<rankbus::FinishedRequest>&) {
  r.request_id_hash = random.below(~0ull);
  r.finished_reason =
      random.below(4) == 0 ? rankbus::FinishedReason::length : rankbus::FinishedReason::stop;
  r.num_prompt_tokens = 1 + random.below(20000);
  r.num_generation_tokens = 1 + random.below(2000);
  r.num_cached_tokens = static_cast<std::int64_t>(random.below(r.num_prompt_tokens));
  r.max_tokens_param = 2048;
  r.num_preemptions = random.below(20) == 0 ? 1 : 0;
  r.e2e_latency_seconds = random.lognormal(12, 0.8);
  r.queued_time_seconds = random.lognormal(0.1, 1.0);
  r.prefill_time_seconds = random.lognormal(0.4, 1.0);
  r.inference_time_seconds = random.lognormal(11, 0.8);
  r.decode_time_seconds = random.lognormal(10, 0.8);
  r.mean_time_per_output_token_seconds = random.lognormal(0.03, 0.5);
}

void fill(rankbus::WorkerStep& r, Random& random, Samples<rankbus::WorkerStep>&) {
  r.entered = random.below(1 << 30);
  r.launched = r.entered + 1000;
  r.output_ready = r.launched + 1000;
  r.step = random.below(1 << 20);
  r.padded_tokens = random.below(8);
  r.prepare_ns = random.below(1'000'000);
  r.forward_ns = random.below(40'000'000);
  r.sample_ns = random.below(1'000'000);
  r.launch_gap_ns = random.below(10'000);
  r.in_flight = 1;
}

void fill(rankbus::Collective& r, Random& random, Samples<rankbus::Collective>&) {
  r.duration = static_cast<std::uint32_t>(random.below(1 << 20));
  r.step = static_cast<std::uint32_t>(random.below(1 << 20));
  r.ordinal = static_cast<std::uint32_t>(random.below(1 << 20));
}

template <class T>
const Samples<T>& samples() {
  static const Samples<T>* const made = [] {
    auto* fresh = new Samples<T>;
    Random random;
    for (std::size_t i = 0; i < kSamples; ++i) {
      T record;
      fill(record, random, *fresh);
      fresh->records.push_back(record);
    }
    return fresh;
  }();
  return *made;
}

// The first member is the stamp, whatever its name.
struct StampSetter {
  std::uint64_t stamp;
  template <unsigned I, class V>
  void scalar(V& value) const {
    if constexpr (I == 0) value = stamp;
  }
  template <unsigned I, class V>
  void array(const rankbus::Values<V>&) const {}
};

template <class T>
void set_stamp(T& record, std::uint64_t stamp) {
  const StampSetter setter{stamp};
  T::RankbusRecord::visit(record, setter);
}

template <class T>
constexpr std::uint32_t slot_bytes() {
  return bus::slot_bytes_for(rankbus::ScalarEncoder<T>::kLayout.words);
}
// About half a MiB, as in a default segment, and no more than a cache holds.
template <class T>
constexpr std::size_t capacity() {
  return slot_bytes<T>() > 256 ? 512 : 4096;
}

// --- another process that reads
// -------------------------------------------------------------------

// Runs `read(stop)` in a child until the end of this object. The child sleeps through nothing: it
// gives the processor away between looks, as a gentle reader does.
class ReaderProcess {
 public:
  template <class Read>
  explicit ReaderProcess(const Read& read) {
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) std::abort();
    shared_ = new (page) Shared;
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      read(*shared_);
      _exit(0);
    }
  }
  ~ReaderProcess() {
    shared_->stop = true;
    waitpid(child_, nullptr, 0);
    munmap(shared_, 4096);
  }
  ReaderProcess(const ReaderProcess&) = delete;
  ReaderProcess& operator=(const ReaderProcess&) = delete;

  struct Shared {
    std::atomic<bool> stop{false};
    alignas(128) std::atomic<std::uint64_t> done{0};  // Records taken out.
  };
  std::uint64_t done() const { return shared_->done; }

 private:
  Shared* shared_;
  pid_t child_;
};

// --- rankbus
// --------------------------------------------------------------------------------------

// A producer with one stream of this type, on a bus of its own.
template <class T>
class Bus {
 public:
  Bus() {
    char path[] = "/dev/shm/rankbus-bench-XXXXXX";
    directory_ = mkdtemp(path);
    rankbus::OpenOptions options;
    options.bus = directory_.c_str();
    options.model = "bench";
    options.max_model_len = kMaxModelLen;
    options.records[0] = rankbus::record_type<T>();
    options.segment_bytes = capacity<T>() * slot_bytes<T>() + (96 << 10);
    producer_ = rankbus::Producer::open(options);
    if (!producer_.inert()) file_ = directory_ + "/" + producer_.segment_name();
  }
  ~Bus() {
    producer_.close();
    unlink(file_.c_str());
    unlink((directory_ + "/.open").c_str());
    rmdir(directory_.c_str());
  }
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  rankbus::Producer& producer() { return producer_; }

  // Follows the slots as an aggregator does, without adding up.
  void follow(ReaderProcess::Shared& shared) const {
    const int fd = open(file_.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) return;
    const auto size = static_cast<std::size_t>(status.st_size);
    auto* base =
        static_cast<const unsigned char*>(mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0));
    bus::SegmentHeader header;
    std::memcpy(&header, base, sizeof header);
    bus::StreamDescriptor stream;
    std::memcpy(&stream, base + header.schema_offset, sizeof stream);
    const bus::ProcessMemory memory;
    const auto* published = reinterpret_cast<const bus::Word*>(base + header.activity_offset);
    std::vector<bus::Word> copy(stream.slot_bytes / 8 - 1);
    std::uint64_t next = 0;
    while (!shared.stop) {
      const std::uint64_t end = memory.load_published(published);
      for (; next < end; ++next) {
        const auto* slot = reinterpret_cast<const bus::Word*>(
            base + stream.slots_offset + (next & (stream.capacity - 1)) * stream.slot_bytes);
        bus::read_slot(memory, slot, next, stream.capacity, copy.data(), copy.size(), false);
        benchmark::DoNotOptimize(copy.data());
      }
      shared.done = next;
      sched_yield();
    }
  }

 private:
  std::string directory_;
  std::string file_;
  rankbus::Producer producer_;
};

template <class T>
void report(benchmark::State& state, std::uint32_t bytes) {
  state.SetItemsProcessed(state.iterations());
  state.counters["bytes"] = bytes;
}

enum class Stamp : std::uint8_t { given, clock };

template <class T>
void record(benchmark::State& state, Stamp stamps) {
  Bus<T> here;
  rankbus::Producer& producer = here.producer();
  if (producer.inert()) return state.SkipWithError(producer.reason());
  std::vector<T> records = samples<T>().records;
  const std::uint64_t start = producer.now();
  std::uint64_t n = 0;
  for (auto unused : state) {
    (void)unused;
    T& next = records[n++ % kSamples];
    set_stamp(next, stamps == Stamp::given ? start + n : 0);
    producer.record(next);
  }
  report<T>(state, slot_bytes<T>());
}

// Between bursts the writer waits, uncounted, until the reader is done.
template <class WriteOne>
void write_in_bursts(benchmark::State& state, const ReaderProcess& reader, std::size_t burst,
                     WriteOne&& write_one) {
  std::uint64_t n = 0;
  for (auto unused : state) {
    (void)unused;
    write_one(n++);
    if (n % burst == 0) {
      state.PauseTiming();
      while (reader.done() < n) sched_yield();
      state.ResumeTiming();
    }
  }
}

template <class T>
void record_with_reader(benchmark::State& state) {
  Bus<T> here;
  rankbus::Producer& producer = here.producer();
  if (producer.inert()) return state.SkipWithError(producer.reason());
  std::vector<T> records = samples<T>().records;
  // A record with arrays longer than its slot would take several slots; these do not.
  const ReaderProcess reader([&here](ReaderProcess::Shared& shared) { here.follow(shared); });
  const std::uint64_t start = producer.now();
  write_in_bursts(state, reader, capacity<T>() / 4, [&](std::uint64_t n) {
    T& next = records[n % kSamples];
    set_stamp(next, start + n);
    producer.record(next);
  });
  report<T>(state, slot_bytes<T>());
}

// Without a bus: what a worker pays for the calls that it left in.
void record_inert(benchmark::State& state) {
  rankbus::Producer producer;
  rankbus::WorkerStep step = samples<rankbus::WorkerStep>().records[0];
  for (auto unused : state) {
    (void)unused;
    benchmark::DoNotOptimize(&step);
    producer.record(step);
  }
}

void status(benchmark::State& state) {
  Bus<rankbus::WorkerStep> here;
  if (here.producer().inert()) return state.SkipWithError(here.producer().reason());
  std::uint32_t step = 0;
  for (auto unused : state) {
    (void)unused;
    here.producer().status(++step, 0, 0, 1);
  }
}

// --- boost::lockfree::spsc_queue
// ------------------------------------------------------------------

template <class T>
struct Payload {
  bus::Word words[rankbus::ScalarEncoder<T>::kLayout.words];
};

template <class T>
class SharedQueue {
 public:
  using Queue = boost::lockfree::spsc_queue<Payload<T>, boost::lockfree::capacity<capacity<T>()>>;

  SharedQueue()
      : name_("rankbus-bench-" + std::to_string(getpid())),
        memory_((ipc::shared_memory_object::remove(name_.c_str()), ipc::create_only), name_.c_str(),
                sizeof(Queue) + (64 << 10)),
        queue_(memory_.construct<Queue>("queue")()) {
    Random random;
    for (Payload<T>& payload : payloads_) {
      for (bus::Word& word : payload.words) word = random.below(~0ull);
    }
  }
  ~SharedQueue() { ipc::shared_memory_object::remove(name_.c_str()); }
  SharedQueue(const SharedQueue&) = delete;
  SharedQueue& operator=(const SharedQueue&) = delete;

  Queue& queue() { return *queue_; }

  bool push(std::uint64_t n) {
    Payload<T>& next = payloads_[n % kSamples];
    next.words[0] = n;
    return queue_->push(next);
  }

  void drain(ReaderProcess::Shared& shared) {
    ipc::managed_shared_memory memory(ipc::open_only, name_.c_str());
    Queue& queue = *memory.find<Queue>("queue").first;
    std::uint64_t taken = 0;
    while (!shared.stop) {
      taken += queue.consume_all([](const Payload<T>& payload) {
        Payload<T> copy = payload;
        benchmark::DoNotOptimize(&copy);
      });
      shared.done = taken;
      sched_yield();
    }
  }

 private:
  std::string name_;
  ipc::managed_shared_memory memory_;
  Queue* queue_;
  std::vector<Payload<T>> payloads_{kSamples};
};

// Nobody reads: filled up, emptied uncounted, filled again.
template <class T>
void queue_alone(benchmark::State& state) {
  SharedQueue<T> shared;
  std::uint64_t n = 0;
  for (auto unused : state) {
    (void)unused;
    benchmark::DoNotOptimize(shared.push(n++));
    if (n % capacity<T>() == 0) {
      state.PauseTiming();
      shared.queue().reset();
      state.ResumeTiming();
    }
  }
  report<T>(state, sizeof(Payload<T>));
}

template <class T>
void queue_with_reader(benchmark::State& state) {
  SharedQueue<T> shared;
  const ReaderProcess reader([&](ReaderProcess::Shared& flags) { shared.drain(flags); });
  write_in_bursts(state, reader, capacity<T>() / 4, [&](std::uint64_t n) {
    if (!shared.push(n)) std::abort();  // A burst is a quarter of an empty queue.
  });
  report<T>(state, sizeof(Payload<T>));
}

// --- prometheus-cpp
// -------------------------------------------------------------------------------

#ifdef RANKBUS_HAVE_PROMETHEUS_CPP

// One handle for each field of T that has totals, and for each value of the label that splits it.
template <class T>
class Mirror {
 public:
  using Record = typename T::RankbusRecord;

  Mirror() {
    for (unsigned i = 0; i < Record::kFieldCount; ++i) {
      const bus::FieldSpec& field = Record::kFields[i];
      const prometheus::Labels labels = {{"engine", "0"}, {"model_name", "bench"}};
      if (field.kind == bus::Kind::counter) {
        auto& family = prometheus::BuildCounter().Name(field.name).Register(registry_);
        for (std::size_t value = 0; value < (field.by[0] != '\0' ? kLabelValues : 1); ++value) {
          auto all = labels;
          if (field.by[0] != '\0') all["by"] = std::to_string(value);
          counters_[i][value] = &family.Add(all);
        }
      } else if (field.kind == bus::Kind::gauge) {
        gauges_[i] = &prometheus::BuildGauge().Name(field.name).Register(registry_).Add(labels);
      } else if (field.kind == bus::Kind::distribution) {
        double scratch[64];
        const bus::Bounds bounds = bus::resolved_bounds(field, kMaxModelLen, scratch);
        histograms_[i] = &prometheus::BuildHistogram()
                              .Name(field.name)
                              .Register(registry_)
                              .Add(labels, prometheus::Histogram::BucketBoundaries(
                                               bounds.values, bounds.values + bounds.count));
      }
    }
  }

  void update(const T& record) {
    label_ = 0;
    Record::visit(record, *this);
  }
  std::uint64_t updates() const { return updates_; }

  template <unsigned I, class V>
  void scalar(V value) {
    constexpr bus::FieldSpec kSpec = Record::kFields[I];
    if constexpr (kSpec.kind == bus::Kind::label) {
      label_ = rankbus::raw_value(value);
    } else if constexpr (bus::totals_row_words(kSpec.kind, 0) > 0) {
      if (bus::is_absent(kSpec.type, rankbus::raw_value(value))) return;
      ++updates_;
      if constexpr (kSpec.kind == bus::Kind::counter) {
        counters_[I][kSpec.by[0] != '\0' ? label_ : 0]->Increment(exposed<I>(value));
      } else if constexpr (kSpec.kind == bus::Kind::gauge) {
        gauges_[I]->Set(exposed<I>(value));
      } else {
        histograms_[I]->Observe(exposed<I>(value));
      }
    }
  }
  template <unsigned I, class V>
  void array(const rankbus::Values<V>& values) {
    for (std::size_t k = 0; k < values.size; ++k) {
      ++updates_;
      histograms_[I]->Observe(exposed<I>(values.data[k]));
    }
  }

 private:
  static constexpr std::size_t kLabelValues = 6;

  template <unsigned I, class V>
  static double exposed(V value) {
    const double scale = Record::kFields[I].unit == bus::Unit::nanoseconds ? 1e-9 : 1.0;
    return static_cast<double>(value) * scale;
  }

  prometheus::Registry registry_;
  prometheus::Counter* counters_[Record::kFieldCount][kLabelValues] = {};
  prometheus::Gauge* gauges_[Record::kFieldCount] = {};
  prometheus::Histogram* histograms_[Record::kFieldCount] = {};
  std::uint64_t label_ = 0;
  std::uint64_t updates_ = 0;
};

template <class T>
void prometheus_cpp(benchmark::State& state) {
  Mirror<T> mirror;
  std::vector<T> records = samples<T>().records;
  // What follows from other fields is worked out beforehand, to the peer's advantage.
  for (T& record : records) rankbus::derive_if_declared(record, 0);
  std::uint64_t n = 0;
  for (auto unused : state) {
    (void)unused;
    mirror.update(records[n++ % kSamples]);
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["updates"] =
      static_cast<double>(mirror.updates()) / static_cast<double>(state.iterations());
}

#endif

// --- all of it
// ------------------------------------------------------------------------------------

template <class T>
void register_type() {
  const std::string name = T::RankbusRecord::kName;
  const auto add = [&](const char* what, auto&& function) {
    benchmark::RegisterBenchmark((name + "/" + what).c_str(), function);
  };
  add("record", [](benchmark::State& state) { record<T>(state, Stamp::given); });
  add("record_clock", [](benchmark::State& state) { record<T>(state, Stamp::clock); });
  add("record_reader", record_with_reader<T>);
  add("spsc_queue", queue_alone<T>);
  add("spsc_queue_reader", queue_with_reader<T>);
#ifdef RANKBUS_HAVE_PROMETHEUS_CPP
  if constexpr (rankbus::has_totals<T>()) add("prometheus", prometheus_cpp<T>);
#endif
}

// Prints as usual, and keeps what the table at the end needs.
class Collector : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(isatty(STDOUT_FILENO) == 1 ? OO_Color : OO_None) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      const std::string name = run.run_name.function_name;
      times_[name].push_back(run.GetAdjustedCPUTime());
      for (const auto& [counter, value] : run.counters) counters_[name][counter] = value;
    }
  }

  void print_table() {
    std::printf(
        "\nmedian CPU ns of one record (%zu runs each)\n"
        "%-17s %5s | %7s %7s %7s | %7s %7s | %7s %7s | %s\n",
        times_.empty() ? 0 : times_.begin()->second.size(), "", "slot", "", "reads", "with a", "",
        "with a", "prom-", "", "this much of a peer's time");
    std::printf("%-17s %5s | %7s %7s %7s | %7s %7s | %7s %7s | %7s %7s %7s\n", "type", "bytes",
                "record", "clock", "reader", "spsc", "reader", "etheus", "updates", "spsc",
                "reader", "promet.");
    row<rankbus::SchedulerStep>();
    row<rankbus::IterationStats>();
    row<rankbus::FinishedRequest>();
    row<rankbus::WorkerStep>();
    row<rankbus::Collective>();
    std::printf("record() without a bus: %.1f ns; status(): %.1f ns\n", median("inert/record"),
                median("status"));
  }

 private:
  double median(const std::string& name) {
    std::vector<double> all = times_[name];
    if (all.empty()) return 0;
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
  }
  static std::string cell(double value, const char* format) {
    char text[32] = "-";
    if (value > 0) std::snprintf(text, sizeof text, format, value);
    return text;
  }
  static double ratio(double ours, double peers) { return peers > 0 ? ours / peers : 0; }

  template <class T>
  void row() {
    const std::string name = T::RankbusRecord::kName;
    const double record = median(name + "/record");
    const double reader = median(name + "/record_reader");
    const double queue = median(name + "/spsc_queue");
    const double queue_reader = median(name + "/spsc_queue_reader");
    const double prometheus = median(name + "/prometheus");
    const auto ns = [](double value) { return cell(value, "%.1f"); };
    const auto times = [](double value) { return cell(value, "%.2f"); };
    std::printf("%-17s %5u | %7s %7s %7s | %7s %7s | %7s %7s | %7s %7s %7s\n", name.c_str(),
                slot_bytes<T>(), ns(record).c_str(), ns(median(name + "/record_clock")).c_str(),
                ns(reader).c_str(), ns(queue).c_str(), ns(queue_reader).c_str(),
                ns(prometheus).c_str(),
                cell(counters_[name + "/prometheus"]["updates"], "%.0f").c_str(),
                times(ratio(record, queue)).c_str(), times(ratio(reader, queue_reader)).c_str(),
                times(ratio(record, prometheus)).c_str());
  }

  std::map<std::string, std::vector<double>> times_;
  std::map<std::string, std::map<std::string, double>> counters_;
};

}  // namespace

int main(int argc, char** argv) {
  register_type<rankbus::SchedulerStep>();
  register_type<rankbus::IterationStats>();
  register_type<rankbus::FinishedRequest>();
  register_type<rankbus::WorkerStep>();
  register_type<rankbus::Collective>();
  benchmark::RegisterBenchmark("inert/record", record_inert);
  benchmark::RegisterBenchmark("status", status);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
#ifndef RANKBUS_HAVE_PROMETHEUS_CPP
  std::printf("prometheus-cpp was not found when this was built; its column is empty\n");
#endif
  collector.print_table();
  return 0;
}
