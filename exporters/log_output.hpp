// exporters/log_output.hpp: where log lines go, in the shape of vLLM's:
//
//   INFO 11-22 05:16:02 [rankbus] Engine 000: Avg prompt throughput: 59.4 tokens/s, ...
//
// that is level, month-day and local time, and in place of vLLM's file:line the program's name.
#pragma once

#include <spdlog/spdlog.h>

#include <memory>
#include <rankbus/aggregator/result.hpp>
#include <string>

namespace rankbus {

struct LogOptions {
  spdlog::level::level_enum level = spdlog::level::info;
  bool to_stderr = true;
  std::string file;  // Also appended to this file; empty for none.
};

class LogOutput {
 public:
  // Fails only where the file cannot be opened.
  static Result<LogOutput> open(const LogOptions& options);

  // Every line is handed to the kernel before log() returns, in one write.
  const std::shared_ptr<spdlog::logger>& logger() const { return logger_; }

  // After the file was renamed, by logrotate for one: goes on in a new file of the old name. To be
  // called in consequence of SIGHUP, not from its handler. Returns why it failed, in which case
  // lines go on into the old file, or nothing.
  std::string reopen();

 private:
  class FileSink;

  std::shared_ptr<spdlog::logger> logger_;
  std::shared_ptr<FileSink> file_sink_;
};

}  // namespace rankbus
