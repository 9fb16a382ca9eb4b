#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/dialect.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <rankbus/bus/declaration.hpp>
#include <rankbus_dialects.hpp>
#include <sstream>

namespace rankbus {
namespace {

using Json = nlohmann::json;

std::string fault_of(const DialectRule& rule) {
  const auto is_name = [](const std::string& name) {
    return bus::is_name(name.data(), name.size());
  };
  const auto is_label = [](const std::string& name) {
    return bus::is_label_name(name.data(), name.size()) && name != "le" && name != "quantile";
  };
  if (!is_name(rule.family)) return "family \"" + rule.family + "\" is no metric name";
  if (rule.family.starts_with("rankbus_"))
    return "family \"" + rule.family + "\": names that begin with rankbus_ are rankbus's own";
  if (!is_name(rule.from)) return "from \"" + rule.from + "\" is no metric name";
  for (const auto& [name, value] : rule.set) {
    if (!is_label(name)) return "set: \"" + name + "\" is no label name";
  }
  for (const auto& [old_name, name] : rule.rename) {
    if (!is_label(name)) return "rename: \"" + name + "\" is no label name";
  }
  return {};
}

// A member of the type that is needed, or a sentence that says what is wrong.
template <class T>
T need(const Json& value, const std::string& key, const char* expected) {
  try {
    return value.get<T>();
  } catch (const Json::exception&) {
    throw std::invalid_argument(key + ": " + expected + " is expected");
  }
}

DialectRule parse_rule(const Json& in) {
  if (!in.is_object()) throw std::invalid_argument("an object is expected");
  DialectRule rule;
  using Texts = std::map<std::string, std::string>;
  constexpr const char* kText = "a string";
  constexpr const char* kTexts = "an object of strings";
  for (const auto& [key, value] : in.items()) {
    if (key == "family") {
      rule.family = need<std::string>(value, key, kText);
    } else if (key == "from") {
      rule.from = need<std::string>(value, key, kText);
    } else if (key == "help") {
      rule.help = need<std::string>(value, key, kText);
    } else if (key == "where" || key == "set") {
      const auto texts = need<Texts>(value, key, kTexts);
      (key == "set" ? rule.set : rule.where) = Labels(texts.begin(), texts.end());
    } else if (key == "drop") {
      rule.drop = need<std::vector<std::string>>(value, key, "a list of strings");
    } else if (key == "rename") {
      rule.rename = need<Texts>(value, key, kTexts);
    } else {
      throw std::invalid_argument("unknown key \"" + key +
                                  "\", expected family, from, help, where, drop, rename or set");
    }
  }
  if (const std::string fault = fault_of(rule); !fault.empty()) throw std::invalid_argument(fault);
  return rule;
}

bool is_chosen(const DialectRule& rule, const Labels& labels) {
  return std::all_of(rule.where.begin(), rule.where.end(), [&](const auto& wanted) {
    return std::find(labels.begin(), labels.end(), wanted) != labels.end();
  });
}

Labels relabelled(const DialectRule& rule, const Labels& labels) {
  Labels out;
  const auto put = [&](const std::string& name, const std::string& value) {
    const auto at = std::lower_bound(out.begin(), out.end(), name,
                                     [](const auto& a, const auto& b) { return a.first < b; });
    if (at == out.end() || at->first != name) out.insert(at, {name, value});
  };
  for (const auto& [name, value] : labels) {
    if (std::find(rule.drop.begin(), rule.drop.end(), name) != rule.drop.end()) continue;
    const auto renamed = rule.rename.find(name);
    put(renamed == rule.rename.end() ? name : renamed->second, value);
  }
  for (const auto& [name, value] : rule.set) {
    std::erase_if(out, [&, &set = name](const auto& label) { return label.first == set; });
    put(name, value);
  }
  return out;
}

// Two series that a rule made equal. Amounts add up; of two states the larger is shown, which for
// times is the newer.
void merge(FamilyType type, Series& into, const Series& from) {
  if (into.engine != from.engine) into.engine.clear();
  if (type == FamilyType::histogram) {
    auto& histogram = std::get<Histogram>(into.value);
    const auto& other = std::get<Histogram>(from.value);
    if (*histogram.bounds != *other.bounds) return;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i)
      histogram.counts[i] += other.counts[i];
    histogram.sum += other.sum;
    return;
  }
  auto& number = std::get<Number>(into.value);
  const auto& other = std::get<Number>(from.value);
  if (type == FamilyType::counter) {
    number = add_numbers(number, other);
  } else if (as_double(other) > as_double(number)) {
    number = other;
  }
}

void show(const DialectRule& rule, const Family& source, std::map<std::string, Family>& shown) {
  Family& family = shown[rule.family];
  if (family.name.empty()) {
    family.name = rule.family;
    family.type = source.type;
    family.help = rule.help.empty() ? source.help : rule.help;
  }
  if (family.type != source.type) return;
  for (const Series& series : source.series) {
    if (!is_chosen(rule, series.labels)) continue;
    Series made = series;
    made.labels = relabelled(rule, series.labels);
    const auto at =
        std::lower_bound(family.series.begin(), family.series.end(), made,
                         [](const Series& a, const Series& b) { return a.labels < b.labels; });
    if (at != family.series.end() && at->labels == made.labels) {
      merge(family.type, *at, made);
    } else {
      family.series.insert(at, std::move(made));
    }
  }
}

}  // namespace

