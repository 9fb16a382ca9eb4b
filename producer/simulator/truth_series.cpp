#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/truth_series.hpp>
#include <utility>

namespace rankbus::simulator {

namespace {

std::string escaped(const std::string& label_value) {
  std::string text;
  for (const char c : label_value) {
    if (c == '\n') {
      text += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') text += '\\';
    text += c;
  }
  return text;
}

std::string series(const std::string& name, const SeriesWriter::SeriesLabels& labels) {
  std::string text = name + "{";
  const char* separator = "";
  for (const auto& [key, value] : labels) {
    text += separator + key + "=\"" + escaped(value) + "\"";
    separator = ",";
  }
  return text + "}";
}

SeriesWriter::SeriesLabels joined(SeriesWriter::SeriesLabels labels,
                                  const SeriesWriter::SeriesLabels& extra) {
  labels.insert(extra.begin(), extra.end());
  return labels;
}

}  // namespace

void TruthCells::observe(double value, std::span<const double> bounds) {
  std::size_t cell = 0;
  while (cell < bounds.size() && value > bounds[cell]) ++cell;
  ++count[cell];
  sum += value;
}

void TruthCells::add(const TruthCells& other) {
  sum += other.sum;
  for (std::size_t cell = 0; cell < kMostCells; ++cell) count[cell] += other.count[cell];
}

SeriesWriter::SeriesWriter(nlohmann::json& out, SeriesLabels labels)
    : out_(out), labels_(std::move(labels)) {}

void SeriesWriter::counter(const std::string& name, std::uint64_t value,
                           const SeriesLabels& extra) {
  out_["counters"][series(name, joined(labels_, extra))] = value;
}

void SeriesWriter::real_counter(const std::string& name, double value, const SeriesLabels& extra) {
  out_["sums"][series(name, joined(labels_, extra))] = value;
}

void SeriesWriter::gauge(const std::string& name, double value, const SeriesLabels& extra) {
  out_["gauges"][series(name, joined(labels_, extra))] = value;
}

void SeriesWriter::histogram(const std::string& name, const TruthCells& cells,
                             std::span<const double> bounds, const SeriesLabels& extra) {
  std::uint64_t running_count = 0;
  for (std::size_t i = 0; i <= bounds.size(); ++i) {
    running_count += cells.count[i];
    const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
    SeriesLabels labels = extra;
    labels["le"] = le_text(bound);
    counter(name + "_bucket", running_count, labels);
  }
  counter(name + "_count", running_count, extra);
  out_["sums"][series(name + "_sum", joined(labels_, extra))] = cells.sum;
}

void SeriesWriter::info(const std::string& name, const SeriesLabels& labels, const char* left_out) {
  SeriesLabels all = joined(labels_, labels);
  all.erase(left_out);
  out_["gauges"][series(name, all)] = 1.0;
}

void SeriesWriter::present(const std::string& name, const SeriesLabels& labels) {
  SeriesLabels all = joined(labels_, labels);
  all.erase("model_name");
  all.erase("engine");
  const std::string text = series(name, all);
  for (const auto& known : out_["present"]) {
    if (known == text) return;  // Two engines in the same state have one series.
  }
  out_["present"].push_back(text);
}

std::string le_text(double bound) {
  if (std::isinf(bound)) return "+Inf";
  // The shortest digits that read back as the same number, as d.ddde+XX.
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, bound, std::chars_format::scientific).ptr;
  std::string scientific(buffer, end);
  const std::size_t e = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(e + 1));
  std::string digits = scientific.substr(0, 1);
  if (e > 2) digits += scientific.substr(2, e - 2);
  // Python itself switches at 1e-05 and 1e+16; the client switches at seven integer digits, and
  // writes the exponent with one leading zero whatever follows.
  if (exponent >= 6 && exponent < 16) {
    const std::string mantissa =
        digits.size() > 1 ? digits.substr(0, 1) + "." + digits.substr(1) : digits;
    return mantissa + "e+0" + std::to_string(exponent);
  }
  if (exponent < -4 || exponent >= 16) return scientific;
  if (exponent < 0)
    return "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return digits + std::string(whole - digits.size(), '0') + ".0";
  return digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace rankbus::simulator
