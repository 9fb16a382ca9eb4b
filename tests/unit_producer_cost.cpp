// Goal:   `record` calls neither the kernel nor the allocator, whatever the type.
// Method: the producer's process forbids itself every system call but the last one, and every
//         allocation, then records a hundred thousand of each type.
// Replay: unit_producer_cost [--gtest_filter=...]; nothing here is random.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>
#include <new>

#include "bus_fixture.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RANKBUS_SANITIZED 1
#endif

#if !defined(RANKBUS_SANITIZED)
namespace {
std::atomic<std::uint64_t> allocations{0};
}
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the C library's own names of what is replaced here.
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
// NOLINTEND(bugprone-reserved-identifier)
void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) {
  ++allocations;
  return __libc_realloc(old, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  ++allocations;
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
}
#endif

namespace bus_test {
namespace {

using rankbus::Producer;

rankbus::OpenOptions all_types(const std::string& bus) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.records[0] = rankbus::record_type<rankbus::SchedulerStep>();
  options.records[1] = rankbus::record_type<rankbus::IterationStats>();
  options.records[2] = rankbus::record_type<rankbus::FinishedRequest>();
  options.records[3] = rankbus::record_type<rankbus::WorkerStep>();
  options.records[4] = rankbus::record_type<rankbus::Collective>();
  options.records[5] = rankbus::record_type<llm_engine::Swap>();
  return options;
}

struct Records {
  RecordSequence<rankbus::SchedulerStep> steps{1, Temper::hostile};
  RecordSequence<rankbus::IterationStats> stats{2, Temper::hostile};
  RecordSequence<rankbus::FinishedRequest> requests{3, Temper::hostile};
  RecordSequence<rankbus::WorkerStep> forwards{4, Temper::hostile};
  RecordSequence<rankbus::Collective> collectives{5, Temper::hostile};
  RecordSequence<llm_engine::Swap> swaps{6, Temper::hostile};

  void write(Producer& producer, std::uint64_t calls) const {
    for (std::uint64_t n = 0; n < calls; ++n) {
      producer.record(steps.call(n));
      producer.record(stats.call(n));
      producer.record(requests.call(n));
      producer.record(forwards.call(n));
      producer.record(collectives.call(n));
      producer.record(swaps.call(n));
      // Without a stamp, the producer asks its clock.
      producer.record(rankbus::Collective{});
      producer.status(static_cast<std::uint32_t>(n), 1, 2, 3);
    }
  }
};

// From here on the kernel kills this process at any system call but exit_group.
bool forbid_system_calls() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog filter{sizeof program / sizeof program[0], program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

constexpr int kNoFilter = 77;

TEST(Record, UnderAFilterThatKillsAtAnySystemCall_WritesAHundredThousandOfEachType) {
#if defined(RANKBUS_SANITIZED)
  GTEST_SKIP() << "a sanitizer's own calls would be killed";
#endif
  const Folder folder;
  const Records records;
  struct Name {
    char text[128] = {};
  };
  const Shared<Name> name;
  const int status = in_child([&] {
    Producer producer = Producer::open(all_types(folder.bus()));
    if (producer.inert()) return 3;
    std::snprintf(name->text, sizeof name->text, "%s", producer.segment_name());
    if (!forbid_system_calls()) return kNoFilter;
    records.write(producer, 100'000);
    syscall(SYS_exit_group, 0);
    return 4;
  });
  if (status == kNoFilter) GTEST_SKIP() << "the kernel grants no system call filter";
  ASSERT_EQ(status, 0) << (status == -SIGSYS ? "a system call in record" : "");
  const auto reader = open_segment(folder.bus(), name->text);
  ASSERT_TRUE(reader && read_to_end(*reader));
  EXPECT_EQ(find_stream(*reader, "worker_step")->published, 100'000u);
  EXPECT_EQ(find_stream(*reader, "collective")->published, 200'000u);
}

TEST(Record, InTheFilter_TheFilterItselfKills) {
#if defined(RANKBUS_SANITIZED)
  GTEST_SKIP() << "a sanitizer's own calls would be killed";
#endif
  const int status = in_child([&] {
    if (!forbid_system_calls()) return kNoFilter;
    (void)syscall(SYS_getppid);
    return 0;
  });
  if (status == kNoFilter) GTEST_SKIP() << "the kernel grants no system call filter";
  EXPECT_EQ(status, -SIGSYS);
}

TEST(Record, AnyType_AllocatesNothing) {
#if defined(RANKBUS_SANITIZED)
  GTEST_SKIP() << "a sanitizer has an allocator of its own";
#else
  const Folder folder;
  const Records records;
  Producer producer = Producer::open(all_types(folder.bus()));
  ASSERT_FALSE(producer.inert()) << producer.reason();
  const std::uint64_t before = allocations;
  { const std::vector<int> counted(10); }
  ASSERT_GT(allocations, before) << "the hook counts nothing";
  const std::uint64_t start = allocations;
  records.write(producer, 2000);
  (void)producer.intern("adapter-1");
  EXPECT_EQ(allocations, start);
  Producer inert;
  records.write(inert, 10);
  EXPECT_EQ(allocations, start);
  EXPECT_EQ(inert.dropped_records(), 70u);
#endif
}

}  // namespace
}  // namespace bus_test
