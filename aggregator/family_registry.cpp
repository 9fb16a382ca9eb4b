#include <algorithm>
#include <rankbus/aggregator/family_registry.hpp>
#include <rankbus/producer/records.hpp>
#include <sstream>

namespace rankbus {
namespace {

using bus::Kind;

// Names of a bus that nobody else defined first; who changes names at every start must not fill
// the memory with them.
constexpr std::size_t kMaxFamilies = 16'384;

const char* const kHistogramSuffixes[] = {"_bucket", "_sum", "_count", "_created"};

const char* text_of(Kind kind) {
  static const char* const names[] = {
      "",        "an id",          "a stamp", "a counter", "a running total",
      "a gauge", "a distribution", "a label", "an info"};
  return names[static_cast<int>(kind)];
}
const char* text_of(bus::Type type) {
  static const char* const names[] = {"", "u8", "u16", "u32", "u64", "i64", "f64"};
  return names[static_cast<int>(type)];
}
const char* text_of(bus::Unit unit) {
  static const char* const names[] = {"",          "",          " in seconds", " in nanoseconds",
                                      " in bytes", " in tokens"};
  return names[static_cast<int>(unit)];
}
const char* text_of(bus::Reduction reduction) {
  static const char* const names[] = {"",       "sum",    "max",   "min",      "mean",
                                      "leader", "newest", "merge", "each rank"};
  return names[static_cast<int>(reduction)];
}

// How many bits a slot has for it is nobody's business: totals have 64.
bool same_numbers(const FamilyMeaning& a, const FamilyMeaning& b) {
  return a.kind == b.kind && adds_up(a.type, b.type) && a.unit == b.unit &&
         a.reduction == b.reduction;
}

bool same_cells(const FieldSchema& a, const FieldSchema& b) {
  return *a.bounds == *b.bounds && a.classic_cells == b.classic_cells &&
         a.native_first == b.native_first && a.native_last == b.native_last;
}

bool starts_with(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

// Names that the aggregator, or Prometheus itself, gives to series that no producer feeds. What the
// built-in types feed is known before this is asked; what the simulator adds bears its own name.
bool is_reserved(const std::string& family) {
  if (starts_with(family, "rankbus_simulated_")) return false;
  return family == "up" || family == "ALERTS" || family == "ALERTS_FOR_STATE" ||
         starts_with(family, "scrape_") || starts_with(family, "process_") ||
         starts_with(family, "rankbus_");
}

// A built-in type's own declaration, in the words of a schema.
FamilyMeaning meaning_of(const bus::RecordType& type, const bus::FieldSpec& field) {
  FamilyMeaning meaning{field.kind, field.type, field.unit, field.reduction, {}};
  if (field.fixed_label[0] != '\0') meaning.labels.insert(field.fixed_label);
  std::istringstream by(field.by);
  for (std::string name; by >> name;) {
    for (std::uint32_t i = 0; i < type.field_count; ++i) {
      if (type.fields[i].name == name) meaning.labels.insert(type.fields[i].metric);
    }
  }
  return meaning;
}

FamilyMeaning meaning_of(const StreamSchema& stream, std::size_t index) {
  const FieldSchema& field = stream.fields[index];
  const bus::FieldPlan& plan = stream.plan.fields[index];
  FamilyMeaning meaning{plan.kind, plan.type, field.unit, field.reduction, {}};
  if (!field.fixed_label.empty()) meaning.labels.insert(field.fixed_label);
  for (std::uint32_t position = 0; position < stream.plan.label_count; ++position) {
    if ((plan.by_labels >> position & 1) != 0)
      meaning.labels.insert(stream.fields[stream.plan.label_fields[position]].metric);
  }
  return meaning;
}

bool is_exposed(Kind kind) {
  return kind == Kind::info || bus::totals_row_words(kind, 0) > 0;
}

}  // namespace

std::string FamilyMeaning::text() const {
  std::string out = std::string(text_of(kind)) + " of " + text_of(type) + text_of(unit) +
                    ", reduced by " + text_of(reduction);
  const char* before = ", with label ";
  for (const std::string& label : labels) {
    out += before + label;
    before = " and ";
  }
  return out;
}

FamilyRegistry::FamilyRegistry() {
  const bus::RecordType* types[kBuiltInTypes];
  list_built_in_types(types);
  for (const bus::RecordType* type : types) {
    for (std::uint32_t f = 0; f < type->field_count; ++f) {
      const bus::FieldSpec& field = type->fields[f];
      if (field.metric[0] != '\0' && is_exposed(field.kind))
        built_in_[field.metric].push_back(meaning_of(*type, field));
    }
  }
}

const FamilyMeaning* FamilyRegistry::find(const std::string& family) const {
  if (const auto at = built_in_.find(family); at != built_in_.end()) return &at->second.front();
  const auto at = first_.find(family);
  return at == first_.end() ? nullptr : &at->second;
}

// A histogram's samples have names of their own, which must not be another family's.
std::string FamilyRegistry::name_clash(const std::string& family, bool is_histogram) const {
  for (const std::string suffix : kHistogramSuffixes) {
    if (is_histogram && find(family + suffix) != nullptr)
      return "its samples would be called like the family " + family + suffix;
    if (!family.ends_with(suffix)) continue;
    const std::string base = family.substr(0, family.size() - suffix.size());
    const FamilyMeaning* histogram = find(base);
    if (histogram != nullptr && histogram->kind == Kind::distribution)
      return "it is called like a sample of the histogram " + base;
  }
  return {};
}

// Why a field may not feed a family, or empty; who is first defines it.
std::string FamilyRegistry::refusal(const std::string& family, const FamilyMeaning& meaning) {
  if (const auto known = built_in_.find(family); known != built_in_.end()) {
    const bool agrees =
        std::any_of(known->second.begin(), known->second.end(), [&](const FamilyMeaning& each) {
          return same_numbers(each, meaning) && each.labels == meaning.labels;
        });
    return agrees
               ? std::string()
               : "it is " + meaning.text() + ", but the name means " + known->second.front().text();
  }
  if (is_reserved(family)) return "the name is not a producer's to give";
  const auto at = first_.find(family);
  if (at != first_.end()) {
    return same_numbers(at->second, meaning)
               ? std::string()
               : "it is " + meaning.text() + ", but was first " + at->second.text();
  }
  if (std::string clash = name_clash(family, meaning.kind == Kind::distribution); !clash.empty())
    return clash;
  if (first_.size() >= kMaxFamilies)
    return "this bus has " + std::to_string(kMaxFamilies) + " families";
  FamilyMeaning kept = meaning;
  kept.labels.clear();
  first_.emplace(family, std::move(kept));
  return {};
}

void FamilyRegistry::judge_untrusted(SegmentReader& reader,
                                     const std::function<void(const std::string&)>& warn) {
  for (const std::string& what : reader.unknown_to_this_build()) {
    if (said_.size() >= kMaxFamilies || !said_.insert(what).second) continue;
    warn(
        "segment " + reader.name() + ": " + what +
        ". The rest of it is read. Upgrade the aggregator before the producers. Fields are counted "
        "in rankbus_refused_fields");
  }
  std::map<std::string, const FieldSchema*> histograms;  // The first of each family.
  for (std::size_t s = 0; s < reader.streams().size(); ++s) {
    const StreamSchema& stream = reader.streams()[s].schema;
    for (std::size_t f = 0; f < stream.fields.size(); ++f) {
      const std::string family = stream.fields[f].metric;
      if (family.empty() || !is_exposed(stream.plan.fields[f].kind)) continue;
      std::string why = refusal(family, meaning_of(stream, f));
      if (why.empty() && stream.plan.fields[f].kind == Kind::distribution) {
        const auto [first, fresh] = histograms.try_emplace(family, &stream.fields[f]);
        if (!fresh && !same_cells(*first->second, stream.fields[f]))
          why = "it has other buckets than field " + first->second->name + " of the same process";
      }
      if (why.empty()) continue;
      reader.hide_field(s, f);
      if (said_.size() >= kMaxFamilies || !said_.insert(family).second) continue;
      warn("segment " + reader.name() + ", stream " + stream.name + ": field " +
           stream.fields[f].name + " is not shown as " + family + ": " + why +
           ". The rest of the stream is. Counted in rankbus_refused_fields");
    }
  }
}

void FamilyRegistry::learn(const FieldValues& values) {
  for (const auto& [key, value] : values) {
    if (value.is_info || find(key.first) != nullptr || first_.size() >= kMaxFamilies) continue;
    first_.emplace(key.first,
                   FamilyMeaning{value.kind, value.type, value.unit, value.reduction, {}});
  }
}

}  // namespace rankbus
