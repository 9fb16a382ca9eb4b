// A record type that readers would refuse is refused where it is declared, with a sentence that
// says why.
#include <gtest/gtest.h>

#include <array>
#include <rankbus/bus/declaration.hpp>
#include <rankbus/producer.hpp>
#include <string>
#include <vector>

namespace rankbus {
namespace {

using bus::FieldSpec;
using bus::Type;
using Build = bus::SpecBuilders;

std::vector<FieldSpec> good_fields() {
  return {named(Build::stamp(), "stamp", Type::u64, 1, "When"),
          named(Build::label("colour", "red\ngreen"), "colour", Type::u16, 1, "A label"),
          named(Build::counter("calls_total").split_by("colour"), "calls", Type::u32, 1, "Calls"),
          named(Build::distribution("seconds", bounds::kStep), "seconds", Type::f64, 8, "Times")};
}

// The reason for refusing these fields; empty if they are taken.
std::string refusal(const std::vector<FieldSpec>& fields, const char* name = "swap",
                    const char* help = "A swap") {
  bus::Reason why;
  const bool taken = bus::judge_declaration(name, help, fields.data(),
                                            static_cast<std::uint32_t>(fields.size()), why);
  EXPECT_EQ(taken, why.empty());
  return why.text;
}

template <class Change>
std::string refusal_of(std::size_t index, Change spoil) {
  std::vector<FieldSpec> fields = good_fields();
  spoil(fields[index]);
  return refusal(fields);
}

bool says(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

TEST(Declaration, GoodOne_IsTaken) {
  EXPECT_EQ(refusal(good_fields()), "");
}

TEST(Declaration, NameOutsideTheAlphabet_IsRefusedByField) {
  const std::string text = refusal_of(2, [](FieldSpec& field) { field.name = "calls-made"; });
  EXPECT_TRUE(says(text, "record type swap, field calls-made: a name is 1 to 128 of")) << text;
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.name = ""; }), "");
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.name = "2calls"; }), "");
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.name = nullptr; }), "");
}

TEST(Declaration, MetricName_IsThatOfPrometheus) {
  EXPECT_TRUE(
      says(refusal_of(2, [](FieldSpec& field) { field.metric = "calls total"; }), "metric"));
  EXPECT_EQ(refusal_of(2, [](FieldSpec& field) { field.metric = "vllm:calls_total"; }), "");
  EXPECT_EQ(refusal_of(2, [](FieldSpec& field) { field.metric = ""; }), "");
  static const std::string longest(128, 'a');
  static const std::string too_long(129, 'a');
  EXPECT_EQ(refusal_of(2, [](FieldSpec& field) { field.metric = longest.c_str(); }), "");
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.metric = too_long.c_str(); }), "");
}

TEST(Declaration, Texts_AreBoundedAndUtf8) {
  static const std::string too_long(513, 'a');
  EXPECT_NE(refusal_of(3, [](FieldSpec& field) { field.help = too_long.c_str(); }), "");
  EXPECT_NE(refusal_of(3, [](FieldSpec& field) { field.help = "caf\xe9"; }), "");
  EXPECT_EQ(refusal_of(3, [](FieldSpec& field) { field.help = "caf\xc3\xa9"; }), "");
  EXPECT_NE(refusal_of(3, [](FieldSpec& field) { field.help = "cut \xe2\x82"; }), "");
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.fixed_value = "\xff"; }), "");
  EXPECT_NE(refusal_of(1, [](FieldSpec& field) { field.domain = "red\n\x80"; }), "");
  EXPECT_NE(refusal(good_fields(), "swap", too_long.c_str()), "");
}

TEST(Declaration, LabelNames_HaveNoColon) {
  EXPECT_NE(refusal_of(1, [](FieldSpec& field) { field.metric = "a:b"; }), "");
  EXPECT_NE(refusal_of(1, [](FieldSpec& field) { field.metric = ""; }), "");
  EXPECT_NE(refusal_of(2, [](FieldSpec& field) { field.fixed_label = "a:b"; }), "");
}

