// A worker as small as they come: everything that it needs is one include path. Built by
// tests/contract_header_standalone.py with many compilers and options; exits 0 when all is well.
#include "small_producer.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <rankbus/producer.hpp>

namespace {

rankbus::Producer open_worker(const char* bus) {
#if __cplusplus >= 202002L
  return rankbus::Producer::open({.bus = bus,
                                  .model = "llama-3-70b",
                                  .engine = 0,
                                  .role = rankbus::Role::worker,
                                  .axes = {{"tp", 3, 8}},
                                  .records = {rankbus::record_type<Swap>()}});
#else
  rankbus::OpenOptions options;
  options.bus = bus;
  options.model = "llama-3-70b";
  options.engine = 0;
  options.role = rankbus::Role::worker;
  options.axes[0] = {"tp", 3, 8};
  options.records[0] = rankbus::record_type<Swap>();
  return rankbus::Producer::open(options);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  rankbus::Producer worker = open_worker(argv[1]);
  if (worker.inert()) return 3;
  for (std::uint64_t step = 0; step < 1000; ++step) {
    rankbus::WorkerStep record;
    record.step = step;
    record.forward_ns = 41'000'000;
    worker.record(record);
  }
  record_swaps(worker, 10);
  worker.status(1000, 0, 0, 1);
  if (worker.intern("no dictionary in this segment") != 0) return 4;
  if (worker.dropped_records() != 0) return 5;

  // Moved from: inert, and what was written stays with the other.
  rankbus::Producer other = static_cast<rankbus::Producer&&>(worker);
  if (!worker.inert() || other.inert()) return 6;
  record_swaps(worker, 3);
  if (worker.dropped_records() != 3) return 7;
  std::printf("%s\n", other.segment_name());
  other.close();
  return std::strlen(other.reason()) > 0 && other.inert() ? 0 : 8;
}
