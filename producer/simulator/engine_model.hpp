// The engine core: a continuous-batching scheduler over a paged KV cache, without any clock of its
// own. The caller says what time it is; the model says what runs and what comes out.
//
// It follows vLLM's first-come-first-served scheduler:
//   * a step has a token budget; running requests take their share first, in order of admission,
//     then waiting ones are admitted while budget, sequence limit and blocks last;
//   * prompts longer than the budget are computed in chunks over several steps;
//   * when a running request needs a block and none is free, the newest running request is
//     preempted: its blocks are freed, it goes to the head of the queue and is computed again
//     later, output tokens included (what is still cached is not computed again). In a step that
//     preempts, nobody is admitted;
//   * full blocks become findable in the step that schedules them, so that two equal prompts in one
//     step share them;
//   * behind a KV connector, what the own cache does not hold may be loaded from an external one;
//   * a waiting request whose LoRA adapter finds no place among those that run is passed over.
// One step is in flight at a time (no asynchronous scheduling).
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <rankbus/producer/simulator/block_pool.hpp>
#include <rankbus/producer/simulator/external_cache.hpp>
#include <rankbus/producer/simulator/workload.hpp>
#include <span>
#include <vector>

namespace rankbus::simulator {

enum class BlockRule : std::uint8_t {
  // As vLLM: only full blocks are cached, and at least one prompt token is always computed, so a
  // prompt of n tokens hits at most (n-1)/512 blocks.
  vllm,
  // As the public traces are counted: the partial last block of a prompt counts as a block, and a
  // whole prompt may hit. One token is computed all the same, because a first output token needs
  // it.
  // A partial block is copied rather than shared, for its owner goes on writing it. Blocks filled
  // by
  // outputs are not cached under this rule.
  trace,
};

enum class FinishedBy : std::uint8_t { nothing, stop, length };

struct EngineLimits {
  std::uint32_t max_num_batched_tokens = 8192;
  std::uint32_t max_num_seqs = 256;
  std::uint32_t kv_blocks = 0;  // 0: unlimited
  BlockRule block_rule = BlockRule::vllm;
  // Prompt and output together. A prompt that leaves no room for one token is refused; a longer
  // output ends by length.
  std::uint32_t max_sequence_tokens = 131072;
  std::uint32_t max_loras = 0;  // LoRA adapters that run at the same time; 0: no limit
  bool external_cache = false;
  std::uint64_t external_cache_seed = 0;
};

// The longest sequence that both the model and the pool can hold. vLLM does not start with a pool
// that cannot hold one sequence of max_model_len, unless told to lower that limit; we lower it.
std::uint32_t longest_sequence(std::uint32_t max_model_len, std::uint32_t kv_blocks);

// What a step costs, in the terms of the step-time model.
struct StepWork {
  std::uint64_t prefill_seqs = 0;
  std::uint64_t prefill_tokens = 0;
  std::uint64_t prefill_token_pairs = 0;  // sum over prefill tokens of the tokens each attends to
  std::uint64_t decode_seqs = 0;
  std::uint64_t decode_context_tokens = 0;   // sum over decoding sequences of what they attend to
  std::uint64_t prefill_context_tokens = 0;  // the same over sequences in prefill
  std::uint64_t token_contexts =
      0;  // sum over all sequences of tokens times context after the step
  std::uint64_t encoder_inputs = 0;  // multimodal inputs of requests that are scheduled first
  std::uint64_t tokens() const { return prefill_tokens + decode_seqs; }
};

// What the scheduler reports after each step.
struct SchedulerCounts {
  std::uint32_t running = 0;
  std::uint32_t waiting = 0;   // for room; the deferred ones not included
  std::uint32_t deferred = 0;  // for a LoRA adapter's place
  double kv_cache_usage = 0;
  // Once per request, at its first scheduling. Resumed requests belong to a trio of their own in
  // vLLM, which is never exported.
  std::uint32_t prefix_requests = 0;
  std::uint64_t prefix_queries = 0;     // tokens
  std::uint64_t prefix_hits = 0;        // tokens
  std::uint64_t prefix_hit_blocks = 0;  // partial ones included under BlockRule::trace
  // The same of the external cache, where there is one.
  std::uint32_t external_requests = 0;
  std::uint64_t external_queries = 0;
  std::uint64_t external_hits = 0;
  // What the connector moves in this step, resumed requests included.
  std::uint32_t load_requests = 0;
  std::uint32_t load_blocks = 0;
  std::uint32_t store_blocks = 0;
};

// What a request's first scheduling asked of the caches, in blocks.
struct PrefixLookup {
  std::uint32_t request = 0;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t asked_blocks = 0;  // that could have been hit
  std::uint32_t hit_blocks = 0;
  std::uint32_t last_content = BlockPool::kNone;  // of those hit: names all of the prefix
  std::uint32_t external_asked_blocks = 0;        // behind those hit
  std::uint32_t external_hit_blocks = 0;
};

// A request that gave its blocks back, because it is finished or was preempted.
struct BlockRelease {
  std::uint32_t request = 0;
  std::uint32_t held_blocks = 0;
  std::uint32_t freed_blocks = 0;  // that nobody else uses
  bool preempted = false;
};

// How many requests of one adapter there are.
struct AdapterUse {
  std::uint32_t live = 0;
  std::uint32_t running = 0;
  bool operator==(const AdapterUse&) const = default;
};

// One sampled token of one request, with what happened to the request since its last one.
struct Output {
  std::uint32_t request = 0;
  std::uint32_t preemptions = 0;
  std::uint32_t cached_tokens = 0;    // of the prompt, at the first scheduling
  std::uint32_t external_tokens = 0;  // the same, from the external cache
  FinishedBy finished = FinishedBy::nothing;
  bool first = false;
  std::uint64_t queued_ns = 0;
  std::uint64_t scheduled_ns = 0;  // first time only
};

class EngineModel {
 public:
  // `workload` must outlive the model.
  EngineModel(const Workload& workload, const EngineLimits& limits);

