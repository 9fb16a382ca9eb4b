// Goal:   a line of a trace that is nothing but brackets is refused with a sentence, however deep
// it
//         goes; it is not gone down level by level until the stack ends.
// Method: such lines in each place of a trace's line.
// Replay: untrusted_deep_lines [--gtest_filter=...]
#include <gtest/gtest.h>

#include <rankbus/producer/simulator/trace.hpp>
#include <sstream>
#include <string>

namespace rankbus::simulator {
namespace {

// Deep enough for the stack of any machine.
constexpr std::size_t kDeep = 1'000'000;

// C-19
TEST(DeepLines, BracketsInAnyPlace_AreRefusedWithASentence) {
  const std::string deep = std::string(kDeep, '[') + std::string(kDeep, ']');
  for (const std::string& line :
       {R"({"timestamp": )" + deep + "}",
        R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": )" + deep + "}",
        R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [)" + deep + "]}",
        R"({"x": )" + deep + "}", deep}) {
    std::istringstream in(line);
    try {
      read_trace(in, "trace", 0);
      ADD_FAILURE() << "accepted " << line.substr(0, 80);
    } catch (const InputError& error) {
      EXPECT_EQ(std::string(error.what()).find("trace:1: "), 0u);
      EXPECT_LT(std::string(error.what()).size(), 300u);
    }
  }
}

// What a line has besides is nobody's business.
TEST(DeepLines, BracketsWhereNobodyLooks_AreNoReasonToRefuse) {
  std::istringstream in(
      R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [3], "x": )" +
      std::string(kDeep, '[') + std::string(kDeep, ']') + "}");
  EXPECT_EQ(read_trace(in, "trace", 0).requests.size(), 1u);
}

}  // namespace
}  // namespace rankbus::simulator
