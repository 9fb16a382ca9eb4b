// The event log: what a simulated engine did to its caches and blocks, as its own model knows it.
//
// Written for whoever wants to compute again what the aggregator says, from something that never
// was on the bus: nothing is sampled, and nothing is read back from a record. Lines of text, in the
// order in which it happened; the first word says what the others are:
//
//   block,TIME_NS,allocate|access|evict,BLOCK
//   lookup,TIME_NS,LEVEL,HITS,MISSES,HIT_BYTES,MISS_BYTES,LATENCY_NS,PREFIX_HASH,PREFIX_LENGTH
//   write,TIME_NS,LEVEL,BYTES,CAPACITY_BYTES                  a capacity of 0: it has no bound
//   evict,TIME_NS,LEVEL,REASON,BLOCKS,BYTES,LATENCY_NS,FOLLOWED_BLOCKS,UNUSED_BLOCKS
//   request_evict,TIME_NS,REASON,REQUEST_HASH,BLOCKS
//   step,TIME_NS,NUMBER,QUERIES,HITS,SCHEDULE_NS,MODEL_FORWARD_NS,MODEL_EXECUTE_NS,SAMPLE_NS,
//        ALL_REDUCE_NS,CACHE_SWAP_NS
#pragma once

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

namespace rankbus::simulator {

// FILE.engine3, and FILE.engine3.front1 of its second front end.
std::string engine_log_name(const std::string& file, std::uint32_t engine);
std::string front_end_log_name(const std::string& file, std::uint32_t engine,
                               std::uint32_t front_end);

class EventLog {
 public:
  // An empty file. Throws std::runtime_error, as all of this does, with a message that names it.
  explicit EventLog(const std::string& path);

  void add(std::string_view what, std::uint64_t time_ns,
           std::initializer_list<std::string_view> words,
           std::initializer_list<std::uint64_t> numbers);
  // All that was added can be read from now on.
  void flush();

 private:
  [[noreturn]] void fail(const char* action) const;

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string line_;
};

}  // namespace rankbus::simulator
