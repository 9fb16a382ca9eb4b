// Labels: threads
// Where lines go, what they look like there, and that a renamed file is left behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <ctime>
#include <rankbus/exporters/engine_log.hpp>
#include <rankbus/exporters/log_output.hpp>
#include <rankbus/exporters/log_text.hpp>

#include "unit_exporters_lib.hpp"

namespace rankbus::test {
namespace {

std::string cleaned(std::string_view text) {
  std::string out;
  append_log_text_untrusted(text, out);
  return out;
}

Result<LogOutput> open_file_log(const std::string& file) {
  LogOptions options;
  options.to_stderr = false;
  options.file = file;
  return LogOutput::open(options);
}

TEST(LogOutput, Line_LooksLikeVllms) {
  setenv("TZ", "UTC", 1);
  tzset();
  const TempDir dir;
  Result<LogOutput> output = open_file_log(dir / "log");
  ASSERT_TRUE(output) << output.error();
  std::tm when{};
  when.tm_year = 2025 - 1900;
  when.tm_mon = 10;
  when.tm_mday = 22;
  when.tm_hour = 5;
  when.tm_min = 16;
  when.tm_sec = 2;
  const auto wall = std::chrono::system_clock::from_time_t(timegm(&when));
  EngineLog engine_log(output->logger(), [wall] { return wall; });
  Snapshot shown;
  EngineTotals engine;
  engine.live = true;
  shown.engines = {engine};
  engine_log.observe(shown);
  shown.monotonic_s = 10;
  shown.engines[0].prompt_tokens_computed = 594;
  shown.engines[0].generation_tokens = 69;
  engine_log.log(shown);
  EXPECT_EQ(read_file(dir / "log"),
            "INFO 11-22 05:16:02 [rankbus] Engine 000: Avg prompt throughput: 59.4 tokens/s, Avg "
            "generation throughput: 6.9 tokens/s, Running: 0 reqs, Waiting: 0 reqs, GPU KV cache "
            "usage: 0.0%, Prefix cache hit rate: 0.0%\n");
}

TEST(LogOutput, Levels_HavePythonsNames) {
  const TempDir dir;
  Result<LogOutput> output = open_file_log(dir / "log");
  ASSERT_TRUE(output);
  output->logger()->debug("hidden");
  output->logger()->info("a");
  output->logger()->warn("b");
  output->logger()->error("c");
  output->logger()->critical("d");
  std::string levels;
  std::istringstream text(read_file(dir / "log"));
  for (std::string line; std::getline(text, line);) levels += line.substr(0, line.find(' ')) + " ";
  EXPECT_EQ(levels, "INFO WARNING ERROR CRITICAL ");
}

TEST(LogOutput, DebugLevel_ShowsDebugLines) {
  const TempDir dir;
  Result<LogOutput> output =
      LogOutput::open({.level = spdlog::level::debug, .to_stderr = false, .file = dir / "log"});
  ASSERT_TRUE(output);
  output->logger()->debug("shown");
  EXPECT_EQ(read_file(dir / "log").substr(0, 6), "DEBUG ");
}

TEST(LogOutput, Stderr_GetsTheSameLine) {
  const TempDir dir;
  testing::internal::CaptureStderr();
  Result<LogOutput> output = LogOutput::open({.file = dir / "log"});
  ASSERT_TRUE(output);
  output->logger()->info("hello");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), read_file(dir / "log"));
}

TEST(LogOutput, FileThatExists_IsAppendedTo) {
  const TempDir dir;
  write_file(dir / "log", "old\n");
  Result<LogOutput> output = open_file_log(dir / "log");
  ASSERT_TRUE(output);
  output->logger()->info("new");
  EXPECT_EQ(read_file(dir / "log").substr(0, 8), "old\nINFO");
}

