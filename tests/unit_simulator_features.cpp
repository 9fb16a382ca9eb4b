// What the simulated features promise: draws that repeat and conserve, formulas checked by hand,
// the life of blocks, prefixes from elsewhere, and places for LoRA adapters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <rankbus/producer/simulator/connector_model.hpp>
#include <rankbus/producer/simulator/engine_core.hpp>
#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/image_cache.hpp>
#include <rankbus/producer/simulator/step_features.hpp>
#include <rankbus/producer/simulator/step_time.hpp>
#include <rankbus/producer/simulator/truth.hpp>
#include <set>
#include <vector>

namespace rankbus::simulator {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

TEST(AllFeatures, WhatIsGiven_StaysAndTheRestIsOn) {
  FeatureOptions given;
  given.speculative_tokens = 7;
  given.connectors[static_cast<std::size_t>(Connector::nixl)] = true;
  const FeatureOptions all = all_features(given);
  EXPECT_EQ(all.speculative_tokens, 7u);
  EXPECT_TRUE(all.has(Connector::nixl));
  EXPECT_FALSE(all.has(Connector::offloading));
  EXPECT_TRUE(all.mfu_metrics && all.cudagraph_metrics && all.multimodal && all.cache_config &&
              all.iteration_details);
  EXPECT_TRUE(all.cache_metrics && all.step_phases);
  EXPECT_GT(all.kv_cache_metrics_sample, 0);
  EXPECT_GT(all.block_operations_sample, 0);
  EXPECT_GT(all.lora_adapters, all.max_loras) << "or nothing would ever be deferred";
  EXPECT_FALSE(all.diffusion);
  given = {};
  given.diffusion = true;
  EXPECT_EQ(all_features(given).speculative_tokens, 0u);
}

TEST(AssignedFeatures, ARequestsShare_DoesNotDependOnOtherFeatures) {
  const auto adapters = [](const FeatureOptions& features) {
    Workload workload = generate_workload(200, 1);
    assign_features(workload, features, 5);
    std::vector<std::uint32_t> drawn;
    for (const Request& request : workload.requests) drawn.push_back(request.adapter);
    return drawn;
  };
  FeatureOptions lora;
  lora.lora_adapters = 3;
  const FeatureOptions more = [&] {
    FeatureOptions options = all_features(lora);
    options.corrupted_requests = 2;
    return options;
  }();
  EXPECT_EQ(adapters(lora), adapters(more));
  const auto drawn = adapters(lora);
  EXPECT_EQ(std::set<std::uint32_t>(drawn.begin(), drawn.end()),
            (std::set<std::uint32_t>{0, 1, 2, 3}));
  const auto none = adapters({});
  EXPECT_EQ(std::count(none.begin(), none.end(), 0u), 200);
}

TEST(Speculation, Acceptance_IsAPrefixOfEachDraftAndRepeats) {
  const StepWork work = {.prefill_tokens = 100, .decode_seqs = 1000};
  const SpeculationOutcome outcome = speculate(work, 4, 1, 0, 9);
  EXPECT_EQ(outcome.drafts, 1000u);
  EXPECT_EQ(outcome.draft_tokens, 4000u);
  for (std::uint32_t position = 0; position < 4; ++position) {
    EXPECT_EQ(outcome.drafted_at[position], 1000u);
    // 0.7 to the power of the position, give or take what a thousand draws give.
    const double expected = 1000 * std::pow(0.7, position + 1);
    EXPECT_NEAR(static_cast<double>(outcome.accepted_at[position]), expected, 60);
    if (position > 0) {
      EXPECT_LE(outcome.accepted_at[position], outcome.accepted_at[position - 1]);
    }
  }
  EXPECT_EQ(outcome.accepted_at[4], 0u);
  EXPECT_EQ(outcome.accepted_tokens,
            std::accumulate(outcome.accepted_at.begin(), outcome.accepted_at.end(), 0u));
  EXPECT_EQ(speculate(work, 4, 1, 0, 9).accepted_at, outcome.accepted_at);
  EXPECT_NE(speculate(work, 4, 1, 0, 10).accepted_at, outcome.accepted_at);
  EXPECT_NE(speculate(work, 4, 2, 0, 9).accepted_at, outcome.accepted_at);
}

TEST(Diffusion, EachCanvas_CommitsOneToEightTokens) {
  const DiffusionOutcome outcome = diffuse({.decode_seqs = 500}, 1, 0, 3);
  EXPECT_EQ(outcome.denoising_steps, 500u);
  EXPECT_EQ(outcome.canvas_positions, 500u * kCanvasPositions);
  EXPECT_GE(outcome.committed_tokens, 500u);
  EXPECT_LE(outcome.committed_tokens, 4000u);
  EXPECT_NEAR(static_cast<double>(outcome.committed_tokens), 500 * 4.5, 250);
}

// A model so small that every term can be written down: 1 layer, width 4, 2 heads of 3, 1 KV head,
// FFN 5; one sequence computes 7 tokens behind 10 others.
TEST(WorkEstimate, SmallModel_GivesTheFormulasTermByTerm) {
  const ModelSize model = {
      .layers = 1, .width = 4, .heads = 2, .kv_heads = 1, .head_width = 3, .ffn_width = 5};
  const StepWork work = {.prefill_seqs = 1,
                         .prefill_tokens = 7,
                         .prefill_context_tokens = 17,
                         .token_contexts = 7 * 17};
  const WorkEstimate estimate = estimate_work(work, model, 1);
  const std::uint64_t qkv = 2 * 7 * 4 * (2 + 2 * 1) * 3;
  const std::uint64_t scores = 2 * 2 * (7 * 17) * 3;
  const std::uint64_t output = 2 * 7 * 4 * 2 * 3;
  const std::uint64_t ffn = 3 * 2 * 7 * 4 * 5;
  EXPECT_EQ(estimate.flops, qkv + scores + scores + output + ffn);
  const std::uint64_t weights = 4 * (2 + 2) * 3 + 4 * 2 * 3 + 3 * 4 * 5;
  EXPECT_EQ(estimate.read_bytes, weights + 17 * 2 * 1 * 3);
  EXPECT_EQ(estimate.write_bytes, 7u * (2 * 1 * 3 + 2 * 2 * 4));
  // On two GPUs the heads and the FFN are halved, but a KV head cannot be.
  const WorkEstimate half = estimate_work(work, model, 2);
  EXPECT_LT(half.flops, estimate.flops);
  EXPECT_GT(2 * half.flops, estimate.flops);
}

TEST(CudaGraph, ModeAndPadding_FollowWhatWasCaptured) {
  const auto expect = [](const StepWork& work, CudaGraphMode mode, std::uint32_t padded) {
    const CudaGraphUse use = cuda_graph_of(work);
    EXPECT_EQ(use.mode, mode);
    EXPECT_EQ(use.unpadded_tokens, work.tokens());
    EXPECT_EQ(use.padded_tokens, padded);
  };
  expect({.decode_seqs = 3}, CudaGraphMode::full, 4);
  expect({.decode_seqs = 505}, CudaGraphMode::full, 512);
  expect({.decode_seqs = 513}, CudaGraphMode::none, 513);
  expect({.prefill_tokens = 200, .decode_seqs = 1}, CudaGraphMode::piecewise, 208);
  expect({.prefill_tokens = 8000, .decode_seqs = 1}, CudaGraphMode::none, 8001);
}

TEST(BlockResidency, Eviction_TellsLifeIdleTimeAndTheGapsOfTheLastFourAccesses) {
  BlockResidency residency(1, 1, 0);
  residency.set_now(1 * kSecond);
  residency.allocated(7);
  residency.allocated(8);
  for (const std::uint64_t at : {2u, 4u, 7u, 11u, 16u}) {
    residency.set_now(at * kSecond);
    residency.accessed(7);
  }
  residency.set_now(20 * kSecond);
  residency.evicted(7);
  residency.evicted(8);
  residency.evicted(9);  // Nobody follows it.
  const auto evictions = residency.take_evictions();
  ASSERT_EQ(evictions.size(), 2u);
  EXPECT_EQ(evictions[0].lifetime_s, 19);
  EXPECT_EQ(evictions[0].idle_s, 4);
  EXPECT_EQ(evictions[0].reuse_gaps_s, (std::vector<double>{3, 4, 5}));
  EXPECT_EQ(evictions[1].lifetime_s, 19);
  EXPECT_EQ(evictions[1].idle_s, 19) << "a block that is never used is idle since its birth";
  EXPECT_TRUE(evictions[1].reuse_gaps_s.empty());
  EXPECT_TRUE(residency.take_evictions().empty());
}

TEST(BlockResidency, Sample_IsTheShareOfBlocksThatAreFollowed) {
  BlockResidency residency(0.25, 1, 0);
  for (std::uint32_t block = 0; block < 4000; ++block) residency.allocated(block);
  for (std::uint32_t block = 0; block < 4000; ++block) residency.evicted(block);
  EXPECT_NEAR(static_cast<double>(residency.take_evictions().size()), 1000, 120);
}

TEST(ImageCache, ImagesSeenLately_AreHitsAndNothingElseIs) {
  ImageCache cache(1);
  std::uint32_t hits = 0;
  for (std::uint32_t request = 0; request < 300; ++request) hits += cache.look_up(request, 2);
  EXPECT_GT(hits, 60u);
  EXPECT_LT(hits, 540u);
  ImageCache again(1);
  EXPECT_EQ(again.look_up(0, 3), again.look_up(0, 0)) << "an empty cache has no hits";
  EXPECT_EQ(again.look_up(0, 3), 3u) << "the same request again has the same images";
}

// What a run of the engine did to its prompts and adapters.
struct FeatureRun {
  std::uint64_t computed = 0;
  std::uint64_t cached = 0;
  std::uint64_t external = 0;
  std::uint64_t external_queries = 0;
  std::uint64_t external_hits = 0;
  std::uint64_t loaded_blocks = 0;
  std::uint64_t stored_blocks = 0;
  std::uint64_t prefill_tokens = 0;
  std::uint32_t most_adapters_running = 0;
  std::uint32_t most_deferred = 0;
  std::size_t finished = 0;
  std::size_t live_adapters_at_end = 0;
};

FeatureRun run_features(const Workload& workload, const EngineLimits& limits) {
  EngineCore core(workload, limits, StepTimeModel{}, 0, 1);
  FrontEndModel front_end(workload);
  FeatureRun run;
  std::uint64_t now_ns = 0;
  while (!core.finished()) {
    core.admit_arrivals(now_ns);
    if (core.idle()) {
      now_ns = core.next_arrival_ns();
      continue;
    }
    run.prefill_tokens += core.begin_step(now_ns).prefill_tokens;
    now_ns += 20'000'000;
    const auto outputs = core.end_step();
    std::set<std::uint32_t> adapters;
    for (const Output& output : outputs) adapters.insert(workload.requests[output.request].adapter);
    adapters.erase(0);
    run.most_adapters_running =
        std::max(run.most_adapters_running, static_cast<std::uint32_t>(adapters.size()));
    if (!outputs.empty()) {
      front_end.process(outputs, now_ns, now_ns);
      run.computed += front_end.iteration().computed_tokens;
      run.cached += front_end.iteration().local_cache_hit_tokens;
      run.external += front_end.iteration().external_tokens;
      run.finished += front_end.finished().size();
    }
    const SchedulerCounts counts = core.take_counts();
    run.external_queries += counts.external_queries;
    run.external_hits += counts.external_hits;
    run.loaded_blocks += counts.load_blocks;
    run.stored_blocks += counts.store_blocks;
    run.most_deferred = std::max(run.most_deferred, counts.deferred);
  }
  run.live_adapters_at_end = core.model().live_adapters().size();
  return run;
}

std::uint64_t prompt_tokens(const Workload& workload) {
  std::uint64_t tokens = 0;
  for (const Request& request : workload.requests) tokens += request.prompt_tokens;
  return tokens;
}

TEST(ExternalCache, EveryPromptToken_IsComputedOrHitOrLoadedExactlyOnce) {
  const Workload workload = generate_workload(300, 1);
  EngineLimits limits;
  limits.external_cache = true;
  const FeatureRun run = run_features(workload, limits);
  EXPECT_EQ(run.finished, 300u);
  EXPECT_EQ(run.computed + run.cached + run.external, prompt_tokens(workload));
  EXPECT_EQ(run.external_queries, prompt_tokens(workload));
  EXPECT_EQ(run.external_hits, run.external);
  // Nothing is preempted in an unlimited pool, so what is loaded is loaded once.
  EXPECT_EQ(run.loaded_blocks * kBlockTokens, run.external);
  EXPECT_EQ(run.prefill_tokens, run.computed);
  EXPECT_GT(run.external, 0u);
  EXPECT_GT(run.stored_blocks, 0u);
}

TEST(ExternalCache, ASmallPool_LoadsBackWhatItHadToEvict) {
  const Workload workload = generate_workload(300, 1);
  EngineLimits limits;
  limits.external_cache = true;
  const FeatureRun unlimited = run_features(workload, limits);
  limits.kv_blocks = 80;
  limits.max_sequence_tokens = longest_sequence(limits.max_sequence_tokens, limits.kv_blocks);
  const FeatureRun small = run_features(workload, limits);
  EXPECT_EQ(small.computed + small.cached + small.external, prompt_tokens(workload));
  EXPECT_LT(small.cached, unlimited.cached);
  EXPECT_GT(small.external, unlimited.external);
}

TEST(ExternalCache, WithoutIt_NothingIsLookedUp) {
  const FeatureRun run = run_features(generate_workload(50, 1), {});
  EXPECT_EQ(run.external_queries + run.external + run.loaded_blocks + run.stored_blocks, 0u);
}

TEST(Lora, MoreAdaptersThanPlaces_WaitAndAreServedAllTheSame) {
  Workload workload = generate_workload(300, 1);
  FeatureOptions features;
  features.lora_adapters = 6;
  assign_features(workload, features, 1);
  for (const std::uint32_t places : {1u, 2u, 6u}) {
    EngineLimits limits;
    limits.max_loras = places;
    const FeatureRun run = run_features(workload, limits);
    EXPECT_EQ(run.finished, 300u);
    EXPECT_EQ(run.most_adapters_running, places);
    EXPECT_EQ(run.most_deferred > 0, places < 6) << places << " places";
    EXPECT_EQ(run.live_adapters_at_end, 0u);
  }
}

TEST(FrontEnds, EachTakesItsTurn_AndLongPromptsOfOneDoNotHoldUpTheOthers) {
  for (std::uint32_t request = 0; request < 24; ++request) {
    EXPECT_EQ(front_end_of(request, 2, 3), request / 2 % 3);
  }
  WorkloadBuilder builder;
  std::vector<std::uint64_t> ids(100);
  std::iota(ids.begin(), ids.end(), 0u);
  builder.add({.prompt_tokens = 100 * kBlockTokens, .output_tokens = 1}, ids);
  builder.add({.prompt_tokens = 10, .output_tokens = 1}, std::span(ids).first(1));
  const Workload workload = std::move(builder).finish(0);
  EngineCore one(workload, {}, {}, 0, 1, 1);
  EngineCore two(workload, {}, {}, 0, 1, 2);
  EXPECT_LT(two.next_arrival_ns(), one.next_arrival_ns());
  two.admit_arrivals(two.next_arrival_ns());
  EXPECT_EQ(two.begin_step(0).prefill_tokens, 10u);
}

TEST(ConnectorModel, Transfers_MoveEveryBlockOnceOverAllRanks) {
  const StepTransfers moved = {.load_requests = 3, .load_blocks = 11, .store_blocks = 4};
  const auto bytes_with = [&](std::uint32_t tp) {
    std::uint64_t bytes = 0;
    for (std::uint32_t rank = 0; rank < tp; ++rank) {
      const ConnectorModel model(1, 0, rank, tp);
      std::uint32_t done = 0;
      for (const TransferOutcome& transfer : model.transfers(Connector::nixl, 5, moved)) {
        bytes += transfer.bytes;
        done += transfer.kind == TransferOutcome::done;
        EXPECT_EQ(transfer.duration_s > 0, transfer.kind == TransferOutcome::done);
      }
      EXPECT_EQ(done, 3u);
      const OffloadingOutcome offloaded = model.offloading(5, moved);
      EXPECT_EQ(offloaded.load_bytes, std::accumulate(offloaded.load_sizes.begin(),
                                                      offloaded.load_sizes.end(), std::uint64_t{}));
    }
    return bytes;
  };
  EXPECT_EQ(bytes_with(1), bytes_with(4));
  EXPECT_TRUE(ConnectorModel(1, 0, 0, 1).transfers(Connector::nixl, 5, {}).empty());
}

TEST(ConnectorModel, ManySteps_ShowEveryKindOfTrouble) {
  const ConnectorModel model(1, 0, 0, 2);
  std::set<int> kinds;
  std::set<std::pair<std::uint32_t, bool>> operations;
  std::uint64_t failures = 0;
  std::uint64_t skipped = 0;
  for (std::uint64_t step = 0; step < 500; ++step) {
    const StepTransfers moved = {.load_requests = 1, .load_blocks = 2, .store_blocks = 3};
    for (const TransferOutcome& transfer : model.transfers(Connector::moriio, step, moved)) {
      kinds.insert(transfer.kind);
    }
    for (const StoreOperationOutcome& operation : model.store_operations(step, moved)) {
      operations.emplace(operation.operation, operation.failed);
      EXPECT_LE(operation.failed_keys, operation.keys);
      EXPECT_EQ(operation.failed_keys > 0, operation.failed);
    }
    const OffloadingOutcome outcome = model.offloading(step, moved);
    failures += outcome.allocation_failures;
    skipped += outcome.stores_skipped;
    EXPECT_EQ(outcome.store_bytes == 0,
              outcome.allocation_failures > 0 || outcome.stores_skipped > 0);
  }
  EXPECT_EQ(kinds.size(), 4u);
  EXPECT_EQ(operations.size(), 2 * kStoreOperations.size());
  EXPECT_GT(failures, 0u);
  EXPECT_GT(skipped, 0u);
}

nlohmann::json truth_of(const EngineTruth& engine, const FeatureOptions& features) {
  return nlohmann::json::parse(truth_json({.clock = "virtual",
                                           .model_name = "m",
                                           .server = "",
                                           .max_model_len = 1000,
                                           .features = features,
                                           .kv_blocks = 77},
                                          std::span(&engine, 1)));
}

TEST(FeatureTruth, SharesOfSeveralProcesses_AddUpAndTheNewestGaugeStands) {
  EngineTruth engine;
  FeatureTruth share;
  share.observe(
      OffloadingOutcome{.load_bytes = 10, .load_s = 0.5, .load_sizes = {10}, .read_usage = 0.25},
      /*stamp=*/5);
  engine.features.add(share);
  FeatureTruth later;
  later.observe(OffloadingOutcome{.load_bytes = 3, .load_sizes = {3}, .read_usage = 0.5}, 7);
  engine.features.add(later);
  engine.features.add(share);
  FeatureOptions features;
  features.connectors[static_cast<std::size_t>(Connector::offloading)] = true;
  const nlohmann::json truth = truth_of(engine, features);
  const std::string base = "{engine=\"0\",model_name=\"m\"}";
  EXPECT_EQ(truth["counters"].at("vllm:kv_offload_load_bytes_total" + base), 23);
  EXPECT_EQ(truth["counters"].at("vllm:kv_offload_load_size_count" + base), 3);
  EXPECT_EQ(truth["sums"].at("vllm:kv_offload_load_time_total" + base), 1.0);
  EXPECT_EQ(truth["gauges"].at("vllm:kv_offload_cpu_cache_read_usage_perc" + base), 0.5);
}

TEST(FeatureTruth, Infos_BearTheLabelsOfVllm) {
  EngineTruth engine;
  engine.features.observe_lora("adapter-2,adapter-1");
  FeatureOptions features;
  features.cache_config = true;
  features.max_loras = 3;
  const nlohmann::json truth = truth_of(engine, features);
  EXPECT_EQ(
      truth["present"],
      nlohmann::json({"vllm:lora_requests_info{max_lora=\"3\",running_lora_adapters="
                      "\"adapter-2,adapter-1\",waiting_lora_adapters=\"adapter-2,adapter-1\"}"}));
  bool found = false;
  for (const auto& [series, value] : truth["gauges"].items()) {
    if (!series.starts_with("vllm:cache_config_info{")) continue;
    found = true;
    EXPECT_EQ(value, 1.0);
    EXPECT_NE(series.find("num_gpu_blocks=\"77\""), std::string::npos);
    EXPECT_NE(series.find("engine=\"0\""), std::string::npos);
    EXPECT_EQ(series.find("model_name"), std::string::npos);
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace rankbus::simulator
