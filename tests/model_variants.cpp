// tests/model_variants.cpp: what breaks when one thing in bus/slot.hpp or bus/memory.hpp is wrong.
//
// Goal: each ordering in bus/memory.hpp and each rule of the checkpoints is there because a promise
// breaks without it; and the checker that finds no fault in the protocol finds faults.
// Method: tests/model/variants.hpp, each variant asked every question; the shortest counterexample
// is printed. The test fails too when a variant keeps a promise that it was thought to break.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "model/variants.hpp"

namespace rankbus::model {
namespace {

const std::array<Exploration, kColumnNames.size()>& row_of(const std::string& name) {
  static std::map<std::string, std::array<Exploration, kColumnNames.size()>> rows;
  const auto known = rows.find(name);
  if (known != rows.end()) return known->second;
  const auto variant = std::find_if(variants().begin(), variants().end(),
                                    [&](const Variant& v) { return v.name == name; });
  if (variant == variants().end()) {
    ADD_FAILURE() << "no such variant: " << name;
    std::abort();
  }
  auto& row = rows[name];
  for (std::size_t c = 0; c < row.size(); ++c) {
    row.at(c) = explore_column(*variant, static_cast<Column>(c));
  }
  return row;
}

std::string table_line(const std::string& name) {
  std::string line = "| " + name + " |";
  for (const Exploration& cell : row_of(name)) line += cell.broken() ? " **breaks** |" : " holds |";
  return line;
}

// Expects exactly these columns to break, and shows the shortest way in which the first one does.
void expect_breaks(const std::string& name, const std::vector<Column>& columns) {
  const auto& row = row_of(name);
  for (std::size_t c = 0; c < row.size(); ++c) {
    const bool expected =
        std::find(columns.begin(), columns.end(), static_cast<Column>(c)) != columns.end();
    EXPECT_EQ(row.at(c).broken(), expected) << name << ": " << kColumnNames.at(c) << "\n"
                                            << row.at(c).counterexample;
  }
  if (columns.empty()) return;
  const auto first = static_cast<std::size_t>(columns.front());
  std::printf("  %s (%s):\n%s", name.c_str(), kColumnNames.at(first),
              row.at(first).counterexample.c_str());
}

using enum Column;
const std::vector<Column> kAllAlive = {slot, published, checkpoint, cut, attach, follow};
std::vector<Column> all_alive_and(std::vector<Column> more) {
  more.insert(more.begin(), kAllAlive.begin(), kAllAlive.end());
  return more;
}

// C-29
TEST(Variant, Protocol_AsItIs_KeepsEveryPromise) {
  expect_breaks("the protocol", {});
}

TEST(Variant, Fences_FieldsReleaseAndAcquireInstead_KeepEveryPromise) {
  expect_breaks("no fences, fields release and acquire", {});
}

// C-29
TEST(Variant, FenceAfterMark_LeftOut_TearsSlotsAndCheckpoints) {
  expect_breaks("no fence after the mark", all_alive_and({dead, follow_to_death}));
}

TEST(Variant, Mark_StoredRelaxed_KeepsEveryPromiseOfThisTable) {
  expect_breaks("mark stored relaxed", {});
}

TEST(Variant, MarkWithoutFences_StoredRelaxed_LeavesTwoOpenCheckpoints) {
  expect_breaks("no fences, mark stored relaxed", {dead});
}

// C-29
TEST(Variant, Mark_LeftOut_TearsSlotsAndCheckpoints) {
  expect_breaks("no mark", {slot, published, checkpoint, attach, follow, dead_in_order, dead,
                            follow_to_death});
}

// C-29
TEST(Variant, WholeWord_StoredRelaxed_TearsUnpublishedSlotsAndCheckpoints) {
  expect_breaks("whole word stored relaxed", {slot, checkpoint, attach, follow, dead});
}

// C-29
TEST(Variant, Published_StoredRelaxed_TellsOfRecordsThatAreNotThere) {
  expect_breaks("`published` stored relaxed", {published, attach, follow, dead, follow_to_death});
}

TEST(Variant, FieldsWithoutFences_StoredRelaxed_TearSlotsAndCheckpoints) {
  expect_breaks("no fences, fields stored relaxed", all_alive_and({dead, follow_to_death}));
}

// C-29
TEST(Variant, FirstLook_Relaxed_TearsUnpublishedSlotsAndCheckpoints) {
  expect_breaks("first look relaxed", {slot, checkpoint, attach, follow});
}

// C-29
TEST(Variant, FenceBeforeSecondLook_LeftOut_TearsSlotsAndCheckpoints) {
  expect_breaks("no fence before the second look", all_alive_and({follow_to_death}));
}

// C-29
TEST(Variant, FenceBeforeSecondLook_ReplacedByAcquireLoad_TearsSlotsAndCheckpoints) {
  expect_breaks("second look acquire instead of that fence", all_alive_and({follow_to_death}));
}

// C-29
TEST(Variant, Published_LoadedRelaxed_TellsOfRecordsThatAreNotThere) {
  expect_breaks("`published` loaded relaxed", {published, attach, follow, follow_to_death});
}

TEST(Variant, FieldsWithoutFences_LoadedRelaxed_TearSlotsAndCheckpoints) {
  expect_breaks("no fences, fields loaded relaxed", all_alive_and({follow_to_death}));
}

TEST(Variant, OneCheckpoint_WriterKilledInside_LeavesNoneWhole) {
  expect_breaks("one checkpoint instead of two", {dead_in_order, dead});
}

TEST(Variant, Checkpoint_BeforeItsLastRecordIsPublished_IsAheadOfTheSlots) {
  expect_breaks("checkpoint before its last record is published",
                {cut, attach, dead_in_order, dead});
}

TEST(Variant, Checkpoint_WrittenTwice_NeedsTheReleaseMark) {
  expect_breaks("a checkpoint written twice", {});
  expect_breaks("a checkpoint written twice, mark stored relaxed", {dead});
}

TEST(Variant, Checkpoints_AWholeCapacityApart_NeedTheReleaseMark) {
  expect_breaks("checkpoints a whole capacity apart", {});
  expect_breaks("checkpoints a whole capacity apart, mark stored relaxed", {dead});
}

TEST(Variant, Checkpoints_FurtherThanACapacityApart_LoseARecord) {
  expect_breaks("checkpoints further than a capacity apart", {dead_in_order, dead});
}

TEST(Variant, Readme_Table_IsTheOneThatTheCheckerFinds) {
  const char* const source = std::getenv("RANKBUS_SOURCE");
  const std::filesystem::path tests = source != nullptr
                                          ? std::filesystem::path(source) / "tests"
                                          : std::filesystem::path(__FILE__).parent_path();
  std::ifstream readme(tests / "model" / "README.md");
  ASSERT_TRUE(readme) << tests;
  std::vector<std::string> found;
  for (std::string line; std::getline(readme, line);) {
    if (line.starts_with("| ")) found.push_back(line);
  }
  std::string head = "| what is different |";
  for (const char* const column : kColumnNames) head += std::string(" ") + column + " |";
  std::vector<std::string> expected = {head};
  std::size_t executions = 0;
  for (const Variant& variant : variants()) {
    expected.push_back(table_line(variant.name));
    for (const Exploration& cell : row_of(variant.name)) executions += cell.executions;
  }
  for (const std::string& line : expected) std::printf("%s\n", line.c_str());
  std::printf("  %zu variants: %zu executions\n", variants().size(), executions);
  EXPECT_EQ(found, expected) << "copy the lines above into tests/model/README.md";
}

}  // namespace
}  // namespace rankbus::model
