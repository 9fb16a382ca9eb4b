// The laws of the simulated engine: conservation of tokens, the limits it promises to keep, and
// what preemption, prefix reuse and the two block rules mean.
#include <gtest/gtest.h>

#include <cstdlib>
#include <rankbus/producer/simulator/engine_core.hpp>
#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/trace.hpp>
#include <sstream>
#include <vector>

namespace rankbus::simulator {
namespace {

// Everything that one engine did, and whether it kept its limits at every step.
struct EngineRun {
  std::uint64_t steps = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t computed_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t queries = 0;
  std::uint64_t hits = 0;
  std::uint64_t hit_blocks = 0;
  std::uint32_t most_running = 0;
  std::uint32_t most_blocks = 0;
  std::uint64_t most_batched_tokens = 0;
  std::uint64_t scheduled_prefill_tokens = 0;
  std::uint32_t blocks_in_use_at_end = 0;
  std::vector<FinishedOutcome> finished;
  std::uint64_t fingerprint = 0;  // of all events in order, with their times

  void absorb(std::uint64_t value) { fingerprint = fingerprint * 0x100000001b3u ^ value; }
};

EngineRun run_engine(const Workload& workload, EngineLimits limits,
                     std::uint64_t step_ns = 20'000'000) {
  limits.max_sequence_tokens = longest_sequence(limits.max_sequence_tokens, limits.kv_blocks);
  EngineCore core(workload, limits, StepTimeModel{}, 0, 1);
  FrontEndModel front_end(workload);
  EngineRun run;
  std::uint64_t now_ns = 0;
  while (!core.finished()) {
    core.admit_arrivals(now_ns);
    if (core.idle()) {
      now_ns = core.next_arrival_ns();
      continue;
    }
    const StepWork work = core.begin_step(now_ns);
    run.most_batched_tokens = std::max(run.most_batched_tokens, work.tokens());
    run.scheduled_prefill_tokens += work.prefill_tokens;
    run.most_running = std::max(run.most_running, core.model().running());
    run.most_blocks = std::max(run.most_blocks, core.model().pool().blocks_in_use());
    now_ns += step_ns;
    ++run.steps;
    const auto outputs = core.end_step();
    for (const Output& output : outputs) {
      run.absorb(output.request);
      run.absorb(output.scheduled_ns);
    }
    if (!outputs.empty()) {
      front_end.process(outputs, now_ns, now_ns);
      run.computed_tokens += front_end.iteration().computed_tokens;
      run.cached_tokens += front_end.iteration().local_cache_hit_tokens;
      run.output_tokens += front_end.iteration().generation_tokens;
      run.preemptions += front_end.iteration().preempted_reqs;
      for (const FinishedOutcome& done : front_end.finished()) {
        run.prompt_tokens += done.prompt_tokens;
        run.finished.push_back(done);
        run.absorb(done.request);
        run.absorb(now_ns);
      }
    }
    const SchedulerCounts counts = core.take_counts();
    run.queries += counts.prefix_queries;
    run.hits += counts.prefix_hits;
    run.hit_blocks += counts.prefix_hit_blocks;
  }
  run.blocks_in_use_at_end = core.model().pool().blocks_in_use();
  return run;
}

struct Totals {
  std::uint64_t prompt = 0;
  std::uint64_t output = 0;
};
Totals totals_of(const Workload& workload) {
  Totals totals;
  for (const Request& request : workload.requests) {
    totals.prompt += request.prompt_tokens;
    totals.output += request.output_tokens;
  }
  return totals;
}

// Prompts by their block ids; the last block may be partial. All arrive together.
struct TestPrompt {
  std::vector<std::uint64_t> ids;
  std::uint32_t tokens;
  std::uint32_t output;
  std::uint64_t arrival_ns = 0;
};
Workload workload_of(const std::vector<TestPrompt>& prompts) {
  WorkloadBuilder builder;
  for (const TestPrompt& prompt : prompts) {
    builder.add({.arrival_ns = prompt.arrival_ns,
                 .prompt_tokens = prompt.tokens,
                 .output_tokens = prompt.output},
                prompt.ids);
  }
  return std::move(builder).finish(0);
}

// One after another, so that who hits what needs no thought.
EngineLimits one_at_a_time(BlockRule rule) {
  EngineLimits limits;
  limits.max_num_seqs = 1;
  limits.block_rule = rule;
  return limits;
}

TEST(EngineModel, GeneratedWorkload_FinishesEveryPromptAndOutputTokenExactlyOnce) {
  const Workload workload = generate_workload(400, 1);
  const EngineRun run = run_engine(workload, {});
  EXPECT_EQ(run.finished.size(), workload.requests.size());
  EXPECT_EQ(run.prompt_tokens, totals_of(workload).prompt);
  EXPECT_EQ(run.output_tokens, totals_of(workload).output);
  EXPECT_EQ(run.computed_tokens + run.cached_tokens, run.prompt_tokens);
  EXPECT_EQ(run.queries, run.prompt_tokens);
  EXPECT_EQ(run.hits, run.cached_tokens);
  EXPECT_GT(run.hits, 0u);
}

TEST(EngineModel, SmallPoolAndLimits_AreNeverExceededAndEverythingStillFinishes) {
  const Workload workload = generate_workload(300, 2);
  EngineLimits limits;
  limits.kv_blocks = 70;
  limits.max_num_seqs = 9;
  limits.max_num_batched_tokens = 3000;
  for (const BlockRule rule : {BlockRule::vllm, BlockRule::trace}) {
    limits.block_rule = rule;
    const EngineRun run = run_engine(workload, limits);
    EXPECT_LE(run.most_blocks, limits.kv_blocks);
    EXPECT_EQ(run.most_running, limits.max_num_seqs);
    EXPECT_EQ(run.most_batched_tokens, limits.max_num_batched_tokens);
    EXPECT_EQ(run.finished.size(), workload.requests.size());
    EXPECT_EQ(run.output_tokens, totals_of(workload).output);
    EXPECT_GT(run.preemptions, 0u) << "the pool was meant to be too small for nine requests";
  }
}

TEST(EngineModel, PreemptedRequest_FinishesWithTheSameOutputAndIsCountedOnce) {
  const Workload workload = generate_workload(300, 3);
  EngineLimits tight;
  tight.kv_blocks = 66;
  const EngineRun preempting = run_engine(workload, tight);
  std::uint64_t preempted_requests = 0;
  std::uint64_t preemptions = 0;
  for (const FinishedOutcome& done : preempting.finished) {
    EXPECT_EQ(done.generation_tokens, workload.requests[done.request].output_tokens);
    EXPECT_EQ(done.prompt_tokens, workload.requests[done.request].prompt_tokens);
    preempted_requests += done.preemptions > 0;
    preemptions += done.preemptions;
  }
  EXPECT_GT(preempted_requests, 0u);
  EXPECT_EQ(preemptions, preempting.preemptions);
  // A resumed request does not query the prefix cache a second time in the exported counts.
  EXPECT_EQ(preempting.queries, preempting.prompt_tokens);
}

TEST(EngineModel, NewestRunningRequest_IsTheOneThatIsPreempted) {
  // Two prompts of one block in a pool of three: both grow into a second block at the same step.
  const Workload workload = workload_of({{{1}, 510, 200}, {{2}, 510, 200}});
  EngineLimits limits;
  limits.kv_blocks = 3;
  const EngineRun run = run_engine(workload, limits);
  ASSERT_EQ(run.finished.size(), 2u);
  EXPECT_EQ(run.finished[0].request, 0u);
  EXPECT_EQ(run.finished[0].preemptions, 0u);
  EXPECT_EQ(run.finished[1].preemptions, 1u);
  EXPECT_EQ(run.finished[1].generation_tokens, 200u);
}

TEST(EngineModel, ResumedRequest_FindsTheBlocksThatItsOwnOutputFilled) {
  // Request 1 has filled two blocks when it needs a third one and none is free. While it waits,
  // request 0 takes one of the two (the later one, which is freed first). So of its 1025 tokens,
  // the 512 of the first block need no second prefill.
  const Workload workload = workload_of({{{1, 2}, 600, 1200}, {{3}, 500, 600}});
  EngineLimits limits;
  limits.kv_blocks = 5;
  const EngineRun run = run_engine(workload, limits);
  ASSERT_EQ(run.finished.size(), 2u);
  EXPECT_EQ(run.finished[1].preemptions, 1u);
  EXPECT_EQ(run.finished[1].generation_tokens, 600u);
  EXPECT_EQ(run.scheduled_prefill_tokens, 600u + 500u + 513u);
  EXPECT_EQ(run.finished[1].cached_tokens, 0u) << "cached tokens are those of the first scheduling";
}

TEST(EngineModel, AfterTheLastRequest_NoBlockIsReferenced) {
  const Workload workload = generate_workload(200, 4);
  for (const std::uint32_t blocks : {0u, 80u}) {
    EngineLimits limits;
    limits.kv_blocks = blocks;
    EXPECT_EQ(run_engine(workload, limits).blocks_in_use_at_end, 0u);
  }
}

TEST(EngineModel, SameWorkload_GivesTheSameEventsAndAnotherSeedDoesNot) {
  EngineLimits limits;
  limits.kv_blocks = 90;
  const EngineRun first = run_engine(generate_workload(200, 5), limits);
  const EngineRun second = run_engine(generate_workload(200, 5), limits);
  const EngineRun other = run_engine(generate_workload(200, 6), limits);
  EXPECT_EQ(first.fingerprint, second.fingerprint);
  EXPECT_EQ(first.steps, second.steps);
  EXPECT_NE(first.fingerprint, other.fingerprint);
}

TEST(EngineModel, LongPrompt_IsComputedInChunksOfTheTokenBudget) {
  const Workload workload = workload_of({{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 5000, 1}});
  EngineLimits limits;
  limits.max_num_batched_tokens = 1000;
  const EngineRun run = run_engine(workload, limits);
  EXPECT_EQ(run.steps, 5u);
  EXPECT_EQ(run.most_batched_tokens, 1000u);
}

TEST(EngineModel, RunningRequests_AreServedBeforeWaitingOnesAreAdmitted) {
  // The second prompt arrives while the first decodes; the budget of 100 leaves it 99 a step.
  const Workload workload = workload_of({{{1}, 100, 50}, {{2}, 198, 1, 5'000'000}});
  EngineLimits limits;
  limits.max_num_batched_tokens = 100;
  const EngineRun run = run_engine(workload, limits);
  ASSERT_EQ(run.finished.size(), 2u);
  EXPECT_EQ(run.steps, 50u);
}

TEST(PrefixCache, EqualIdBehindADifferentBlock_IsNoHit) {
  const Workload workload = workload_of({{{1, 2, 3}, 1536, 1}, {{9, 2, 3}, 1536, 1}});
  EXPECT_EQ(run_engine(workload, one_at_a_time(BlockRule::trace)).hit_blocks, 0u);
  EXPECT_EQ(run_engine(workload, one_at_a_time(BlockRule::vllm)).hits, 0u);
}

TEST(PrefixCache, WholeCachedPromptOfWholeBlocks_TellsTheRulesApart) {
  const Workload workload = workload_of({{{1, 2}, 1024, 1}, {{1, 2}, 1024, 1}});
  const EngineRun vllm = run_engine(workload, one_at_a_time(BlockRule::vllm));
  EXPECT_EQ(vllm.hit_blocks, 1u);
  EXPECT_EQ(vllm.hits, 512u);
  const EngineRun trace = run_engine(workload, one_at_a_time(BlockRule::trace));
  EXPECT_EQ(trace.hit_blocks, 2u);
  EXPECT_EQ(trace.hits, 1023u) << "one token is computed under either rule";
}

TEST(PrefixCache, PartialLastBlock_HitsUnderTheTracesRuleOnly) {
  const Workload workload = workload_of({{{1, 2}, 700, 1}, {{1, 2}, 700, 1}});
  EXPECT_EQ(run_engine(workload, one_at_a_time(BlockRule::vllm)).hit_blocks, 1u);
  EXPECT_EQ(run_engine(workload, one_at_a_time(BlockRule::trace)).hit_blocks, 2u);
}

TEST(PrefixCache, GeneratedWorkload_TellsTheRulesApart) {
  const Workload workload = generate_workload(500, 7);
  std::uint64_t whole_block_repeats = 0;
  for (const Request& request : workload.requests) {
    whole_block_repeats += request.prompt_tokens % kBlockTokens == 0;
  }
  EXPECT_GT(whole_block_repeats, 10u);
  EXPECT_LT(run_engine(workload, one_at_a_time(BlockRule::vllm)).hit_blocks,
            run_engine(workload, one_at_a_time(BlockRule::trace)).hit_blocks);
}

TEST(PrefixCache, EqualPromptsInOneStep_ShareTheirFullBlocks) {
  const Workload workload = workload_of({{{1, 2}, 1000, 5}, {{1, 2}, 1000, 5}});
  EXPECT_EQ(run_engine(workload, {}).hits, 512u);
}

TEST(PrefixCache, FreeBlocks_AreEvictedLeastRecentlyUsedFirst) {
  // Four blocks hold prompts 1 and 2; 1 is used again, so the third prompt evicts 2.
  const std::vector<TestPrompt> prompts = {{{10, 11}, 1023, 1}, {{20, 21}, 1023, 1},
                                           {{10, 12}, 1023, 1}, {{30, 31}, 1023, 1},
                                           {{10, 13}, 1023, 1}, {{20, 22}, 1023, 1}};
  EngineLimits limits = one_at_a_time(BlockRule::vllm);
  limits.kv_blocks = 4;
  const EngineRun run = run_engine(workload_of(prompts), limits);
  // Prompts 3 and 5 find block 10; prompt 6 does not find block 20 any more.
  EXPECT_EQ(run.hit_blocks, 2u);
}

TEST(EngineModel, PromptThatCannotFit_IsRefusedAndLongOutputEndsByLength) {
  const Workload workload =
      workload_of({{{1, 2, 3, 4}, 2048, 10}, {{5, 6, 7}, 1500, 1000}, {{8}, 512, 3}});
  EngineLimits limits;
  limits.kv_blocks = 4;
  limits.max_sequence_tokens = longest_sequence(131072, limits.kv_blocks);
  ASSERT_EQ(limits.max_sequence_tokens, 2048u);
  EngineCore core(workload, limits, StepTimeModel{}, 0, 1);
  EXPECT_EQ(core.refused(), 1u);
  const EngineRun run = run_engine(workload, limits);
  ASSERT_EQ(run.finished.size(), 2u);
  const FinishedOutcome& cut = run.finished[0].request == 1 ? run.finished[0] : run.finished[1];
  EXPECT_EQ(cut.finished, FinishedBy::length);
  EXPECT_EQ(cut.generation_tokens, 548u);
  EXPECT_EQ(run.blocks_in_use_at_end, 0u);
}

TEST(EngineModel, OutputAtItsMaxTokens_EndsByLengthAndOthersByStop) {
  const Workload workload = generate_workload(200, 8);
  std::size_t by_length = 0;
  for (const FinishedOutcome& done : run_engine(workload, {}).finished) {
    const Request& request = workload.requests[done.request];
    const bool at_limit = request.max_tokens == request.output_tokens;
    EXPECT_EQ(done.finished, at_limit ? FinishedBy::length : FinishedBy::stop);
    by_length += at_limit;
  }
  EXPECT_GT(by_length, 0u);
}

TEST(FrontEnd, Latencies_FollowFromTheStampsOfTheEngine) {
  // One prompt of one chunk and three tokens: queued at 1 ms + tokenizing, steps of 20 ms.
  const Workload workload = workload_of({{{1}, 100, 3}});
  const EngineRun run = run_engine(workload, {});
  ASSERT_EQ(run.finished.size(), 1u);
  const FinishedOutcome& done = run.finished[0];
  EXPECT_DOUBLE_EQ(done.queued_time_s, 0.0);
  EXPECT_DOUBLE_EQ(done.prefill_time_s, 0.020);
  EXPECT_DOUBLE_EQ(done.decode_time_s, 0.040);
  EXPECT_DOUBLE_EQ(done.inference_time_s, 0.060);
  EXPECT_DOUBLE_EQ(done.mean_time_per_output_token_s, 0.020);
  EXPECT_DOUBLE_EQ(done.e2e_latency_s, 0.06105);
}

TEST(ConversationTrace, OneAtATimeWithoutLimits_GivesThePublishedHitCounts) {
  const char* file = std::getenv("RANKBUS_TRACE");
  if (file == nullptr) GTEST_SKIP() << "RANKBUS_TRACE does not name the conversation trace";
  const Workload workload = read_trace_file(file, 0);
  const EngineRun vllm = run_engine(workload, one_at_a_time(BlockRule::vllm));
  EXPECT_EQ(vllm.queries, 144'793'823u);
  EXPECT_EQ(vllm.hits, 54'063'104u);
  EXPECT_EQ(vllm.output_tokens, 4'122'048u);
  const EngineRun trace = run_engine(workload, one_at_a_time(BlockRule::trace));
  EXPECT_EQ(trace.queries, 144'793'823u);
  EXPECT_EQ(trace.hit_blocks, 105'710u);
  EXPECT_EQ(trace.output_tokens, 4'122'048u);
}

TEST(ConversationTrace, ManyAtATimeInAPoolOfRealSize_KeepsEveryLaw) {
  const char* file = std::getenv("RANKBUS_TRACE");
  if (file == nullptr) GTEST_SKIP() << "RANKBUS_TRACE does not name the conversation trace";
  const Workload workload = read_trace_file(file, 0);
  EngineLimits limits;
  limits.kv_blocks = 800;
  const EngineRun run = run_engine(workload, limits, 200'000'000);
  EXPECT_EQ(run.finished.size(), workload.requests.size());
  EXPECT_EQ(run.prompt_tokens, 144'793'823u);
  EXPECT_EQ(run.output_tokens, 4'122'048u);
  EXPECT_LE(run.most_blocks, 800u);
  EXPECT_EQ(run.blocks_in_use_at_end, 0u);
  EXPECT_GT(run.preemptions, 0u);
}

}  // namespace
}  // namespace rankbus::simulator
