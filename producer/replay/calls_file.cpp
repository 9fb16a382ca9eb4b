#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <rankbus/producer/replay/calls_file.hpp>

namespace rankbus::replay {
namespace {

// A line of more is no call but a mistake, and would be memory without end.
constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;
// What lies deeper in a line is left out as it is read: no call has anything there, and copying or
// printing a value goes down level by level, on a stack that a line of brackets would exhaust.
constexpr int kDeepest = 32;

Json parse_object(const std::string& text) {
  Json object = Json::parse(
      text, [](int depth, Json::parse_event_t, Json&) { return depth <= kDeepest; },
      /*allow_exceptions=*/false);
  if (object.is_discarded()) throw BadLine("is no JSON");
  if (!object.is_object()) throw BadLine("is no JSON object");
  return object;
}

CallsHeader parse_header(const Json& in) {
  CallsHeader header;
  const auto model = text(in, "model_name");
  if (!model) throw BadLine("the first line is a header and needs \"model_name\"");
  header.model_name = *model;
  header.max_model_len = whole(in, "max_model_len");
  header.num_speculative_tokens = small(in, "num_speculative_tokens");
  for (const std::uint64_t engine : wholes(in, "engines")) {
    if (engine >= 0xffffffff) throw BadLine("engines: an index below 2^32 - 1 is expected");
    header.engines.push_back(static_cast<std::uint32_t>(engine));
  }
  if (const Json* features = member(in, "features")) {
    if (!features->is_array()) throw BadLine("features: a list of names is expected");
    header.features.emplace();
    for (const Json& feature : *features) {
      if (!feature.is_string()) throw BadLine("features: a list of names is expected");
      header.features->push_back(feature.get<std::string>());
    }
  }
  if (const Json* most = member(in, "max_lora")) header.max_lora = python_text(*most);
  if (const Json* config = member(in, "cache_config")) {
    if (!config->is_object()) throw BadLine("cache_config: an object is expected");
    header.cache_config = *config;
  }
  return header;
}

Json object_or_null(const Json& in, const char* key) {
  const Json* value = member(in, key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) throw BadLine(std::string(key) + ": an object or null is expected");
  return *value;
}

Call::Sleep parse_sleep(const Json& value) {
  const bool is_pair = value.is_array() && value.size() == 2 && value[0].is_number_integer() &&
                       value[1].is_number_integer();
  if (!is_pair) throw BadLine("sleep: [1 if asleep else 0, level] is expected");
  return {value[0].get<std::int64_t>() != 0, value[1].get<int>()};
}

}  // namespace

CallsFile::CallsFile(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rbe")) {
  if (file_ == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
  gzbuffer(static_cast<gzFile>(file_), 1u << 18);
  try {
    std::string line;
    if (!read_line(line)) throw BadLine("the file is empty, expected a header line");
    header_ = parse_header(parse_object(line));
  } catch (const BadLine& bad) {
    gzclose(static_cast<gzFile>(file_));
    throw BadLine(path + " line 1: " + bad.what() +
                  "; expected the header of a file of recorded calls, as producer/replay/README.md "
                  "shows it");
  } catch (...) {
    gzclose(static_cast<gzFile>(file_));
    throw;
  }
}

CallsFile::~CallsFile() {
  gzclose(static_cast<gzFile>(file_));
}

bool CallsFile::read_line(std::string& text) {
  text.clear();
  char chunk[1 << 16];
  while (gzgets(static_cast<gzFile>(file_), chunk, sizeof chunk) != nullptr) {
    text += chunk;
    if (text.ends_with('\n')) break;
    if (text.size() > kMaxLineBytes) throw BadLine("is longer than 64 MiB");
  }
  if (text.ends_with('\n')) {
    ++line_;
    return true;
  }
  int error = 0;
  const char* message = gzerror(static_cast<gzFile>(file_), &error);
  if (error == Z_BUF_ERROR) {
    is_cut_ = true;
    return false;
  }
  if (error != Z_OK && error != Z_STREAM_END) {
    throw std::runtime_error(path_ + ": behind line " + std::to_string(line_) + ": " +
                             (error == Z_ERRNO ? std::strerror(errno) : message));
  }
  if (text.empty()) return false;
  ++line_;
  return true;
}

bool CallsFile::next(Call& call) {
  std::string line;
  do {
    if (!read_line(line)) return false;
  } while (line.find_first_not_of(" \t\r\n") == std::string::npos);
  if (!line.ends_with('\n') && !Json::accept(line)) {
    is_cut_ = true;
    return false;
  }
  const Json in = parse_object(line);
  call = Call{};
  call.line = line_;
  call.t_s = real(in, "t");
  constexpr double kMost_s = 1e11;  // A few thousand years.
  if (call.t_s && !(*call.t_s >= -kMost_s && *call.t_s <= kMost_s))
    throw BadLine("t: seconds of a clock are expected");
  call.engine = small(in, "engine");
  call.has_engine = member(in, "engine") != nullptr;
  call.scheduler = object_or_null(in, "scheduler");
  call.iteration = object_or_null(in, "iteration");
  call.mm = object_or_null(in, "mm");
  if (const Json* sleep = member(in, "sleep")) call.sleep = parse_sleep(*sleep);
  if (call.is_for_all() && (call.scheduler.is_object() || call.iteration.is_object()))
    throw BadLine("sleep: without an engine it stands alone in its line");
  return true;
}

}  // namespace rankbus::replay
