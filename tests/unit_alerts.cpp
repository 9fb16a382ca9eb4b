// Goal:   an alert holds exactly while its condition does, is told once, and never without bound.
// Method: families made by hand, time passed in; no bus.
#include <gtest/gtest.h>

#include <rankbus/aggregator/alerts.hpp>
#include <rankbus/aggregator/reduce.hpp>

namespace rankbus {
namespace {

const Labels kEngine0{{"engine", "0"}, {"model_name", "m"}};

Family gauge(const std::string& name, std::vector<std::pair<Labels, double>> values) {
  Family family;
  family.name = name;
  for (const auto& [labels, value] : values) {
    Series series;
    series.labels = labels;
    series.engine = "0";
    series.value = Number{value};
    family.series.push_back(series);
  }
  return family;
}

std::vector<AlertChange> look(AlertWatch& watch, AlertBoard& board, double now_s,
                              const std::vector<Family>& families) {
  board.begin(now_s);
  watch.look(families, now_s, board);
  return board.end();
}

AlertRule rule(const char* text) {
  auto parsed = AlertRule::parse(text);
  EXPECT_TRUE(parsed) << parsed.error();
  return parsed ? parsed.value() : AlertRule{};
}

TEST(AlertRule, WhatItSays_IsUnderstood) {
  const AlertRule plain = rule("kv-full vllm:kv_cache_usage_perc > 0.95");
  EXPECT_EQ(plain.name, "kv-full");
  EXPECT_EQ(plain.level, AlertLevel::warning);
  EXPECT_EQ(plain.metric, "vllm:kv_cache_usage_perc");
  EXPECT_EQ(plain.threshold, 0.95);
  EXPECT_FALSE(plain.is_rate);
  const AlertRule all = rule(
      "errors critical rate(vllm:request_success_total{engine=\"1\", finished_reason=\"a\\\"b\"}) "
      ">= 2e1 for 30");
  EXPECT_EQ(all.level, AlertLevel::critical);
  EXPECT_TRUE(all.is_rate);
  EXPECT_EQ(all.where, (Labels{{"engine", "1"}, {"finished_reason", "a\"b"}}));
  EXPECT_EQ(all.op, ">=");
  EXPECT_EQ(all.threshold, 20);
  EXPECT_EQ(all.for_s, 30);
  // A metric may have the name of a level.
  EXPECT_EQ(rule("a info up<1").op, "<");
}

TEST(AlertRule, WhatItCannotSay_IsRefusedWithTheGrammar) {
  for (const char* text :
       {"", "name", "name metric", "name metric 5", "name metric > five", "name metric > 5 for",
        "name metric > 5 for -1", "name metric > 5 and more", "name 5metric > 5",
        "name metric{a} > 5", "name metric{a=\"b} > 5", "name metric{1a=\"b\"} > 5",
        "name rate(metric > 5", "name metric > nan", "name metric > inf"}) {
    const auto parsed = AlertRule::parse(text);
    EXPECT_FALSE(parsed) << text;
    EXPECT_NE(parsed.error().find("expected NAME"), std::string::npos) << text;
  }
}

TEST(AlertWatch, Threshold_HoldsAfterItsTimeAndEndsAtOnce) {
  AlertWatch watch({rule("kv-full critical usage{engine=\"0\"} > 0.9 for 10")});
  AlertBoard board;
  const auto usage = [](double value) {
    return std::vector<Family>{gauge("usage", {{kEngine0, value}, {{{"engine", "1"}}, 1.0}})};
  };
  EXPECT_TRUE(look(watch, board, 100, usage(0.95)).empty());
  EXPECT_TRUE(look(watch, board, 109, usage(0.95)).empty());
  const auto began = look(watch, board, 110, usage(0.97));
  ASSERT_EQ(began.size(), 1u);
  EXPECT_EQ(began[0].alert.name, "kv-full");
  EXPECT_EQ(began[0].alert.level, AlertLevel::critical);
  EXPECT_EQ(began[0].alert.value, 0.97);
  EXPECT_EQ(began[0].alert.threshold, 0.9);
  EXPECT_EQ(began[0].alert.labels, kEngine0);
  EXPECT_NE(
      began[0].alert.message.find("usage{engine=\"0\",model_name=\"m\"} is 0.97, limit > 0.9"),
      std::string::npos);
  // Told once, shown all the time.
  EXPECT_TRUE(look(watch, board, 115, usage(0.99)).empty());
  ASSERT_EQ(board.holding().size(), 1u);
  EXPECT_EQ(board.holding()[0].since_s, 110);
  EXPECT_EQ(board.holding()[0].value, 0.99);
  const auto over = look(watch, board, 120, usage(0.9));
  ASSERT_EQ(over.size(), 1u);
  EXPECT_TRUE(over[0].is_over);
  EXPECT_EQ(over[0].held_s, 10);
  EXPECT_TRUE(board.holding().empty());
  // The time begins anew.
  EXPECT_TRUE(look(watch, board, 121, usage(0.95)).empty());
}

TEST(AlertWatch, SeriesThatGoes_TakesItsAlertAlong) {
  AlertWatch watch({rule("full usage > 0.9")});
  AlertBoard board;
  EXPECT_EQ(look(watch, board, 1, {gauge("usage", {{kEngine0, 1}})}).size(), 1u);
  const auto over = look(watch, board, 2, {});
  ASSERT_EQ(over.size(), 1u);
  EXPECT_TRUE(over[0].is_over);
}

TEST(AlertWatch, Rate_IsGrowthPerSecondBetweenLooks) {
  AlertWatch watch({rule("errors rate(errors_total) > 5")});
  AlertBoard board;
  const auto errors = [](double value) {
    return std::vector<Family>{gauge("errors_total", {{kEngine0, value}})};
  };
  EXPECT_TRUE(look(watch, board, 10, errors(1e6)).empty()) << "no rate from one look";
  EXPECT_TRUE(look(watch, board, 10.1, errors(1e6 + 9)).empty()) << "too short a time";
  EXPECT_EQ(look(watch, board, 12, errors(1e6 + 20)).size(), 1u);
  EXPECT_EQ(look(watch, board, 14, errors(1e6 + 20)).size(), 1u) << "over";
  // A counter that begins anew has no negative rate.
  EXPECT_TRUE(look(watch, board, 16, errors(3)).empty());
}

TEST(AlertWatch, LostSamples_AreToldOnceForAnEngineUntilTheyHaveStopped) {
  AlertWatch watch;
  AlertBoard board;
  const auto lost = [](double nixl, double steps) {
    return std::vector<Family>{gauge(
        "rankbus_samples_lost_total",
        {{{{"engine", "0"}, {"model_name", "m"}, {"rank", "0"}, {"stream", "nixl"}}, nixl},
         {{{"engine", "0"}, {"model_name", "m"}, {"rank", "1"}, {"stream", "steps"}}, steps}})};
  };
  look(watch, board, 1, lost(5, 7));
  EXPECT_TRUE(board.holding().empty()) << "losses of before";
  const auto began = look(watch, board, 3, lost(9, 13));
  ASSERT_EQ(began.size(), 1u);
  EXPECT_EQ(began[0].alert.name, "samples_lost");
  EXPECT_EQ(began[0].alert.labels, kEngine0);
  EXPECT_EQ(began[0].alert.value, 5);
  EXPECT_NE(began[0].alert.message.find("engine 0 loses 5 samples/s of nixl, steps"),
            std::string::npos);
  // Bursts are no news.
  EXPECT_TRUE(look(watch, board, 10, lost(9, 13)).empty());
  EXPECT_TRUE(look(watch, board, 20, lost(10, 13)).empty());
  EXPECT_TRUE(look(watch, board, 79, lost(10, 13)).empty());
  const auto over = look(watch, board, 81, lost(10, 13));
  ASSERT_EQ(over.size(), 1u);
  EXPECT_TRUE(over[0].is_over);
}

TEST(AlertWatch, MissingRanks_AreToldOnceTheyHadTimeToCome) {
  AlertWatch watch;
  AlertBoard board;
  const auto ranks = [](double here) {
    return std::vector<Family>{gauge("rankbus_ranks_expected", {{kEngine0, 4}}),
                               gauge("rankbus_ranks_reporting", {{kEngine0, here}})};
  };
  EXPECT_TRUE(look(watch, board, 0, ranks(3)).empty());
  EXPECT_EQ(look(watch, board, 11, ranks(3)).size(), 1u);
  EXPECT_EQ(look(watch, board, 12, ranks(4)).size(), 1u);
  EXPECT_TRUE(look(watch, board, 13, ranks(0)).empty());
  EXPECT_TRUE(look(watch, board, 99, ranks(0)).empty()) << "an engine that is over misses nobody";
}

TEST(AlertWatch, SilentRank_IsToldWhileItsPeersWrite) {
  AlertWatch watch;
  AlertBoard board;
  const auto rank = [](const char* number) {
    return Labels{{"engine", "0"}, {"rank", number}, {"role", "worker"}};
  };
  const auto ages = [&](double first, double second) {
    return std::vector<Family>{
        gauge("rankbus_source_age_seconds", {{rank("0"), first}, {rank("1"), second}})};
  };
  EXPECT_TRUE(look(watch, board, 1, ages(30, 40)).empty()) << "an idle engine";
  const auto began = look(watch, board, 2, ages(0.1, 41));
  ASSERT_EQ(began.size(), 1u);
  EXPECT_EQ(began[0].alert.name, "rank_silent");
  EXPECT_NE(began[0].alert.message.find("rank 1 has written nothing for 41 s"), std::string::npos);
}

TEST(AlertWatch, Contradiction_IsCritical) {
  AlertWatch watch;
  AlertBoard board;
  const auto began = look(watch, board, 1,
                          {gauge("rankbus_checkpoints_mismatches_total", {{kEngine0, 1}}),
                           gauge("rankbus_quarantined", {})});
  ASSERT_EQ(began.size(), 1u);
  EXPECT_EQ(began[0].alert.level, AlertLevel::critical);
}

TEST(AlertBoard, TooMany_AreCountedAndNoMore) {
  AlertBoard board;
  board.begin(1);
  for (std::size_t i = 0; i < AlertBoard::kMaxAlerts + 7; ++i) {
    Alert alert;
    alert.name = "alert " + std::to_string(i);
    board.raise(alert);
  }
  EXPECT_EQ(board.end().size(), AlertBoard::kMaxAlerts);
  EXPECT_EQ(board.holding().size(), AlertBoard::kMaxAlerts);
  EXPECT_EQ(board.suppressed(), 7u);
}

TEST(AlertBoard, WhatHolds_IsASeries) {
  AlertBoard board;
  board.begin(1);
  Alert alert;
  alert.name = "kv-full";
  alert.level = AlertLevel::critical;
  alert.labels = kEngine0;
  board.raise(alert);
  board.end();
  FamilyBuilder builder;
  board.add_families(builder);
  const std::vector<Family> families = builder.take();
  ASSERT_EQ(families.size(), 1u);
  EXPECT_EQ(families[0].name, "rankbus_alert");
  EXPECT_EQ(
      families[0].series.at(0).labels,
      (Labels{{"engine", "0"}, {"level", "critical"}, {"model_name", "m"}, {"name", "kv-full"}}));
}

}  // namespace
}  // namespace rankbus
