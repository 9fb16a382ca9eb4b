// producer/replay/calls_file.hpp: a file of recorded record() calls, plain or gzipped.
//
//   {"model_name": "m", "engines": [0], ...}                     the header
//   {"t": 1.5, "engine": 0, "scheduler": {...}, "iteration": {...}, "mm": {...}}
//   {"t": 2.0, "sleep": [1, 2]}
#pragma once

#include <rankbus/producer/replay/json_fields.hpp>
#include <string>
#include <vector>

namespace rankbus::replay {

struct CallsHeader {
  std::string model_name;
  std::uint64_t max_model_len = 0;
  std::uint32_t num_speculative_tokens = 0;
  std::vector<std::uint32_t> engines;                // Empty: those that the calls name.
  std::optional<std::vector<std::string>> features;  // Record types; none: what the calls contain.
  Json cache_config;                                 // An object, or null.
  std::string max_lora = "0";                        // Adapters that fit into one batch.
};

struct Call {
  std::uint64_t line = 0;
  std::optional<double> t_s;  // When the call was made, in seconds of any clock.
  std::uint32_t engine = 0;
  bool has_engine = false;
  Json scheduler, iteration, mm;  // Objects, or null.
  struct Sleep {
    bool asleep = false;
    int level = 0;
  };
  std::optional<Sleep> sleep;
  // A change of sleep without an engine is every engine's, as in vLLM.
  bool is_for_all() const { return sleep.has_value() && !has_engine; }
};

class CallsFile {
 public:
  // Throws std::runtime_error if the file cannot be read, BadLine if its first line is no header.
  explicit CallsFile(const std::string& path);
  ~CallsFile();
  CallsFile(const CallsFile&) = delete;
  CallsFile& operator=(const CallsFile&) = delete;

  const CallsHeader& header() const { return header_; }

  // The next call; false at the end. Throws BadLine for a line that is none; the next call goes on
  // behind it. Empty lines are skipped.
  bool next(Call& call);
  std::uint64_t line() const { return line_; }
  // The file ends in the middle of a line, or of its compressed data: who wrote it was killed.
  bool is_cut() const { return is_cut_; }

 private:
  bool read_line(std::string& text);

  std::string path_;
  void* file_ = nullptr;
  std::uint64_t line_ = 0;
  bool is_cut_ = false;
  CallsHeader header_;
};

}  // namespace rankbus::replay