  // Whether such a request can be served at all; if not, a front end refuses it.
  bool accepts(std::uint32_t request) const;
  // Queues a request that accepts() approves. Each request at most once.
  void enqueue(std::uint32_t request, std::uint64_t now_ns);
  bool has_work() const { return !running_.empty() || !waiting_.empty(); }

  // Decides what the next step computes. Needs has_work(); always schedules at least one token.
  const StepWork& begin_step(std::uint64_t now_ns);
  // Ends the step: the outputs stay valid until the next begin_step().
  std::span<const Output> end_step();
  // The state after the last step, with the prefix-cache counts since the call before.
  SchedulerCounts take_counts();
  // What begin_step() has counted so far.
  const SchedulerCounts& counts() const { return counts_; }

  const BlockPool& pool() const { return pool_; }
  // `observer` must outlive the model.
  void watch_blocks(BlockObserver& observer) { pool_.watch(observer); }
  // Of the last step; valid until the next one begins.
  std::span<const PrefixLookup> lookups() const { return lookups_; }
  std::span<const BlockRelease> releases() const { return releases_; }
  // By adapter; 0, the base model, is not counted.
  std::span<const AdapterUse> adapter_use() const { return adapters_; }
  // Adapters of requests that wait or run, by when they came.
  std::span<const std::uint32_t> live_adapters() const { return live_adapters_; }
  std::uint32_t running() const { return static_cast<std::uint32_t>(running_.size()); }
  std::uint32_t generated_tokens(std::uint32_t request) const { return states_[request].generated; }

 private:
  struct State {
    std::uint32_t computed = 0;   // tokens whose KV is in blocks
    std::uint32_t generated = 0;  // output tokens so far
    std::uint32_t target = 0;     // output tokens at the end
    std::uint32_t scheduled = 0;  // tokens in this step
    std::uint32_t findable = 0;   // leading blocks that the prefix cache knows
    std::uint32_t first_private_content = 0;
    std::uint32_t preemptions = 0;  // since the last output
    std::uint32_t cached = 0;
    std::uint32_t external = 0;
    bool seen = false;  // scheduled before
    std::uint64_t queued_ns = 0;
    std::uint64_t scheduled_ns = 0;
    std::vector<std::uint32_t> blocks;
  };
  struct Match {
    std::uint32_t blocks = 0;
    std::uint32_t tokens = 0;
    std::uint32_t external_tokens = 0;  // behind those, in whole blocks
    std::uint32_t all_tokens() const { return tokens + external_tokens; }
  };
  std::uint32_t known_tokens(std::uint32_t request) const;
  std::uint32_t content_of(std::uint32_t request, std::uint32_t index) const;
  Match match_prefix(std::uint32_t request) const;
  std::uint32_t most_blocks_hit(std::uint32_t request) const;
  std::uint32_t match_external(std::uint32_t request, const Match& local) const;
  void schedule_running(std::uint32_t& budget, bool& preempted);
  void schedule_waiting(std::uint32_t& budget, std::uint64_t now_ns);
  bool waits_for_adapter(std::uint32_t request) const;
  void enter_running(std::uint32_t request);
  void leave_running(std::uint32_t request);
  void count_admission(std::uint32_t request, const Match& match, std::uint64_t now_ns);
  void note_lookup(std::uint32_t request, const Match& match);
  void count_adapter_of_new(std::uint32_t request);
  void count_adapter_of_finished(std::uint32_t request);
  bool grow(State& state, std::uint32_t tokens);
  bool admit(std::uint32_t request, const Match& match, std::uint32_t tokens);
  void make_findable(std::uint32_t request);
  void count_work(const State& state, std::uint32_t known);
  void preempt(std::uint32_t request);
  void free_blocks_of(std::uint32_t request, bool preempted);

  const Workload& workload_;
  EngineLimits limits_;
  BlockPool pool_;
  std::vector<State> states_;
  std::vector<std::uint32_t> running_;  // by admission
  std::deque<std::uint32_t> waiting_;
  std::vector<std::uint32_t> scheduled_;  // in this step
  std::vector<std::uint32_t> deferred_;   // in this step
  std::vector<AdapterUse> adapters_;
  std::uint32_t running_adapters_ = 0;
  std::vector<std::uint32_t> live_adapters_;
  std::optional<ExternalCache> external_;
  std::vector<PrefixLookup> lookups_;
  std::vector<BlockRelease> releases_;
  std::vector<Output> outputs_;
  StepWork work_;
  SchedulerCounts counts_;
};

}  // namespace rankbus::simulator