TEST(LogOutput, RenamedFile_IsLeftOnReopen) {
  const TempDir dir;
  Result<LogOutput> output = open_file_log(dir / "log");
  ASSERT_TRUE(output);
  output->logger()->info("first");
  std::filesystem::rename(dir / "log", dir / "log.1");
  output->logger()->info("second");
  EXPECT_EQ(output->reopen(), "");
  output->logger()->info("third");
  const std::string old_file = read_file(dir / "log.1");
  const std::string new_file = read_file(dir / "log");
  EXPECT_NE(old_file.find("first\n"), std::string::npos);
  EXPECT_NE(old_file.find("second\n"), std::string::npos);
  EXPECT_EQ(old_file.find("third"), std::string::npos);
  EXPECT_NE(new_file.find("third\n"), std::string::npos);
  EXPECT_EQ(new_file.find("second"), std::string::npos);
}

TEST(LogOutput, FailedReopen_KeepsTheOldFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "sub");
  Result<LogOutput> output = open_file_log(dir / "sub/log");
  ASSERT_TRUE(output);
  std::filesystem::rename(dir / "sub", dir / "moved");
  const std::string why = output->reopen();
  EXPECT_NE(why.find("sub/log: No such file or directory"), std::string::npos) << why;
  output->logger()->info("still here");
  EXPECT_NE(read_file(dir / "moved/log").find("still here\n"), std::string::npos);
}

TEST(LogOutput, ReopenWithoutFile_DoesNothing) {
  Result<LogOutput> output = LogOutput::open({});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->reopen(), "");
}

TEST(LogOutput, FileThatCannotBeOpened_IsAnError) {
  const TempDir dir;
  Result<LogOutput> output = open_file_log(dir / "no/such/log");
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error(),
            "cannot open log file " + (dir / "no/such/log") + ": No such file or directory");
}

TEST(LogText, OrdinaryText_IsUnchanged) {
  EXPECT_EQ(cleaned(""), "");
  EXPECT_EQ(cleaned("meta-llama/Llama-3.1-70B"), "meta-llama/Llama-3.1-70B");
  EXPECT_EQ(cleaned("m\u00e4 \u4f60\u597d \U0001F600"), "m\u00e4 \u4f60\u597d \U0001F600");
}

// C-24
TEST(LogText, ControlCharacters_AreStripped) {
  EXPECT_EQ(cleaned("a\nb\rc\td\be\x7F"
                    "f"),
            "abcdef");
  EXPECT_EQ(cleaned(std::string_view("a\0b", 3)), "ab");
  EXPECT_EQ(cleaned("a\u0085b\u2028c\u2029d"), "abcd");
  EXPECT_EQ(cleaned("a\u202Eb\u2066c"), "abc") << "bidirectional controls";
  EXPECT_EQ(cleaned("a\xFF"
                    "b"),
            "a\uFFFDb");
}

// C-24
TEST(LogText, TerminalEscapes_AreStrippedWhole) {
  EXPECT_EQ(cleaned("a\x1B[1;31mb\x1B[0mc"), "abc");
  EXPECT_EQ(cleaned("a\x1B]0;title\x07"
                    "b\x1B]8;;http://x\x1B\\c"),
            "abc");
  EXPECT_EQ(cleaned("a\x1BP1$r\x1B\\b"), "ab") << "device control string";
  EXPECT_EQ(cleaned("a\x1B(Bb\x1B"
                    "7c"),
            "abc")
      << "character sets, save cursor";
  EXPECT_EQ(cleaned("a\u009B31mb\u009D0;t\u009Cc"), "abc") << "the C1 forms";
  EXPECT_EQ(cleaned("a\x1B"), "a");
  EXPECT_EQ(cleaned("a\x1B["), "a");
  EXPECT_EQ(cleaned("a\x1B]never ends"), "a");
  EXPECT_EQ(cleaned("a\x1B[12\nb"), "ab") << "broken off";
  EXPECT_EQ(cleaned("a\x1B\x1B[31mb"), "ab");
}

}  // namespace
}  // namespace rankbus::test
