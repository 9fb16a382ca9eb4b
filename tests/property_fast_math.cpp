// Labels: release-only
//
// Goal:   a worker compiled with -ffast-math, or whatever else its build uses, writes the totals
// that
//         a reader compiled without it replays, bit for bit; NaN and infinity are still recognised.
// Method: compile a worker that includes nothing but the producer, with several compilers and
//         options, and let it write the hostile sequences of property_totals.
// Replay: RANKBUS_TEST_SEED=<printed> property_fast_math, with RANKBUS_INCLUDE and RANKBUS_SOURCE
// as
//         ctest sets them.
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

constexpr std::uint64_t kCalls = 5000;

constexpr const char* kWorker = R"(
#include <cstdio>
#include <cstdlib>
#include "bus_records.hpp"
template <class T>
using Sequence = bus_test::RecordSequence<T>;
int main(int, char** arguments) {
  const std::uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  const std::uint64_t calls = std::strtoull(arguments[3], nullptr, 10);
  const Sequence<rankbus::SchedulerStep> steps(seed + 1, bus_test::Temper::hostile);
  const Sequence<rankbus::IterationStats> stats(seed + 2, bus_test::Temper::hostile);
  const Sequence<rankbus::FinishedRequest> requests(seed + 3, bus_test::Temper::hostile);
  const Sequence<llm_engine::Swap> swaps(seed + 4, bus_test::Temper::hostile);
  rankbus::OpenOptions options;
  options.bus = arguments[1];
  options.model = "fast";
  options.records[0] = rankbus::record_type<rankbus::SchedulerStep>();
  options.records[1] = rankbus::record_type<rankbus::IterationStats>();
  options.records[2] = rankbus::record_type<rankbus::FinishedRequest>();
  options.records[3] = rankbus::record_type<llm_engine::Swap>();
  options.segment_bytes = 512 << 10;
  rankbus::Producer producer = rankbus::Producer::open(options);
  for (std::uint64_t n = 0; n < calls; ++n) {
    producer.record(steps.call(n));
    producer.record(stats.call(n));
    producer.record(requests.call(n));
    producer.record(swaps.call(n));
  }
  std::printf("%s\n", producer.segment_name());
}
)";

std::string output_of(const std::string& command, int& status) {
  std::string text;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) std::abort();
  char part[512];
  while (std::fgets(part, sizeof part, pipe) != nullptr) text += part;
  status = pclose(pipe);
  return text;
}

bool has_compiler(const std::string& compiler) {
  int status = 0;
  (void)output_of("command -v " + compiler, status);
  return status == 0;
}

template <class T>
void expect_written(const rankbus::SegmentReader& reader, std::uint64_t seed) {
  const RecordSequence<T> sequence(seed, Temper::hostile);
  Oracle<T> oracle(sequence);
  EXPECT_EQ(expect_sequence(reader, oracle), oracle.slots_of_calls(kCalls));
}

class Worker : public testing::TestWithParam<const char*> {};

TEST_P(Worker, CompiledWithTheseOptions_WritesTotalsThatAReaderReplaysBitForBit) {
  const std::string command = GetParam();
  if (!has_compiler(command.substr(0, command.find(' ')))) GTEST_SKIP() << "not here: " << command;
  const char* include = std::getenv("RANKBUS_INCLUDE");
  const char* source = std::getenv("RANKBUS_SOURCE");
  if (include == nullptr || source == nullptr) {
    GTEST_SKIP() << "RANKBUS_INCLUDE and RANKBUS_SOURCE are not set; run by ctest";
  }
  const Folder folder;
  std::ofstream(folder / "worker.cpp") << kWorker;
  int status = 0;
  const std::string compiled = output_of(command + " -I" + include + " -I" + source + "/tests -o " +
                                             (folder / "worker") + " " + (folder / "worker.cpp"),
                                         status);
  ASSERT_EQ(status, 0) << compiled;
  // Nothing of ours is printed by the compiler of somebody else's worker.
  EXPECT_EQ(compiled, "");
  std::string name = output_of((folder / "worker") + " " + folder.bus() + " " +
                                   std::to_string(test_seed()) + " " + std::to_string(kCalls),
                               status);
  ASSERT_EQ(status, 0) << name;
  if (!name.empty()) name.pop_back();
  const auto reader = open_segment(folder.bus(), name);
  ASSERT_TRUE(reader);
  ASSERT_TRUE(read_to_end(*reader));
  EXPECT_EQ(reader->error(), "");
  expect_written<rankbus::SchedulerStep>(*reader, test_seed() + 1);
  expect_written<rankbus::IterationStats>(*reader, test_seed() + 2);
  expect_written<rankbus::FinishedRequest>(*reader, test_seed() + 3);
  expect_written<llm_engine::Swap>(*reader, test_seed() + 4);
}

INSTANTIATE_TEST_SUITE_P(
    FastMath, Worker,
    testing::Values(
        "g++ -std=c++17 -O2 -ffast-math -Wall -Wextra",
        "g++ -std=gnu++20 -Ofast -march=native -fno-exceptions -fno-rtti",
        "g++ -std=gnu++17 -O3 -march=native -funsafe-math-optimizations "
        "-ffinite-math-only -fno-math-errno",
        "clang++ -std=c++17 -O3 -march=native -ffast-math -fno-exceptions -Wall -Wextra"));

}  // namespace
}  // namespace bus_test
