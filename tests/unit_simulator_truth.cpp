// The truth file: names, bounds and formulas, checked against values written out by hand.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/truth.hpp>
#include <sstream>

namespace rankbus::simulator {
namespace {

nlohmann::json truth_of(const EngineTruth& engine, const std::string& model = "m",
                        const std::string& server = "", std::uint64_t max_model_len = 1000) {
  return nlohmann::json::parse(truth_json({.clock = "virtual",
                                           .seed = 7,
                                           .model_name = model,
                                           .server = server,
                                           .max_model_len = max_model_len},
                                          std::span(&engine, 1)));
}

TEST(Bounds125, Series_StopsAtTheModelLengthInclusively) {
  EXPECT_EQ(bounds_1_2_5(100), (std::vector<double>{1, 2, 5, 10, 20, 50, 100}));
  EXPECT_EQ(bounds_1_2_5(99), (std::vector<double>{1, 2, 5, 10, 20, 50}));
  EXPECT_EQ(bounds_1_2_5(131072).back(), 100000);
  EXPECT_LT(bounds_1_2_5(std::numeric_limits<std::uint32_t>::max()).size(), TruthCells::kMostCells);
}

TEST(LeText, Bounds_PrintAsThePythonClientPrintsThem) {
  EXPECT_EQ(le_text(1), "1.0");
  EXPECT_EQ(le_text(0.001), "0.001");
  EXPECT_EQ(le_text(0.075), "0.075");
  EXPECT_EQ(le_text(2.5), "2.5");
  EXPECT_EQ(le_text(7680), "7680.0");
  EXPECT_EQ(le_text(524288), "524288.0");
  EXPECT_EQ(le_text(1e6), "1e+06");
  EXPECT_EQ(le_text(1.5e8), "1.5e+08");
  EXPECT_EQ(le_text(2097152), "2.097152e+06");
  EXPECT_EQ(le_text(8589934592), "8.589934592e+09");
  EXPECT_EQ(le_text(0.0001), "0.0001");
  EXPECT_EQ(le_text(1e-5), "1e-05");
  EXPECT_EQ(le_text(std::numeric_limits<double>::infinity()), "+Inf");
}

TEST(Truth, BeforeAnyTraffic_EverySeriesStandsAtZero) {
  const nlohmann::json truth = truth_of({});
  EXPECT_EQ(truth["clock"], "virtual");
  EXPECT_EQ(truth["seed"], 7);
  const auto& counters = truth["counters"];
  for (const char* reason : {"stop", "length", "abort", "error", "repetition"}) {
    EXPECT_EQ(
        counters.at(std::string("vllm:request_success_total{engine=\"0\",finished_reason=\"") +
                    reason + "\",model_name=\"m\"}"),
        0);
  }
  for (const char* source : {"local_compute", "local_cache_hit", "external_kv_transfer"}) {
    EXPECT_EQ(counters.at(std::string("vllm:prompt_tokens_by_source_total{engine=\"0\","
                                      "model_name=\"m\",source=\"") +
                          source + "\"}"),
              0);
  }
  EXPECT_EQ(counters.at("vllm:request_prompt_tokens_bucket{engine=\"0\",le=\"1000.0\","
                        "model_name=\"m\"}"),
            0);
  EXPECT_EQ(counters.at("rankbus_simulated_prefix_hit_blocks_total{engine=\"0\","
                        "model_name=\"m\"}"),
            0);
  for (const char* reason : {"capacity", "deferred"}) {
    EXPECT_EQ(truth["gauges"].at(std::string("vllm:num_requests_waiting_by_reason{engine=\"0\","
                                             "model_name=\"m\",reason=\"") +
                                 reason + "\"}"),
              0.0);
  }
  EXPECT_EQ(truth["sums"].size(), kTruthHistograms);
  for (const auto& [series, sum] : truth["sums"].items()) EXPECT_EQ(sum, 0.0) << series;
}

TEST(Truth, Iteration_FeedsCountersAndHistogramsByVllmsFormulas) {
  EngineTruth engine;
  FrontEndCounter counter(engine.front_end, 1000);
  counter.observe(IterationOutcome{.preempted_reqs = 2,
                                   .computed_tokens = 30,
                                   .local_cache_hit_tokens = 512,
                                   .generation_tokens = 2,
                                   .time_to_first_token_s = {0.001},
                                   .inter_token_latency_s = {81.0},
                                   .max_num_generation_tokens = {1001},
                                   .n_params = {1}});
  const nlohmann::json truth = truth_of(engine);
  const auto counter_of = [&](const std::string& series) { return truth["counters"].at(series); };
  const std::string base = "engine=\"0\",model_name=\"m\"}";
  EXPECT_EQ(counter_of("vllm:num_preemptions_total{" + base), 2);
  EXPECT_EQ(counter_of("vllm:prompt_tokens_total{" + base), 542);
  EXPECT_EQ(counter_of("vllm:prompt_tokens_cached_total{" + base), 512);
  EXPECT_EQ(counter_of("vllm:generation_tokens_total{" + base), 2);
  const auto bucket = [&](const std::string& name, const std::string& le) {
    return counter_of(name + "_bucket{engine=\"0\",le=\"" + le + "\",model_name=\"m\"}");
  };
  // 30 computed and 2 generated tokens are exactly the bound 32, which includes it.
  EXPECT_EQ(bucket("vllm:iteration_tokens_total", "16.0"), 0);
  EXPECT_EQ(bucket("vllm:iteration_tokens_total", "32.0"), 1);
  EXPECT_EQ(bucket("vllm:time_to_first_token_seconds", "0.001"), 1);
  EXPECT_EQ(bucket("vllm:inter_token_latency_seconds", "80.0"), 0);
  EXPECT_EQ(bucket("vllm:inter_token_latency_seconds", "+Inf"), 1);
  EXPECT_EQ(bucket("vllm:request_max_num_generation_tokens", "1000.0"), 0);
  EXPECT_EQ(bucket("vllm:request_max_num_generation_tokens", "+Inf"), 1);
  EXPECT_EQ(truth["sums"].at("vllm:iteration_tokens_total_sum{" + base), 32.0);
  EXPECT_EQ(truth["sums"].at("vllm:inter_token_latency_seconds_sum{" + base), 81.0);
}

TEST(Truth, FinishedRequest_FeedsItsHistogramsAndSkipsAMissingMaxTokens) {
  EngineTruth engine;
  FrontEndCounter counter(engine.front_end, 1000);
  FinishedOutcome done{.finished = FinishedBy::length,
                       .prompt_tokens = 600,
                       .generation_tokens = 4,
                       .cached_tokens = 512,
                       .max_tokens = 4,
                       .e2e_latency_s = 0.5};
  counter.observe(done);
  done.finished = FinishedBy::stop;
  done.max_tokens = 0;
  counter.observe(done);
  const nlohmann::json truth = truth_of(engine);
  const std::string base = "engine=\"0\",model_name=\"m\"}";
  EXPECT_EQ(truth["counters"].at("vllm:request_params_max_tokens_count{" + base), 1);
  EXPECT_EQ(truth["counters"].at("vllm:request_prompt_tokens_count{" + base), 2);
  EXPECT_EQ(truth["sums"].at("vllm:request_prefill_kv_computed_tokens_sum{" + base), 176.0);
  EXPECT_EQ(truth["counters"].at("vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"0.5\","
                                 "model_name=\"m\"}"),
            2);
  EXPECT_EQ(truth["counters"].at("vllm:request_num_preemptions_bucket{engine=\"0\",le=\"1.0\","
                                 "model_name=\"m\"}"),
            2);
  for (const char* reason : {"stop", "length"}) {
    EXPECT_EQ(truth["counters"].at(std::string("vllm:request_success_total{engine=\"0\","
                                               "finished_reason=\"") +
                                   reason + "\",model_name=\"m\"}"),
              1);
  }
}

TEST(Truth, Gauges_KeepTheLastStepAndWaitingIsTheSumOfItsReasons) {
  EngineTruth engine;
  engine.scheduler.observe({.running = 5, .waiting = 1, .prefix_queries = 10});
  engine.scheduler.observe(
      {.running = 3, .waiting = 2, .kv_cache_usage = 0.25, .prefix_queries = 7, .prefix_hits = 4});
  const nlohmann::json truth = truth_of(engine);
  const std::string base = "engine=\"0\",model_name=\"m\"}";
  EXPECT_EQ(truth["gauges"].at("vllm:num_requests_running{" + base), 3.0);
  EXPECT_EQ(truth["gauges"].at("vllm:num_requests_waiting{" + base), 2.0);
  EXPECT_EQ(truth["gauges"].at("vllm:kv_cache_usage_perc{" + base), 0.25);
  EXPECT_EQ(truth["counters"].at("vllm:prefix_cache_queries_total{" + base), 17);
  EXPECT_EQ(truth["counters"].at("vllm:prefix_cache_hits_total{" + base), 4);
}

TEST(Truth, Labels_AreSortedAndEscaped) {
  const nlohmann::json truth = truth_of({}, "a\"b\\c\nd", "s1");
  EXPECT_TRUE(truth["counters"].contains(
      "vllm:generation_tokens_total{engine=\"0\",model_name=\"a\\\"b\\\\c\\nd\",server=\"s1\"}"));
  EXPECT_TRUE(truth["counters"].contains(
      "vllm:request_params_n_bucket{engine=\"0\",le=\"20.0\",model_name=\"a\\\"b\\\\c\\nd\","
      "server=\"s1\"}"));
}

TEST(TruthFile, Write_ReplacesTheOldFileAndLeavesNothingElse) {
  namespace fs = std::filesystem;
  const fs::path folder =
      fs::temp_directory_path() / ("rankbus-truth-" + std::to_string(::getpid()));
  fs::create_directory(folder);
  const std::string file = (folder / "truth.json").string();
  write_truth_file(file, "one\n");
  write_truth_file(file, "two\n");
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), "two\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}), 1);
  fs::remove_all(folder);
}

TEST(TruthFile, FolderThatDoesNotExist_IsNamed) {
  try {
    write_truth_file("/nowhere/truth.json", "");
    FAIL() << "written into a folder that does not exist";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(),
                 "truth file /nowhere/truth.json cannot be created: No such file or directory");
  }
}

}  // namespace
}  // namespace rankbus::simulator
