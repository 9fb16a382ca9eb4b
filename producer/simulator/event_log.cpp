#include <cerrno>
#include <charconv>
#include <cstring>
#include <rankbus/producer/simulator/event_log.hpp>
#include <stdexcept>

namespace rankbus::simulator {

namespace {

// The log's only memory.
constexpr std::size_t kBufferBytes = 256 * 1024;

void append_number(std::string& line, std::uint64_t number) {
  char digits[20];
  line.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

}  // namespace

std::string engine_log_name(const std::string& file, std::uint32_t engine) {
  return file + ".engine" + std::to_string(engine);
}

std::string front_end_log_name(const std::string& file, std::uint32_t engine,
                               std::uint32_t front_end) {
  return engine_log_name(file, engine) + ".front" + std::to_string(front_end);
}

EventLog::EventLog(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "w")) {
  if (!file_) fail("created");
  std::setvbuf(file_.get(), nullptr, _IOFBF, kBufferBytes);
}

void EventLog::add(std::string_view what, std::uint64_t time_ns,
                   std::initializer_list<std::string_view> words,
                   std::initializer_list<std::uint64_t> numbers) {
  line_ = what;
  line_ += ',';
  append_number(line_, time_ns);
  for (const std::string_view word : words) {
    line_ += ',';
    line_ += word;
  }
  for (const std::uint64_t number : numbers) {
    line_ += ',';
    append_number(line_, number);
  }
  line_ += '\n';
  if (std::fwrite(line_.data(), 1, line_.size(), file_.get()) != line_.size()) fail("written");
}

void EventLog::flush() {
  if (std::fflush(file_.get()) != 0) fail("written");
}

void EventLog::fail(const char* action) const {
  throw std::runtime_error("event log " + path_ + " cannot be " + action + ": " +
                           std::strerror(errno));
}

}  // namespace rankbus::simulator
