// aggregator/family_registry.hpp: what each family of series is, and who may say so.
//
// A producer's schema names the families that it feeds. What vLLM or rankbus means by a name is
// declared in the built-in record types, and is looked up there; a producer that means something
// else by it is not believed. Any other name means what its first producer on this bus said. A
// field that is refused is not shown; the rest of its stream is.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/bus/schema.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus {

// What makes two fields of the same name one family.
struct FamilyMeaning {
  bus::Kind kind = bus::Kind::counter;
  bus::Type type = bus::Type::u64;
  bus::Unit unit = bus::Unit::none;
  bus::Reduction reduction = bus::Reduction::sum;
  std::set<std::string> labels;  // Names; of built-in families only.

  // "a counter of u64 in bytes, reduced by sum, with label pool"
  std::string text() const;
};

class FamilyRegistry {
 public:
  FamilyRegistry();

  // Decides about every exposed field of a new segment, and hides those that are refused. Says why,
  // once of each family.
  void judge_untrusted(SegmentReader& reader, const std::function<void(const std::string&)>& warn);
  // Families of totals that are kept mean what they meant when they were read.
  void learn(const FieldValues& values);

 private:
  std::string refusal(const std::string& family, const FamilyMeaning& meaning);
  std::string name_clash(const std::string& family, bool is_histogram) const;
  const FamilyMeaning* find(const std::string& family) const;

  std::map<std::string, std::vector<FamilyMeaning>> built_in_;
  std::map<std::string, FamilyMeaning> first_;  // Of all other names.
  std::set<std::string> said_;
};

}  // namespace rankbus
