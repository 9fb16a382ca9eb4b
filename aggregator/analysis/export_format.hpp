// aggregator/analysis/export_format.hpp: one set of values in several formats, by the format's
// name.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rankbus::analysis {

using Json = nlohmann::ordered_json;

// Their names are `dict`, `prometheus`, `json` and `csv`.
enum class ExportFormat : std::uint8_t { dict, prometheus, json, csv };

// `dict` gives an object, every other format a text.
using Exported = std::variant<Json, std::string>;

// Refuses a name that is not one of `offered`, and says which are.
Result<ExportFormat> parse_export_format_untrusted(std::string_view name,
                                                   std::initializer_list<ExportFormat> offered);

Exported export_in(ExportFormat format, const Json& dict, const std::vector<Family>& families);

// `name,value` lines under a header (RFC 4180), one for each number or text, however deep it lies:
// summary.p50_lifetime,6.0
std::string csv_text(const Json& dict);

// At most `max_bytes` of a text that somebody else wrote, as valid UTF-8: bytes that are none
// become U+FFFD, and no character is cut in two.
std::string clean_text_untrusted(std::string_view text, std::size_t max_bytes);

// Collects series into families as the exporters want them: sorted, and no two alike.
class FamilyList {
 public:
  // `common` stand on every series; where a series has a label of the same name, its own stands.
  explicit FamilyList(Labels common = {}) : common_(std::move(common)) {}

  void add(std::string_view name, std::string_view help, FamilyType type, const Number& value,
           Labels labels = {});
  std::vector<Family> take();

 private:
  Labels common_;
  std::vector<Family> families_;
};

}  // namespace rankbus::analysis