// Its totals would otherwise be laid out for one row and written in others.
TEST(Declaration, SplitByAnythingButALabel_IsRefused) {
  const char* expected = "split_by names what is no label field";
  EXPECT_TRUE(says(refusal_of(2, [](FieldSpec& field) { field.by = "color"; }), expected));
  EXPECT_TRUE(says(refusal_of(2, [](FieldSpec& field) { field.by = "seconds"; }), expected));
  const char* label = good_fields()[1].name;
  static std::string both;
  both = std::string(label) + " seconds";
  EXPECT_TRUE(says(refusal_of(2, [](FieldSpec& field) { field.by = both.c_str(); }), expected));
  both = std::string(label) + "  " + label;
  EXPECT_EQ(refusal_of(2, [](FieldSpec& field) { field.by = both.c_str(); }), "");
}

TEST(Declaration, IndexWithoutAnArrayOfCountersAndALabel_IsRefused) {
  const auto indexed = [](FieldSpec& field) {
    field = field.indexed_as("expert");
    field.capacity = 8;
    field.type = Type::u64;
  };
  EXPECT_EQ(refusal_of(2, indexed), "");
  const char* expected = "only an array of counters has an index";
  EXPECT_TRUE(
      says(refusal_of(2, [&](FieldSpec& field) { indexed(field), field.capacity = 1; }), expected));
  EXPECT_TRUE(says(refusal_of(2, [&](FieldSpec& field) { indexed(field), field.fixed_label = ""; }),
                   expected));
  EXPECT_TRUE(
      says(refusal_of(2, [&](FieldSpec& field) { indexed(field), field.kind = bus::Kind::gauge; }),
           expected));
}

TEST(Declaration, InfoThatIsNoArrayOfWords_IsRefused) {
  const auto info = [](FieldSpec& field) {
    field = named(Build::info("my_info"), "config", Type::u64, 8, "The configuration");
  };
  EXPECT_EQ(refusal_of(2, info), "");
  const char* expected = "info is an exposed array";
  EXPECT_TRUE(
      says(refusal_of(2, [&](FieldSpec& field) { info(field), field.capacity = 1; }), expected));
  EXPECT_TRUE(
      says(refusal_of(2, [&](FieldSpec& field) { info(field), field.metric = ""; }), expected));
  EXPECT_TRUE(says(refusal_of(2, [&](FieldSpec& field) { info(field), field.type = Type::f64; }),
                   expected));
}

TEST(Declaration, ArrayThatReadersCannotStepThrough_IsRefused) {
  EXPECT_NE(refusal_of(3, [](FieldSpec& field) { field.type = Type::u32; }), "");
  EXPECT_NE(refusal_of(3, [](FieldSpec& field) { field.capacity = 0; }), "");
  EXPECT_NE(refusal_of(1, [](FieldSpec& field) { field.capacity = 4; }), "");
}

TEST(Declaration, FieldCountAndTypeName_HaveLimits) {
  EXPECT_NE(refusal({}), "");
  std::vector<FieldSpec> fields(bus::kMaxFieldsPerStream, good_fields()[3]);
  EXPECT_EQ(refusal(fields), "");
  fields.push_back(fields.front());
  EXPECT_TRUE(says(refusal(fields), "65 fields, expected 1 to 64"));
  EXPECT_NE(refusal(good_fields(), ""), "");
  EXPECT_NE(refusal(good_fields(), nullptr), "");
  EXPECT_NE(refusal(good_fields(), "a b"), "");
}

TEST(Declaration, EveryBuiltInType_IsTaken) {
  const bus::RecordType* types[kBuiltInTypes];
  list_built_in_types(types);
  for (const bus::RecordType* type : types) {
    bus::Reason why;
    EXPECT_TRUE(
        bus::judge_declaration(type->name, type->help, type->fields, type->field_count, why))
        << why.text;
  }
}

// The worker gets a producer all the same, which says what is wrong with the declaration.
TEST(Declaration, BadOneAtOpen_MakesTheProducerInertWithTheReason) {
  setenv("RANKBUS_QUIET", "1", 1);
  const std::vector<FieldSpec> fields = {
      named(Build::stamp(), "stamp", Type::u64, 1, "When"),
      named(Build::counter("no good name"), "calls", Type::u32, 1, "Calls")};
  bus::RecordType type;
  type.name = "swap";
  type.fields = fields.data();
  type.field_count = static_cast<std::uint32_t>(fields.size());
  OpenOptions options;
  options.bus = "/dev/shm/rankbus-test-that-is-not-made";
  options.records[0] = &type;
  const Producer producer = Producer::open(options);
  EXPECT_TRUE(producer.inert());
  EXPECT_TRUE(says(producer.reason(), "record type swap, field calls: a metric's name"))
      << producer.reason();
}

}  // namespace
}  // namespace rankbus
