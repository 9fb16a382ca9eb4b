// tests/fuzz/fuzz_lib.hpp: what fuzzers share: giving up aloud, a folder in shared memory, and
// judges of everything that rankbus prints.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <rankbus/exporters/utf8.hpp>
#include <string>
#include <string_view>
#include <unordered_set>

// libFuzzer's own mutations; where there is no libFuzzer (replay.cpp) nothing is mutated.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace fuzz {

// Judges are not what is looked at: what they do adds nothing to what an input covers.
#define FUZZ_UNSEEN __attribute__((no_sanitize("coverage")))

[[noreturn]] inline void give_up(const char* file, int line, const char* promise,
                                 std::string_view detail) {
  std::fprintf(stderr, "%s:%d: broken promise: %s\n%.*s\n", file, line, promise,
               static_cast<int>(std::min<std::size_t>(detail.size(), 4000)), detail.data());
  std::abort();
}

// `detail` is evaluated only when the promise is broken.
#define FUZZ_REQUIRE(holds, detail)                                    \
  do {                                                                 \
    if (!(holds)) ::fuzz::give_up(__FILE__, __LINE__, #holds, detail); \
  } while (false)

// RANKBUS_FUZZ_FOLDER, which its maker removes, else one in shared memory that goes with the
// process.
inline const std::string& folder() {
  static const std::string path = [] {
    if (const char* given = std::getenv("RANKBUS_FUZZ_FOLDER")) {
      std::string own = std::string(given) + "/XXXXXX";
      if (mkdtemp(own.data()) != nullptr) return own;
    }
    std::string own = "/dev/shm/rankbus-fuzz-XXXXXX";
    if (mkdtemp(own.data()) == nullptr) std::abort();
    static std::string made;
    made = own;
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(made, ignored);
    });
    return own;
  }();
  return path;
}

using Random = std::minstd_rand;

inline std::uint64_t below(Random& random, std::uint64_t limit) {
  return limit == 0 ? 0 : random() % limit;
}
inline bool one_in(Random& random, std::uint64_t count) {
  return below(random, count) == 0;
}

// Numbers at which arithmetic and comparisons change their minds.
inline std::uint64_t odd_number(Random& random) {
  const std::uint64_t power = std::uint64_t{1} << below(random, 64);
  switch (below(random, 7)) {
    case 0:
      return below(random, 16);
    case 1:
      return power;
    case 2:
      return power - 1;
    case 3:
      return power + 1;
    case 4:
      return std::uint64_t{0} - power;
    case 5:
      return std::uint64_t{0} - below(random, 16);
    default:
      return (std::uint64_t{random()} << 33 ^ std::uint64_t{random()} << 11 ^ random()) >>
             below(random, 64);
  }
}

FUZZ_UNSEEN inline bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const rankbus::CodePoint point = rankbus::read_utf8_untrusted(text, at);
    if (!point.valid) return false;
    at += point.bytes;
  }
  return true;
}

// A log's line that nobody's text can end, hide or continue.
FUZZ_UNSEEN inline void require_log_line(std::string_view line) {
  FUZZ_REQUIRE(is_utf8(line), line);
  const bool has_controls = std::any_of(line.begin(), line.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  FUZZ_REQUIRE(!has_controls, line);
}
// Whole lines, each of them such a one.
FUZZ_UNSEEN inline void require_log_lines(std::string_view text) {
  FUZZ_REQUIRE(text.empty() || text.ends_with('\n'), text);
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    require_log_line(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
}

// Reads the text format by its grammar, and by nothing of ours.
class ExpositionJudge {
 public:
  explicit ExpositionJudge(std::string_view text) : text_(text) {}

  FUZZ_UNSEEN void judge() {
    FUZZ_REQUIRE(is_utf8(text_), text_);
    FUZZ_REQUIRE(text_.empty() || text_.ends_with('\n'), text_);
    while (!text_.empty()) {
      const std::size_t end = text_.find('\n');
      line_ = left_ = text_.substr(0, end);
      text_.remove_prefix(end + 1);
      if (take("# HELP ")) {
        const std::string_view name = take_name();
        FUZZ_REQUIRE(take(" ") || left_.empty(), line_);
        begin_family(name);
      } else if (take("# TYPE ")) {
        judge_type();
      } else {
        judge_sample();
      }
    }
  }

 private:
  FUZZ_UNSEEN static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':';
  }
  FUZZ_UNSEEN bool take(std::string_view expected) {
    if (!left_.starts_with(expected)) return false;
    left_.remove_prefix(expected.size());
    return true;
  }
  FUZZ_UNSEEN std::string_view take_name() {
    std::size_t end = 0;
    while (end < left_.size() &&
           (is_letter(left_[end]) || (end > 0 && left_[end] >= '0' && left_[end] <= '9'))) {
      ++end;
    }
    FUZZ_REQUIRE(end > 0, line_);
    const std::string_view name = left_.substr(0, end);
    left_.remove_prefix(end);
    return name;
  }
  FUZZ_UNSEEN void begin_family(std::string_view name) {
    if (name == family_) return;
    FUZZ_REQUIRE(families_.insert(std::string(name)).second, line_);
    family_ = name;
    type_ = {};
  }
  FUZZ_UNSEEN void judge_type() {
    begin_family(take_name());
    FUZZ_REQUIRE(type_.empty() && take(" "), line_);
    FUZZ_REQUIRE(left_ == "counter" || left_ == "gauge" || left_ == "histogram", line_);
    type_ = left_;
  }
  FUZZ_UNSEEN void judge_sample() {
    const std::string_view whole = left_;
    const std::string_view name = take_name();
    std::string_view suffix = name.starts_with(family_) ? name.substr(family_.size()) : name;
    FUZZ_REQUIRE(!family_.empty() && !type_.empty(), line_);
    FUZZ_REQUIRE(type_ == "histogram"
                     ? suffix == "_bucket" || suffix == "_sum" || suffix == "_count"
                     : suffix.empty(),
                 line_);
    if (take("{")) judge_labels();
    const std::string_view series = whole.substr(0, whole.size() - left_.size());
    FUZZ_REQUIRE(series_.insert(std::string(series)).second, line_);
    FUZZ_REQUIRE(take(" "), line_);
    if (left_ == "NaN" || left_ == "+Inf" || left_ == "-Inf") return;
    double value = 0;
    const auto [end, error] = std::from_chars(left_.data(), left_.data() + left_.size(), value);
    FUZZ_REQUIRE(error == std::errc() && end == left_.data() + left_.size(), line_);
  }
  FUZZ_UNSEEN void judge_labels() {
    std::unordered_set<std::string_view> names;
    do {
      const std::string_view name = take_name();
      FUZZ_REQUIRE(name.find(':') == name.npos && names.insert(name).second, line_);
      FUZZ_REQUIRE(take("=\""), line_);
      for (;;) {
        FUZZ_REQUIRE(!left_.empty(), line_);
        const char c = left_.front();
        left_.remove_prefix(1);
        if (c == '"') break;
        if (c != '\\') continue;
        FUZZ_REQUIRE(take("\\") || take("\"") || take("n"), line_);
      }
    } while (take(","));
    FUZZ_REQUIRE(take("}"), line_);
  }

  std::string_view text_, line_, left_;
  std::string_view family_, type_;
  std::unordered_set<std::string> families_, series_;
};

inline void require_prometheus_text(std::string_view text) {
  ExpositionJudge(text).judge();
}

}  // namespace fuzz
