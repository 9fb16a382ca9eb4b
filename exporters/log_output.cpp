#include <fcntl.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <rankbus/exporters/log_output.hpp>
#include <rankbus/exporters/log_text.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace rankbus {
namespace {

constexpr char kLinePattern[] = "%* %m-%d %H:%M:%S [rankbus] %+";
constexpr mode_t kLogFileMode = 0644;  // Before the umask. Lines hold no client text.

// Python's names of the levels, in which vLLM logs.
class LevelName : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    const std::string_view name = name_of(message.level);
    line.append(name.data(), name.data() + name.size());
  }

  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<LevelName>();
  }

 private:
  static std::string_view name_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::trace:
      case spdlog::level::debug:
        return "DEBUG";
      case spdlog::level::info:
        return "INFO";
      case spdlog::level::warn:
        return "WARNING";
      case spdlog::level::err:
        return "ERROR";
      default:
        return "CRITICAL";
    }
  }
};

// The message, harmless whoever's words are in it: warnings quote names that processes and files
// bear, and a message is one line, whatever it holds.
class HarmlessMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    text_.clear();
    append_log_text_untrusted({message.payload.data(), message.payload.size()}, text_);
    line.append(text_.data(), text_.data() + text_.size());
  }

  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<HarmlessMessage>();
  }

 private:
  std::string text_;  // Kept for its memory.
};

int open_log_file(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, kLogFileMode);
}

std::string open_error(const std::string& path, int error) {
  return "cannot open log file " + path + ": " + std::strerror(error);
}

}  // namespace

// spdlog's own file sink can neither reopen its file nor say that it wrote a whole line.
class LogOutput::FileSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  FileSink(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~FileSink() override { close(fd_); }

  std::string reopen() {
    const int fd = open_log_file(path_);
    if (fd < 0) return open_error(path_, errno) + "; lines go on into the old file";
    int old_fd = fd;
    {
      const std::lock_guard lock(mutex_);
      std::swap(fd_, old_fd);
    }
    close(old_fd);
    return {};
  }

 protected:
  // One write with O_APPEND: lines of several processes may interleave, but not break. spdlog tells
  // what is thrown here on stderr, at most once a second.
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    std::string_view rest(line.data(), line.size());
    while (!rest.empty()) {
      const ssize_t written = write(fd_, rest.data(), rest.size());
      if (written >= 0) {
        rest.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        throw spdlog::spdlog_ex("cannot write log file " + path_, errno);
      }
    }
  }

  void flush_() override {}  // write() has handed the line to the kernel.

 private:
  const std::string path_;
  int fd_;
};

Result<LogOutput> LogOutput::open(const LogOptions& options) {
  LogOutput output;
  std::vector<spdlog::sink_ptr> sinks;
  if (options.to_stderr) sinks.push_back(std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (!options.file.empty()) {
    const int fd = open_log_file(options.file);
    if (fd < 0) return Error{open_error(options.file, errno)};
    output.file_sink_ = std::make_shared<FileSink>(options.file, fd);
    sinks.push_back(output.file_sink_);
  }
  output.logger_ = std::make_shared<spdlog::logger>("rankbus", sinks.begin(), sinks.end());
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<LevelName>('*').add_flag<HarmlessMessage>('+').set_pattern(kLinePattern);
  output.logger_->set_formatter(std::move(formatter));
  output.logger_->set_level(options.level);
  output.logger_->flush_on(spdlog::level::trace);
  return output;
}

std::string LogOutput::reopen() {
  return file_sink_ == nullptr ? "" : file_sink_->reopen();
}

}  // namespace rankbus
