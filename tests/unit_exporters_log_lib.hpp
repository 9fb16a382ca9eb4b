// tests/unit_exporters_log_lib.hpp: an EngineLog whose lines are kept, and a snapshot to tell it.
#pragma once

#include <gtest/gtest.h>
#include <spdlog/sinks/base_sink.h>

#include <memory>
#include <mutex>
#include <optional>
#include <rankbus/exporters/engine_log.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rankbus::test {

using Strings = std::vector<std::string>;

// Keeps what was logged as "LEVEL text".
class Lines : public spdlog::sinks::base_sink<std::mutex> {
 public:
  Strings take() { return std::exchange(lines_, {}); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const bool is_debug = message.level == spdlog::level::debug;
    lines_.push_back((is_debug ? "DEBUG " : "INFO ") +
                     std::string(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}

 private:
  Strings lines_;
};

class EngineLogTest : public testing::Test {
 protected:
  EngineLogTest() { logger_->set_level(spdlog::level::debug); }

  // One engine among those of the next snapshot.
  EngineTotals& engine(std::uint32_t index, const std::string& server = "k1") {
    for (EngineTotals& known : snapshot_.engines) {
      if (known.engine == index && known.server == server) return known;
    }
    EngineTotals added;
    added.server = server;
    added.model_name = "llama";
    added.engine = index;
    added.live = true;
    snapshot_.engines.push_back(added);
    return snapshot_.engines.back();
  }

  // What only samples tell of the interval that the next snapshot ends.
  IntervalStats& interval(std::optional<std::uint32_t> index, const std::string& server = "k1") {
    for (IntervalStats& known : snapshot_.intervals) {
      if (known.engine == index && known.server == server) return known;
    }
    IntervalStats& added = snapshot_.intervals.emplace_back();
    added.server = server;
    added.engine = index;
    return added;
  }

  void pass_seconds(double seconds) {
    ++snapshot_.pass;
    snapshot_.monotonic_s += seconds;
  }

  Strings log() {
    log_.log(snapshot_);
    snapshot_.intervals.clear();
    snapshot_.iterations.clear();
    return sink_->take();
  }

  Strings observe() {
    log_.observe(snapshot_);
    snapshot_.iterations.clear();
    return sink_->take();
  }

  // The lines shortened to level, who, and both throughputs.
  Strings log_rates() {
    Strings short_lines;
    for (const std::string& line : log()) {
      short_lines.push_back(line.substr(0, line.find(", Running")));
    }
    return short_lines;
  }

  // Those that contain `text`.
  Strings log_those_with(const std::string& text) {
    Strings found;
    for (std::string& line : log()) {
      if (line.find(text) != std::string::npos) found.push_back(std::move(line));
    }
    return found;
  }

  std::shared_ptr<Lines> sink_ = std::make_shared<Lines>();
  std::shared_ptr<spdlog::logger> logger_ = std::make_shared<spdlog::logger>("test", sink_);
  EngineLog log_{logger_};
  Snapshot snapshot_;
};

inline std::string rates(const std::string& who, const std::string& prompt,
                         const std::string& generation) {
  return who + ": Avg prompt throughput: " + prompt +
         " tokens/s, Avg generation throughput: " + generation + " tokens/s";
}

}  // namespace rankbus::test
