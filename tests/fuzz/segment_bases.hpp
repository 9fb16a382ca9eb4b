// tests/fuzz/segment_bases.hpp: sound segments, written by real producers, to be changed.
//
// Stamps come from the caller's clock and values from fixed seeds, so a case means nearly the same
// in every process; incarnation, pid and anchors differ.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <rankbus/producer.hpp>
#include <string>
#include <vector>

#include "../bus_records.hpp"
#include "fuzz_lib.hpp"
#include "segment_case.hpp"

namespace fuzz {

struct Base {
  std::vector<unsigned char> early, late;  // In the middle of the writer's life, and at its end.
  SegmentMap map{early};
};

inline std::vector<unsigned char> bytes_of(const std::string& path) {
  std::vector<unsigned char> bytes;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fstat(fd, &status) == 0) bytes.resize(static_cast<std::size_t>(status.st_size));
  if (read(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) bytes.clear();
  close(fd);
  return bytes;
}

// As if the file of that name had been made under it: a name ends with the incarnation.
inline void make_named(std::vector<unsigned char>& segment, const std::string& name) {
  const std::string digits = name.substr(name.size() - 32);
  for (std::size_t n = 0; n < 16; ++n) {
    segment[offsetof(rankbus::bus::SegmentHeader, incarnation) + n] =
        static_cast<unsigned char>(std::stoul(digits.substr(2 * n, 2), nullptr, 16));
  }
}

// Rings of 64 slots are lapped and have several checkpoints after so many records.
inline constexpr std::uint64_t kEarlyRecords = 90;
inline constexpr std::uint64_t kLateRecords = 150;

template <class... Records>
Base make_base(const std::string& bus, rankbus::Role role, rankbus::ClockDomain clock) {
  rankbus::OpenOptions options;
  options.bus = bus.c_str();
  options.server = "a server";
  options.model = "a \"model\"\n\x1b[31m\xff";
  options.gpu = "gpu";
  options.run_id = "0123456789abcdef0123456789abcdef";
  options.axes[0] = {"tp", 1, 2};
  options.rank = 1;
  options.clock = clock;
  options.clock_start_ns = 1'000'000'000;
  options.segment_bytes = 1;  // The smallest rings that there are.
  options.max_model_len = 4096;
  options.num_speculative_tokens = 3;
  std::size_t next = 0;
  ((options.records[next++] = rankbus::record_type<Records>()), ...);
  rankbus::Producer producer = rankbus::Producer::open(options);
  if (producer.inert()) give_up(__FILE__, __LINE__, "a producer works", producer.reason());
  for (const char* text : {"adapter", "two\nlines", "\xc0\xaf\x1b]0;title\x07", "\"quoted\\"})
    (void)producer.intern(text);
  const std::string path = bus + "/" + producer.segment_name();
  const auto write = [&](std::uint64_t from, std::uint64_t to) {
    const auto write_type = [&]<class Record>(std::type_identity<Record>) {
      const bus_test::RecordSequence<Record> sequence(1, bus_test::Temper::tame, kLateRecords);
      for (std::uint64_t n = from; n < to; ++n) producer.record(sequence.call(n));
    };
    (write_type(std::type_identity<Records>{}), ...);
  };
  write(0, kEarlyRecords);
  producer.status(7, 1, 2, 3);
  std::vector<unsigned char> early = bytes_of(path);
  write(kEarlyRecords, kLateRecords);
  producer.close();
  std::vector<unsigned char> late = bytes_of(path);
  unlink(path.c_str());
  // A role brings record types of its own; here they are chosen one by one.
  for (auto* bytes : {&early, &late})
    reinterpret_cast<rankbus::bus::SegmentHeader*>(bytes->data())->role =
        static_cast<std::uint32_t>(role);
  return Base{early, late, SegmentMap(early)};
}

inline const std::vector<Base>& bases(const std::string& bus) {
  using namespace rankbus;
  static const std::vector<Base> all = [&] {
    std::vector<Base> made;
    made.push_back(make_base<llm_engine::Tile, llm_engine::Swap, llm_engine::Mark>(
        bus, Role::other, ClockDomain::virtual_time));
    made.push_back(
        make_base<SchedulerStep, KvBlockOperations, KvBlockEviction, CacheLookup, CacheStorage,
                  CacheEviction, StepPhases, RequestKvEviction, LoraRequests, FinishedRequest,
                  CacheConfig>(bus, Role::scheduler, ClockDomain::virtual_time));
    made.push_back(make_base<IterationStats, SpecDecoding, DiffusionDecoding, PerfStats, CudaGraph,
                             CudaGraphConfig, IterationDetails, LoraState, MultimodalCache>(
        bus, Role::frontend, ClockDomain::real));
    made.push_back(
        make_base<WorkerStep, Collective, NixlTransfer, MooncakeTransfer, MooncakeStoreOperation,
                  Offloading, OffloadingConfig, HiSparse>(bus, Role::worker, ClockDomain::real));
    return made;
  }();
  return all;
}

}  // namespace fuzz
