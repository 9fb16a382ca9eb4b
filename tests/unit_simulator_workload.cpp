// Where requests come from: the trace reader with its complaints, the generated workload, and the
// numbers both are drawn from.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <rankbus/producer/simulator/random.hpp>
#include <rankbus/producer/simulator/trace.hpp>
#include <set>
#include <sstream>
#include <string>

namespace rankbus::simulator {
namespace {

Workload read(const std::string& text) {
  std::istringstream in(text);
  return read_trace(in, "trace.jsonl", 0);
}

// The complaint about a trace whose second line is `line`.
std::string complaint_about(const std::string& line) {
  const std::string good =
      R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]})";
  try {
    read(good + "\n" + line + "\n");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(TraceReader, GoodLines_AreReadWithTimesLengthsAndSharedPrefixes) {
  const Workload workload = read(
      R"({"timestamp": 0, "input_length": 700, "output_length": 50, "hash_ids": [0, 1]})"
      "\n"
      R"({"timestamp": 1500, "input_length": 1200, "output_length": 7, "hash_ids": [0, 1, 2]})"
      "\n\n"
      R"({"timestamp": 2000.5, "input_length": 600, "output_length": 1, "hash_ids": [5, 1], "x": 0})"
      "\n");
  ASSERT_EQ(workload.requests.size(), 3u);
  EXPECT_EQ(workload.requests[0].prompt_tokens, 700u);
  EXPECT_EQ(workload.requests[0].output_tokens, 50u);
  EXPECT_EQ(workload.requests[1].arrival_ns, 1'500'000'000u);
  EXPECT_EQ(workload.requests[2].arrival_ns, 2'000'500'000u);
  ASSERT_EQ(workload.nodes_of(1).size(), 3u);
  EXPECT_EQ(workload.nodes_of(0)[1], workload.nodes_of(1)[1]);
  EXPECT_NE(workload.nodes_of(0)[1], workload.nodes_of(2)[1]) << "the block before differs";
  EXPECT_EQ(workload.node_count, 5u);
}

TEST(TraceReader, UnsortedLines_AreServedByArrivalAndEqualTimesInFileOrder) {
  const Workload workload =
      read(R"({"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [0]})"
           "\n"
           R"({"timestamp": 3, "input_length": 2, "output_length": 1, "hash_ids": [0]})"
           "\n"
           R"({"timestamp": 9, "input_length": 3, "output_length": 1, "hash_ids": [0]})");
  ASSERT_EQ(workload.requests.size(), 3u);
  EXPECT_EQ(workload.requests[0].prompt_tokens, 2u);
  EXPECT_EQ(workload.requests[1].prompt_tokens, 1u);
  EXPECT_EQ(workload.requests[2].prompt_tokens, 3u);
}

TEST(TraceReader, MalformedLine_IsNamedWithWhatWasFoundAndExpected) {
  struct Case {
    const char* line;
    const char* complaint;
  };
  const Case cases[] = {
      {"{\"timestamp\": 0, \"input_le",
       "trace.jsonl:2: found '{\"timestamp\": 0, \"input_le', expected one JSON object per line"},
      {"[1, 2]", "trace.jsonl:2: found '[1, 2]', expected one JSON object per line"},
      {R"({"timestamp": 0, "output_length": 1, "hash_ids": [0]})",
       "trace.jsonl:2: no \"input_length\", expected the keys timestamp, input_length, "
       "output_length and hash_ids"},
      {R"({"timestamp": -1, "input_length": 5, "output_length": 1, "hash_ids": [0]})",
       "trace.jsonl:2: \"timestamp\" is -1, expected milliseconds from 0 to 1e10"},
      {R"({"timestamp": "now", "input_length": 5, "output_length": 1, "hash_ids": [0]})",
       "trace.jsonl:2: \"timestamp\" is \"now\", expected milliseconds from 0 to 1e10"},
      {R"({"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []})",
       "trace.jsonl:2: \"input_length\" is 0, expected a number of tokens from 1 to 268435456"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1.5, "hash_ids": [0]})",
       "trace.jsonl:2: \"output_length\" is 1.5, expected a number of tokens from 1 to 268435456"},
      {R"({"timestamp": 0, "input_length": 2000, "output_length": 1, "hash_ids": [0, 1, 2]})",
       "trace.jsonl:2: \"hash_ids\" has 3 entries, expected 4, one per started block of 512 of the "
       "2000 prompt tokens"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ["a"]})",
       "trace.jsonl:2: \"hash_ids\" holds \"a\", expected integers"},
  };
  for (const Case& c : cases) EXPECT_EQ(complaint_about(c.line), c.complaint);
}

