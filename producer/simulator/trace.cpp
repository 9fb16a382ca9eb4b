#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/trace.hpp>

namespace rankbus::simulator {

namespace {

using nlohmann::json;

// Far above any real request, and low enough that no sum of the engine model can overflow.
constexpr std::uint64_t kMostTokens = 1u << 28;
constexpr double kLatestMs = 1e10;
// What lies deeper in a line is left out as it is read: nothing is looked for there, and whoever
// goes down level by level (a message that quotes a value) would need a stack as long as the line.
constexpr int kDeepest = 16;

// Long values would drown the message that quotes them.
std::string shortened(std::string text) {
  constexpr std::size_t kLongest = 60;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

// Parses one line; knows where it is so that every complaint says so.
class LineReader {
 public:
  LineReader(const std::string& file, std::size_t line_number)
      : where_(file + ":" + std::to_string(line_number) + ": ") {}

  void read(const std::string& line, WorkloadBuilder& builder) {
    const json object = json::parse(
        line, [](int depth, json::parse_event_t, json&) { return depth <= kDeepest; },
        /*allow_exceptions=*/false);
    if (!object.is_object()) {
      fail("found '" + shortened(line) + "', expected one JSON object per line");
    }
    Request request;
    request.arrival_ns = arrival_ns(field(object, "timestamp"));
    request.prompt_tokens = tokens(object, "input_length");
    request.output_tokens = tokens(object, "output_length");
    builder.add(request, block_ids(field(object, "hash_ids"), request.prompt_tokens));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw InputError(where_ + what); }

  const json& field(const json& object, const char* name) const {
    const auto found = object.find(name);
    if (found == object.end()) {
      fail(std::string("no \"") + name +
           "\", expected the keys timestamp, input_length, output_length and hash_ids");
    }
    return *found;
  }

  std::uint64_t arrival_ns(const json& value) const {
    if (!value.is_number() || value.get<double>() < 0 || value.get<double>() > kLatestMs) {
      fail("\"timestamp\" is " + shortened(value.dump()) +
           ", expected milliseconds from 0 to 1e10");
    }
    return static_cast<std::uint64_t>(std::llround(value.get<double>() * 1e6));
  }

  std::uint32_t tokens(const json& object, const char* name) const {
    const json& value = field(object, name);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 1 ||
        value.get<std::uint64_t>() > kMostTokens) {
      fail(std::string("\"") + name + "\" is " + shortened(value.dump()) +
           ", expected a number of tokens from 1 to " + std::to_string(kMostTokens));
    }
    return value.get<std::uint32_t>();
  }

  const std::vector<std::uint64_t>& block_ids(const json& value, std::uint32_t prompt_tokens) {
    if (!value.is_array()) {
      fail("\"hash_ids\" is " + shortened(value.dump()) + ", expected an array of block ids");
    }
    if (value.size() != blocks_for(prompt_tokens)) {
      fail("\"hash_ids\" has " + std::to_string(value.size()) + " entries, expected " +
           std::to_string(blocks_for(prompt_tokens)) + ", one per started block of " +
           std::to_string(kBlockTokens) + " of the " + std::to_string(prompt_tokens) +
           " prompt tokens");
    }
    ids_.clear();
    for (const json& id : value) {
      if (!id.is_number_integer()) {
        fail("\"hash_ids\" holds " + shortened(id.dump()) + ", expected integers");
      }
      // Negative ids are taken by their bit pattern: only equality matters.
      ids_.push_back(id.is_number_unsigned() ? id.get<std::uint64_t>()
                                             : static_cast<std::uint64_t>(id.get<std::int64_t>()));
    }
    return ids_;
  }

  std::string where_;
  std::vector<std::uint64_t> ids_;
};

}  // namespace

Workload read_trace(std::istream& in, const std::string& file, std::uint64_t seed) {
  WorkloadBuilder builder;
  std::string line;
  std::size_t line_number = 0;
  std::size_t requests = 0;
  while (std::getline(in, line)) {
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    LineReader(file, line_number).read(line, builder);
    ++requests;
  }
  if (in.bad()) {
    throw InputError(file + ": reading stopped after line " + std::to_string(line_number) + ": " +
                     std::strerror(errno));
  }
  if (requests == 0)
    throw InputError(file + ": found no request, expected one JSON object per line");
  return std::move(builder).finish(seed);
}

Workload read_trace_file(const std::string& file, std::uint64_t seed) {
  std::ifstream in(file);
  if (!in) throw InputError(file + ": cannot be opened: " + std::strerror(errno));
  return read_trace(in, file, seed);
}

}  // namespace rankbus::simulator
