// tests/unit_exporters_lib.hpp: snapshots for the exporters' tests, and files and commands for
// those that ask somebody else's program.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace rankbus::test {

inline std::shared_ptr<const std::vector<double>> bounds(std::vector<double> values) {
  return std::make_shared<const std::vector<double>>(std::move(values));
}

inline Series series(Labels labels, std::variant<Number, Histogram> value, std::string server = "s",
                     std::string engine = "0") {
  return {std::move(labels), std::move(server), std::move(engine), std::move(value)};
}

inline Family family(std::string name, std::string help, FamilyType type,
                     std::vector<Series> all_series) {
  return {std::move(name), std::move(help), type, std::move(all_series)};
}

inline Snapshot snapshot(std::vector<Family> families) {
  Snapshot result;
  result.pass = 1;
  result.complete = true;
  result.families = std::move(families);
  return result;
}

inline std::string render(const Snapshot& shown, const SeriesFilter& filter = {}) {
  std::string text;
  render_prometheus_text(shown, filter, text);
  return text;
}

// Two engines of a named server and one of an unnamed one, every type of family, the aggregator's
// own series, and label values that no parser likes.
inline Snapshot mixed_snapshot() {
  const auto le = bounds({0.001, 1, 2.5, 1e6});
  const Histogram ttft{le, {3, 0, 2, 1, 4}, 2000123.25};
  const Labels chat0 = {{"engine", "0"}, {"model_name", "llama"}, {"server", "chat"}};
  const Labels chat1 = {{"engine", "1"}, {"model_name", "llama"}, {"server", "chat"}};
  const Labels other = {{"engine", "0"}, {"model_name", "l\"l\\a\nm\u00e4 \u4f60\u597d"}};
  return snapshot({
      family("rankbus_passes_total", "Passes over the bus.", FamilyType::counter,
             {series({}, Number(std::uint64_t{7}), "", "")}),
      family("vllm:generation_tokens_total", "Number of generation tokens processed.",
             FamilyType::counter,
             {series(chat0, Number(std::uint64_t{9007199254740993}), "k1", "0"),
              series(chat1, Number(std::uint64_t{20}), "k1", "1"),
              series(other, Number(std::uint64_t{30}), "k2", "0")}),
      family("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.",
             FamilyType::gauge,
             {series(chat0, Number(0.1), "k1", "0"), series(chat1, Number(1.0), "k1", "1")}),
      family("vllm:time_to_first_token_seconds", "Line 1\nback\\slash \"quoted\"",
             FamilyType::histogram,
             {series(chat0, ttft, "k1", "0"),
              series(other, Histogram{le, {0, 0, 0, 0, 0}, 0}, "k2", "0")}),
  });
}

// A directory that goes when the test ends.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "rankbus-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

inline std::string read_file(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

// The exit status of a shell command, with all that it printed.
inline std::pair<int, std::string> run_command(const std::string& command, const TempDir& dir) {
  const std::string output = dir / "output";
  const int status = std::system(("{ " + command + "; } >'" + output + "' 2>&1").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(output)};
}

}  // namespace rankbus::test
