#include <algorithm>
#include <array>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <rankbus/exporters/utf8.hpp>
#include <utility>

namespace rankbus::analysis {
namespace {

constexpr std::array kFormatNames = {
    std::pair(ExportFormat::dict, std::string_view("dict")),
    std::pair(ExportFormat::prometheus, std::string_view("prometheus")),
    std::pair(ExportFormat::json, std::string_view("json")),
    std::pair(ExportFormat::csv, std::string_view("csv")),
};

std::string_view name_of(ExportFormat format) {
  return kFormatNames[static_cast<std::size_t>(format)].second;
}

// Texts are clean already; `replace` is for those that a caller's labels brought along.
std::string json_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void append_csv_text(std::string_view text, std::string& out) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
    out += text;
    return;
  }
  out += '"';
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  out += '"';
}

// A spreadsheet computes what begins like a formula; behind an apostrophe it is shown.
void append_csv_field(std::string_view text, std::string& out) {
  constexpr std::string_view kFormula = "=+-@\t\r";
  const bool is_formula = !text.empty() && kFormula.find(text.front()) != std::string_view::npos;
  append_csv_text(is_formula ? "'" + std::string(text) : text, out);
}

void append_csv_lines(const std::string& name, const Json& value, std::string& out) {
  if (value.is_structured()) {
    for (const auto& [key, inner] : value.items()) {
      append_csv_lines(name.empty() ? key : name + '.' + key, inner, out);
    }
    return;
  }
  append_csv_field(name, out);
  out += ',';
  if (value.is_string()) {
    append_csv_field(value.get_ref<const std::string&>(), out);
  } else if (!value.is_null()) {
    out += json_text(value);
  }
  out += "\r\n";
}

}  // namespace

Result<ExportFormat> parse_export_format_untrusted(std::string_view name,
                                                   std::initializer_list<ExportFormat> offered) {
  std::string known;
  for (const ExportFormat format : offered) {
    if (name == name_of(format)) return format;
    known += known.empty() ? "" : ", ";
    known += name_of(format);
  }
  return Error{"unknown export format '" + clean_text_untrusted(name, 40) + "': " + known};
}

Exported export_in(ExportFormat format, const Json& dict, const std::vector<Family>& families) {
  switch (format) {
    case ExportFormat::dict:
      return dict;
    case ExportFormat::json:
      return json_text(dict);
    case ExportFormat::csv:
      return csv_text(dict);
    case ExportFormat::prometheus:
      break;
  }
  Snapshot shown;
  shown.families = families;
  std::string text;
  render_prometheus_text(shown, {}, text);
  return text;
}

std::string csv_text(const Json& dict) {
  std::string out = "name,value\r\n";
  append_csv_lines("", dict, out);
  return out;
}

std::string clean_text_untrusted(std::string_view text, std::size_t max_bytes) {
  std::string clean;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = read_utf8_untrusted(text, at);
    const std::string_view part =
        point.valid ? text.substr(at, point.bytes) : kReplacementCharacter;
    if (clean.size() + part.size() > max_bytes) break;
    clean += part;
    at += point.bytes;
  }
  return clean;
}

void FamilyList::add(std::string_view name, std::string_view help, FamilyType type,
                     const Number& value, Labels labels) {
  for (const auto& label : common_) {
    const auto is_same = [&](const auto& own) { return own.first == label.first; };
    if (std::none_of(labels.begin(), labels.end(), is_same)) labels.push_back(label);
  }
  std::sort(labels.begin(), labels.end());
  const auto has_name = [&](const Family& family) { return family.name == name; };
  auto family = std::find_if(families_.begin(), families_.end(), has_name);
  if (family == families_.end()) {
    families_.push_back({std::string(name), std::string(help), type, {}});
    family = families_.end() - 1;
  }
  Series series;
  series.labels = std::move(labels);
  series.value = value;
  family->series.push_back(std::move(series));
}

std::vector<Family> FamilyList::take() {
  const auto by_name = [](const Family& left, const Family& right) {
    return left.name < right.name;
  };
  const auto by_labels = [](const Series& left, const Series& right) {
    return left.labels < right.labels;
  };
  std::sort(families_.begin(), families_.end(), by_name);
  for (Family& family : families_) {
    std::sort(family.series.begin(), family.series.end(), by_labels);
  }
  return std::move(families_);
}

}  // namespace rankbus::analysis