Result<Dialect> Dialect::load(const DialectOptions& options) {
  std::string chosen;
  for (const auto& [name, built_in] : kBuiltInDialects) {
    if (options.names == name) chosen = built_in;
  }
  if (chosen.empty()) {
    std::ifstream file(options.names);
    std::ostringstream content;
    if (!file || !(content << file.rdbuf())) {
      return Error{options.names + ": no such dialect, and no file that can be read. Give " +
                   built_in_dialect_names() + ", or the path of a JSON file"};
    }
    chosen = content.str();
  }
  Dialect dialect;
  // vLLM's own rules come first: other dialects begin with what vLLM would show.
  auto base = parse(kBuiltInDialects[0].second, "vllm", options.deprecated);
  if (!base) return Error{base.error()};
  dialect.layers_.push_back(base.value());
  if (options.names != kBuiltInDialects[0].first) {
    auto layer = parse(chosen, options.names, options.deprecated);
    if (!layer) return Error{layer.error()};
    dialect.layers_.push_back(layer.value());
  }
  if (options.per_peer) return dialect;
  for (const char* family :
       {"rankbus_kv_transfers_total", "rankbus_kv_transfer_failures_total",
        "rankbus_kv_transfer_bytes_total", "rankbus_kv_transfer_seconds_total"}) {
    DialectRule rule;
    rule.family = rule.from = family;
    rule.drop = {"peer"};
    dialect.layers_.front().rules.push_back(rule);
  }
  return dialect;
}

Result<Dialect::Layer> Dialect::parse(std::string_view text, const std::string& where,
                                      bool deprecated) {
  Layer layer;
  std::string place = where;
  try {
    const Json root = Json::parse(text);
    if (!root.is_object() || !root.contains("families"))
      throw std::invalid_argument("an object with \"families\" is expected");
    for (const auto& [key, value] : root.items()) {
      if (key == "families" || key == "deprecated") {
        if (!value.is_array()) throw std::invalid_argument(key + ": a list is expected");
        for (std::size_t i = 0; i < value.size() && (key == "families" || deprecated); ++i) {
          place = where + ": " + key + "[" + std::to_string(i) + "]";
          layer.rules.push_back(parse_rule(value[i]));
        }
        place = where;
      } else if (key == "hide") {
        layer.hidden = need<std::vector<std::string>>(value, key, "a list of prefixes");
        for (const std::string& prefix : layer.hidden) {
          if (prefix.empty() || std::string("rankbus_").starts_with(prefix) ||
              prefix.starts_with("rankbus_")) {
            throw std::invalid_argument("hide: \"" + prefix +
                                        "\" would hide families of rankbus's own");
          }
        }
      } else if (key != "name" && key != "comment") {
        throw std::invalid_argument("unknown key \"" + key +
                                    "\", expected name, comment, hide, families or deprecated");
      }
    }
  } catch (const std::exception& failure) {
    return Error{place + ": " + failure.what()};
  }
  return layer;
}

bool Dialect::Layer::hides(const std::string& family) const {
  return std::any_of(hidden.begin(), hidden.end(),
                     [&](const std::string& prefix) { return family.starts_with(prefix); });
}

void Dialect::apply(std::vector<Family>& families) const {
  for (const Layer& layer : layers_) layer.apply(families);
}

void Dialect::Layer::apply(std::vector<Family>& families) const {
  const auto by_name = [](const Family& a, const Family& b) { return a.name < b.name; };
  std::map<std::string, Family> shown;
  for (const DialectRule& rule : rules) {
    Family wanted;
    wanted.name = rule.from;
    const auto source = std::lower_bound(families.begin(), families.end(), wanted, by_name);
    if (source != families.end() && source->name == rule.from) show(rule, *source, shown);
  }
  // A rule replaces the family of its name.
  std::erase_if(families, [&](const Family& family) {
    return shown.count(family.name) != 0 || hides(family.name);
  });
  for (auto& [name, family] : shown) {
    if (!family.series.empty()) families.push_back(std::move(family));
  }
  std::sort(families.begin(), families.end(), by_name);
}

}  // namespace rankbus
