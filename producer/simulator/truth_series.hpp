// How the truth file is written, series by series under their exposed names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

namespace rankbus::simulator {

struct TruthCells {
  // 1-2-5 bounds up to 2^32 are 29; one more for what exceeds them all.
  static constexpr std::size_t kMostCells = 32;
  double sum = 0;
  std::array<std::uint64_t, kMostCells> count{};

  void observe(double value, std::span<const double> bounds);
  void add(const TruthCells& other);
};

// A bound as the Python client prints it: 1.0, 0.005, 1e+06, +Inf.
std::string le_text(double bound);

// Collects one engine's series.
class SeriesWriter {
 public:
  using SeriesLabels = std::map<std::string, std::string>;

  // `labels` are those that every series bears.
  SeriesWriter(nlohmann::json& out, SeriesLabels labels);

  // `extra` labels come on top.
  void counter(const std::string& name, std::uint64_t value, const SeriesLabels& extra = {});
  // A counter of doubles, whose last digits depend on the order of addition.
  void real_counter(const std::string& name, double value, const SeriesLabels& extra = {});
  void gauge(const std::string& name, double value, const SeriesLabels& extra = {});
  void histogram(const std::string& name, const TruthCells& cells, std::span<const double> bounds,
                 const SeriesLabels& extra = {});
  // A gauge of 1 with a configuration as its labels, without the labels in `left_out`.
  void info(const std::string& name, const SeriesLabels& labels, const char* left_out);
  // A series whose value is a time: that it is there is all that can be known. It bears of the
  // engine's labels only the server's.
  void present(const std::string& name, const SeriesLabels& labels);

 private:
  nlohmann::json& out_;
  SeriesLabels labels_;
};

}  // namespace rankbus::simulator
