// Goal:   connector statistics say what NumPy and Python say of the same observations, to the last
//         printed digit; pools neither lose nor double anything, however they came together; and
//         memory stays bounded while counts and sums stay exact.
// Method: seeded observations: round microseconds, which meet every tie of rounding, and any
//         doubles; split over ranks at random; more of them than are kept. The arithmetic of the
//         others is that of their own libraries.
// Replay: RANKBUS_TEST_SEED=<printed> property_connector_stats [--gtest_filter=...]
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/connector_stats.hpp>
#include <rankbus/exporters/python_text.hpp>
#include <string>
#include <vector>

#include "bus_fixture.hpp"
#include "unit_exporters_lib.hpp"

namespace bus_test {
namespace {

using nlohmann::json;
using rankbus::MooncakeStoreStats;
using rankbus::NixlStats;
using rankbus::Number;
using rankbus::Observations;
using rankbus::OffloadingStats;
using rankbus::ReducedStats;
using rankbus::UserConnectorStats;

std::string hexadecimal(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%a", value);
  return text;
}

std::vector<std::string> hexadecimal(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(hexadecimal(value));
  return texts;
}

std::string printed(const Number& value) {
  std::string text;
  rankbus::append_python_number(value, text);
  return text;
}

json printed(const ReducedStats& reduced) {
  json out = json::array();
  for (const auto& [name, value] : reduced) out.push_back({name, printed(value)});
  return out;
}

// As telemetry has them, whole microseconds, or any double of some minutes at most.
double random_duration(Dice& dice, bool is_round) {
  if (is_round) return static_cast<double>(1 + dice.below(100'000)) / 1e6;
  return std::ldexp(static_cast<double>(1 + dice.below(1ULL << 53)),
                    -46 - static_cast<int>(dice.below(20)));
}

struct Transfer {
  double duration_s;
  double post_s;
  std::uint64_t bytes;
  std::uint64_t descriptors;
};

std::vector<Transfer> random_transfers(Dice& dice) {
  const bool is_round = dice.one_in(2);
  std::vector<Transfer> transfers(1 + dice.below(dice.one_in(3) ? 3000 : 20));
  for (Transfer& transfer : transfers) {
    transfer = {random_duration(dice, is_round), random_duration(dice, is_round),
                dice.below(1ULL << 34), dice.below(50'000)};
  }
  return transfers;
}

void add(NixlStats& stats, const Transfer& transfer) {
  stats.add_transfer(transfer.duration_s, transfer.post_s, transfer.bytes, transfer.descriptors);
}

json case_of(const std::vector<Transfer>& transfers) {
  json result = {{"kind", "transfers"}};
  for (const Transfer& transfer : transfers) {
    result["durations"].push_back(hexadecimal(transfer.duration_s));
    result["posts"].push_back(hexadecimal(transfer.post_s));
    result["bytes"].push_back(std::to_string(transfer.bytes));
    result["descriptors"].push_back(transfer.descriptors);
  }
  return result;
}

bool numpy_is_missing() {
  return std::system("/usr/bin/python3 -c 'import numpy' >/dev/null 2>&1") != 0;
}

// What Python and NumPy say of these cases.
json answers_to(const json& cases) {
  const rankbus::test::TempDir dir;
  rankbus::test::write_file(dir / "cases", cases.dump());
  const std::string script =
      (std::filesystem::path(__FILE__).parent_path() / "property_connector_stats.py").string();
  const auto [status, output] = rankbus::test::run_command(
      "/usr/bin/python3 -B '" + script + "' '" + dir / "cases" + "' '" + dir / "answers" + "'",
      dir);
  EXPECT_EQ(status, 0) << output;
  return json::parse(rankbus::test::read_file(dir / "answers"));
}

TEST(ConnectorStats, Transfers_ReduceAsNumpyDoes) {
  if (numpy_is_missing()) GTEST_SKIP() << "skipped: no NumPy (package python3-numpy)";
  Dice dice(test_seed());
  json cases = json::array();
  std::vector<NixlStats> stats(scaled(1500));
  for (NixlStats& one : stats) {
    const std::vector<Transfer> transfers = random_transfers(dice);
    cases.push_back(case_of(transfers));
    for (const Transfer& transfer : transfers) add(one, transfer);
  }
  const json answers = answers_to(cases);
  ASSERT_EQ(answers.size(), stats.size());
  for (std::size_t i = 0; i < stats.size(); ++i) {
    ASSERT_EQ(printed(stats[i].reduce()), answers[i]) << "case " << i << ": " << cases[i].dump();
  }
}

TEST(ConnectorStats, StoreOperations_ReduceAsPythonDoes) {
  if (numpy_is_missing()) GTEST_SKIP() << "skipped: no NumPy (package python3-numpy)";
  Dice dice(test_seed() + 1);
  json cases = json::array();
  std::vector<MooncakeStoreStats> stats(scaled(1500));
  for (MooncakeStoreStats& one : stats) {
    json durations = json::array();
    for (const Transfer& transfer : random_transfers(dice)) {
      durations.push_back(hexadecimal(transfer.duration_s));
      one.add("put", {transfer.duration_s, 1, 1, 0, false});
    }
    cases.push_back({{"kind", "store"}, {"durations", durations}});
  }
  const json answers = answers_to(cases);
  for (std::size_t i = 0; i < stats.size(); ++i) {
    ReducedStats reduced = stats[i].reduce();
    reduced.resize(3);
    ASSERT_EQ(printed(reduced), answers.at(i)) << "case " << i << ": " << cases[i].dump();
  }
}

TEST(ConnectorStats, RoundingAndPrinting_AreThoseOfPythonAndNumpy) {
  if (numpy_is_missing()) GTEST_SKIP() << "skipped: no NumPy (package python3-numpy)";
  Dice dice(test_seed() + 2);
  std::vector<double> values = {0,    -0.0, 2.675, 0.0005, 0.0015,         0.0025,
                                1e15, 1e16, 1e22,  1e300,  123456789.0625, 9007199254740993.0};
  for (std::uint64_t i = 0; i < scaled(20'000); ++i) {
    // Halves of the last kept digit, and any double that a duration or a rate may be.
    const double tie = static_cast<double>(dice.below(2'000'000)) / 2000.0;
    const double any =
        std::ldexp(static_cast<double>(dice.below(1ULL << 53)),
                   -60 - static_cast<int>(dice.below(20)) + static_cast<int>(dice.below(60)));
    values.push_back(dice.one_in(2) ? tie : any);
    if (dice.one_in(4)) values.back() = -values.back();
  }
  const std::vector<std::string> hex = hexadecimal(values);
  const json answers = answers_to({{{"kind", "rounded"}, {"digits", 3}, {"values", hex}},
                                   {{"kind", "rounded"}, {"digits", 1}, {"values", hex}},
                                   {{"kind", "printed"}, {"values", hex}}});
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (const int digits : {3, 1}) {
      const json& answer = answers.at(digits == 3 ? 0 : 1);
      const auto expected = [&](const char* who) {
        return std::strtod(answer[who][i].get<std::string>().c_str(), nullptr);
      };
      ASSERT_EQ(rankbus::round_as_python(values[i], digits), expected("python")) << hex[i];
      ASSERT_EQ(rankbus::round_as_numpy(values[i], digits), expected("numpy")) << hex[i];
    }
    ASSERT_EQ(printed(values[i]), answers[2][i].get<std::string>());
  }
}

TEST(ConnectorStats, RanksPooledInOrder_EqualAllTogether) {
  Dice dice(test_seed() + 3);
  for (std::uint64_t round = 0; round < scaled(500); ++round) {
    const std::vector<Transfer> transfers = random_transfers(dice);
    NixlStats together;
    NixlStats pooled;
    NixlStats rank;
    for (const Transfer& transfer : transfers) {
      add(together, transfer);
      add(rank, transfer);
      if (!dice.one_in(4)) continue;
      pooled.aggregate(rank);
      rank.reset();
      ASSERT_TRUE(rank.is_empty());
      pooled.aggregate(rank);
    }
    pooled.aggregate(rank);
    ASSERT_EQ(pooled.reduce(), together.reduce());
  }
}

TEST(ConnectorStats, PoolsInAnyGrouping_HoldTheSame) {
  Dice dice(test_seed() + 4);
  for (std::uint64_t round = 0; round < scaled(500); ++round) {
    std::vector<OffloadingStats> ranks(1 + dice.below(6));
    std::map<std::string, std::uint64_t> counters;
    std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> histograms;
    for (std::uint64_t i = dice.below(200); i > 0; --i) {
      OffloadingStats& rank = ranks[dice.below(ranks.size())];
      const std::string label = std::to_string(dice.below(3));
      const std::uint64_t value = dice.below(1'000'000);
      if (dice.one_in(2)) {
        rank.add_to_counter("c", value, {label});
        counters["c:('" + label + "',)"] += value;
      } else {
        rank.observe("h", value);
        ++histograms["h"].first;
        histograms["h"].second += value;
      }
    }
    // Neighbours merge until one is left.
    while (ranks.size() > 1) {
      const std::size_t at = dice.below(ranks.size() - 1);
      ranks[at].aggregate(ranks[at + 1]);
      ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    std::map<std::string, Number> expected;
    for (const auto& [name, sum] : counters) expected[name] = sum;
    for (const auto& [name, both] : histograms) {
      expected[name + "_count"] = both.first;
      expected[name + "_sum"] = both.second;
    }
    const ReducedStats reduced = ranks[0].reduce();
    ASSERT_EQ((std::map<std::string, Number>(reduced.begin(), reduced.end())), expected);
    ASSERT_EQ(ranks[0].is_empty(), expected.empty());
  }
}

TEST(Observations, BeyondTheLimit_CountAndSumStayExactAndThePercentileNear) {
  Dice dice(test_seed() + 5);
  Observations one;
  Observations left;
  Observations right;
  constexpr std::uint64_t kCount = 4 * Observations::kMaxSamples;
  // The right side saw nothing but the largest tenth, in whole numbers, whose sum is exact.
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const std::uint64_t value = dice.below(1000);
    sum += value;
    one.add(static_cast<double>(value));
    (value >= 900 ? right : left).add(static_cast<double>(value));
  }
  left.aggregate(right);
  for (const Observations& all : {one, left}) {
    EXPECT_EQ(all.count(), kCount);
    EXPECT_EQ(all.sum(), static_cast<double>(sum));
    EXPECT_FALSE(all.is_complete());
    // Ten standard deviations of the sampled rank, in values.
    EXPECT_NEAR(all.interpolated_percentile(0.9), 900, 10);
    EXPECT_NEAR(all.interpolated_percentile(0.5), 500, 17);
    EXPECT_NEAR(all.nearest_rank_percentile(0.9), 900, 10);
  }
  Observations twice = left;
  twice.aggregate(twice);
  EXPECT_EQ(twice.count(), 2 * kCount);
  EXPECT_NEAR(twice.interpolated_percentile(0.9), 900, 14);
}

TEST(Observations, WhatIsNotFinite_IsLeftOut) {
  Observations all;
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity(), 2.0,
                             -std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(all.add(value), std::isfinite(value));
  }
  EXPECT_EQ(all.count(), 1u);
  EXPECT_EQ(all.interpolated_percentile(0.9), 2.0);
  NixlStats stats;
  stats.add_transfer(std::nan(""), 1.0, 1, 1);
  EXPECT_TRUE(stats.is_empty()) << "no duration, no transfer";
}

TEST(ConnectorStats, NamesWithoutEnd_AreBoundedAndNothingIsLost) {
  MooncakeStoreStats store;
  OffloadingStats offloading;
  UserConnectorStats user;
  rankbus::MultiConnectorStats multi;
  for (int i = 0; i < 10'000; ++i) {
    const std::string name = "n" + std::to_string(i);
    store.add(name, {0.001, 1, 10, 0, i % 2 == 0});
    offloading.add_to_counter("c", std::uint64_t{1}, {name});
    user.observe(name, 1);
    if (auto* child = multi.child<UserConnectorStats>(name))
      child->add_to_counter("c", std::uint64_t{1});
  }
  MooncakeStoreStats other_names;
  for (int i = 0; i < 1000; ++i) other_names.add("m" + std::to_string(i), {0.001, 1, 0, 0, false});
  store.aggregate(other_names);
  const ReducedStats reduced = store.reduce();
  EXPECT_EQ(reduced.size(), 7 * rankbus::kMaxKeys);
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
  std::uint64_t errors = 0;
  for (const auto& [name, value] : reduced) {
    const auto* whole = std::get_if<std::uint64_t>(&value);
    if (whole == nullptr) continue;
    if (name.ends_with("_count") && !name.ends_with("_error_count")) operations += *whole;
    if (name.ends_with("_total_bytes")) bytes += *whole;
    if (name.ends_with("_error_count")) errors += *whole;
  }
  EXPECT_EQ(operations, 11'000u);
  EXPECT_EQ(bytes, 100'000u);
  EXPECT_EQ(errors, 5'000u);
  EXPECT_EQ(offloading.reduce().size(), rankbus::kMaxKeys);
  EXPECT_EQ(user.reduce().size(), 3 * rankbus::kMaxKeys);
  EXPECT_EQ(multi.reduce().size(), rankbus::kMaxKeys);
}

TEST(ConnectorStats, CountsOfStrangers_StopAtTheLargestAndDoNotWrap) {
  constexpr auto kHuge = std::numeric_limits<std::uint64_t>::max();
  rankbus::HiSparseStats sparse;
  sparse.add(kHuge, 1, kHuge);
  sparse.add(1, 1, kHuge);
  EXPECT_EQ(sparse.reduce()[0].second, Number(kHuge));
  EXPECT_EQ(sparse.reduce()[1].second, Number(std::uint64_t{2}));
  EXPECT_EQ(rankbus::add_numbers(kHuge, std::uint64_t{1}), Number(std::ldexp(1.0, 64)));
  EXPECT_EQ(rankbus::add_numbers(std::int64_t{-5}, std::uint64_t{3}), Number(std::int64_t{-2}));
  EXPECT_EQ(rankbus::add_numbers(std::uint64_t{1}, 0.5), Number(1.5));
}

}  // namespace
}  // namespace bus_test