TEST(TraceReader, EmptyOrMissingFile_IsRefusedByName) {
  EXPECT_THROW(read("\n\n"), InputError);
  try {
    read_trace_file("/nowhere/trace.jsonl", 0);
    FAIL() << "a missing file was read";
  } catch (const InputError& error) {
    EXPECT_STREQ(error.what(), "/nowhere/trace.jsonl: cannot be opened: No such file or directory");
  }
}

TEST(TraceReader, Directory_IsRefusedAndNotReadAsEmpty) {
  try {
    read_trace_file("/", 0);
    FAIL() << "a directory was read";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("Is a directory"), std::string::npos) << error.what();
  }
}

TEST(GeneratedWorkload, SameSeed_GivesTheSameRequestsOnEveryMachine) {
  const Workload workload = generate_workload(1000, 1);
  std::uint64_t fingerprint = 0;
  const auto absorb = [&](std::uint64_t value) { fingerprint = hash_pair(fingerprint, value); };
  for (const Request& r : workload.requests) {
    absorb(r.arrival_ns);
    absorb(r.prompt_tokens);
    absorb(r.output_tokens);
    absorb(r.max_tokens);
  }
  for (const std::uint32_t node : workload.path) absorb(node);
  // Written down once: it changes only when somebody changes the workload on purpose.
  EXPECT_EQ(fingerprint, 6174545985759445074u);
}

TEST(GeneratedWorkload, Shape_IsAsDocumented) {
  const Workload workload = generate_workload(4000, 11);
  ASSERT_EQ(workload.requests.size(), 4000u);
  std::set<std::uint32_t> seen;
  std::uint64_t full_blocks = 0;
  std::uint64_t known_blocks = 0;
  std::size_t whole_block_prompts = 0;
  std::vector<std::uint32_t> outputs;
  for (std::uint32_t i = 0; i < workload.requests.size(); ++i) {
    const Request& r = workload.requests[i];
    EXPECT_LE(r.prompt_tokens, kLongestPrompt);
    EXPECT_GE(r.prompt_tokens, 1u);
    EXPECT_TRUE(r.max_tokens == 0 || r.max_tokens >= r.output_tokens);
    whole_block_prompts += r.prompt_tokens % kBlockTokens == 0;
    outputs.push_back(r.output_tokens);
    for (const std::uint32_t node : workload.nodes_of(i)) {
      ++full_blocks;
      known_blocks += !seen.insert(node).second;
    }
  }
  std::nth_element(outputs.begin(), outputs.begin() + 2000, outputs.end());
  EXPECT_NEAR(outputs[2000], 200, 20);
  const double seconds = static_cast<double>(workload.requests.back().arrival_ns) / 1e9;
  EXPECT_NEAR(seconds, 4000 / kArrivalsPerSecond, 150);
  EXPECT_GT(whole_block_prompts, 150u);
  const double shared = static_cast<double>(known_blocks) / static_cast<double>(full_blocks);
  EXPECT_GT(shared, 0.3);
  EXPECT_LT(shared, 0.9);
}

TEST(GeneratedWorkload, LimitedDuration_KeepsExactlyTheArrivalsWithin) {
  Workload workload = generate_workload(100, 3);
  const std::uint64_t limit_ns = workload.requests[40].arrival_ns;
  limit_duration(workload, limit_ns);
  EXPECT_EQ(workload.requests.size(), 41u);
  EXPECT_EQ(workload.requests.back().arrival_ns, limit_ns);
}

TEST(Random, PortableLogAndExp_AgreeWithTheLibraryToTheLastDigits) {
  Random random(1, 1);
  for (int i = 0; i < 10'000; ++i) {
    const double x = portable_exp(40 * random.uniform() - 20);
    EXPECT_NEAR(portable_log(x), std::log(x), 1e-14 * std::max(1.0, std::abs(std::log(x))));
    const double y = 40 * random.uniform() - 20;
    EXPECT_NEAR(portable_exp(y) / std::exp(y), 1.0, 1e-14);
  }
  EXPECT_EQ(portable_log(1.0), 0.0);
  EXPECT_EQ(portable_exp(0.0), 1.0);
}

TEST(Random, Distributions_HaveTheirMeans) {
  Random random(2, 1);
  constexpr int kDraws = 200'000;
  double normal = 0;
  double square = 0;
  double exponential = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double n = random.normal();
    normal += n;
    square += n * n;
    exponential += random.exponential(3.0);
  }
  EXPECT_NEAR(normal / kDraws, 0.0, 0.01);
  EXPECT_NEAR(square / kDraws, 1.0, 0.02);
  EXPECT_NEAR(exponential / kDraws, 3.0, 0.05);
}

}  // namespace
}  // namespace rankbus::simulator
