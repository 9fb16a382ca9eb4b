#include <algorithm>
#include <cassert>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <utility>

namespace rankbus::simulator {

namespace {

// Blocks that outputs fill belong to one request, yet a resumed request may find its own again. So
// each request gets contents of its own behind those of the prefix tree.
std::uint32_t private_contents(const Request& request) {
  return blocks_for(std::uint64_t{request.prompt_tokens} + request.output_tokens) -
         request.prompt_tokens / kBlockTokens;
}

std::uint32_t count_contents(const Workload& workload) {
  std::uint64_t contents = workload.node_count;
  for (const Request& request : workload.requests) contents += private_contents(request);
  if (contents >= BlockPool::kNone) {
    throw InputError("the workload has more than 2^32 KV blocks, which is beyond the simulator");
  }
  return static_cast<std::uint32_t>(contents);
}

}  // namespace

std::uint32_t longest_sequence(std::uint32_t max_model_len, std::uint32_t kv_blocks) {
  if (kv_blocks == 0) return max_model_len;
  const std::uint64_t pool_tokens = std::uint64_t{kv_blocks} * kBlockTokens;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(max_model_len, pool_tokens));
}

EngineModel::EngineModel(const Workload& workload, const EngineLimits& limits)
    : workload_(workload),
      limits_(limits),
      pool_(limits.kv_blocks, count_contents(workload)),
      states_(workload.requests.size()) {
  assert(limits.max_num_batched_tokens > 0 && limits.max_num_seqs > 0);
  // Whoever holds all blocks can finish: this is why scheduling never comes to a standstill.
  assert(limits.max_sequence_tokens ==
         longest_sequence(limits.max_sequence_tokens, limits.kv_blocks));
  std::uint32_t content = workload.node_count;
  for (std::size_t i = 0; i < states_.size(); ++i) {
    states_[i].first_private_content = content;
    content += private_contents(workload.requests[i]);
    adapters_.resize(std::max<std::size_t>(adapters_.size(), workload.requests[i].adapter + 1u));
  }
  if (limits.external_cache) {
    external_.emplace(content, workload.node_count, limits.external_cache_seed);
  }
}

bool EngineModel::accepts(std::uint32_t request) const {
  return workload_.requests[request].prompt_tokens < limits_.max_sequence_tokens;
}

void EngineModel::enqueue(std::uint32_t request, std::uint64_t now_ns) {
  assert(accepts(request));
  const Request& r = workload_.requests[request];
  State& state = states_[request];
  state.target = std::min(r.output_tokens, limits_.max_sequence_tokens - r.prompt_tokens);
  state.queued_ns = now_ns;
  waiting_.push_back(request);
  count_adapter_of_new(request);
}

const StepWork& EngineModel::begin_step(std::uint64_t now_ns) {
  assert(has_work());
  work_ = {};
  scheduled_.clear();
  lookups_.clear();
  releases_.clear();
  std::uint32_t budget = limits_.max_num_batched_tokens;
  bool preempted = false;
  schedule_running(budget, preempted);
  if (!preempted) schedule_waiting(budget, now_ns);
  assert(work_.tokens() > 0);
  return work_;
}

std::span<const Output> EngineModel::end_step() {
  outputs_.clear();
  bool any_finished = false;
  for (const std::uint32_t request : scheduled_) {
    State& state = states_[request];
    state.computed += state.scheduled;
    state.scheduled = 0;
    if (state.computed < known_tokens(request)) continue;  // a chunk of a longer prompt
    ++state.generated;
    Output& output = outputs_.emplace_back();
    output.request = request;
    output.preemptions = std::exchange(state.preemptions, 0);
    output.cached_tokens = state.cached;
    output.external_tokens = state.external;
    output.first = state.generated == 1;
    output.queued_ns = state.queued_ns;
    output.scheduled_ns = state.scheduled_ns;
    if (state.generated < state.target) continue;
    const Request& r = workload_.requests[request];
    const bool cut =
        known_tokens(request) >= limits_.max_sequence_tokens || state.generated == r.max_tokens;
    output.finished = cut ? FinishedBy::length : FinishedBy::stop;
    any_finished = true;
    free_blocks_of(request, /*preempted=*/false);
    leave_running(request);
    count_adapter_of_finished(request);
  }
  if (any_finished) {
    std::erase_if(running_, [this](std::uint32_t request) {
      return states_[request].generated == states_[request].target;
    });
  }
  return outputs_;
}

SchedulerCounts EngineModel::take_counts() {
  SchedulerCounts counts = std::exchange(counts_, {});
  counts.running = running();
  counts.waiting = static_cast<std::uint32_t>(waiting_.size()) - counts.deferred;
  counts.kv_cache_usage = pool_.usage();
  return counts;
}

std::uint32_t EngineModel::known_tokens(std::uint32_t request) const {
  return workload_.requests[request].prompt_tokens + states_[request].generated;
}

// What block `index` of a request holds once it is full (or, under the trace's rule, once it holds
// the end of the prompt).
std::uint32_t EngineModel::content_of(std::uint32_t request, std::uint32_t index) const {
  const Request& r = workload_.requests[request];
  const std::uint32_t full = r.prompt_tokens / kBlockTokens;
  if (index < full ||
      (limits_.block_rule == BlockRule::trace && index < blocks_for(r.prompt_tokens))) {
    return workload_.path[r.first_node + index];
  }
  return states_[request].first_private_content + (index - full);
}

std::uint32_t EngineModel::most_blocks_hit(std::uint32_t request) const {
  return limits_.block_rule == BlockRule::trace
             ? blocks_for(workload_.requests[request].prompt_tokens)
             : (known_tokens(request) - 1) / kBlockTokens;
}

EngineModel::Match EngineModel::match_prefix(std::uint32_t request) const {
  const std::uint32_t known = known_tokens(request);
  const bool whole_prompt = limits_.block_rule == BlockRule::trace;
  const std::uint32_t prompt = workload_.requests[request].prompt_tokens;
  const std::uint32_t most = most_blocks_hit(request);
  Match match;
  while (match.blocks < most && pool_.find(content_of(request, match.blocks)) != BlockPool::kNone) {
    ++match.blocks;
  }
  match.tokens = match.blocks * kBlockTokens;
  if (whole_prompt) match.tokens = std::min({match.tokens, prompt, known - 1});
  match.external_tokens = match_external(request, match);
  return match;
}

// Tokens in whole blocks that the external cache holds behind those of the own one.
std::uint32_t EngineModel::match_external(std::uint32_t request, const Match& local) const {
  if (!external_ || local.tokens % kBlockTokens != 0) return 0;
  const std::uint32_t most = (known_tokens(request) - 1) / kBlockTokens;
  std::uint32_t end = local.tokens / kBlockTokens;
  while (end < most && external_->holds(content_of(request, end))) ++end;
  return end * kBlockTokens - local.tokens;
}

void EngineModel::schedule_running(std::uint32_t& budget, bool& preempted) {
  for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
    const std::uint32_t request = running_[i];
    State& state = states_[request];
    const std::uint32_t known = known_tokens(request);
    const std::uint32_t tokens = std::min(known - state.computed, budget);
    while (!grow(state, tokens)) {
      const std::uint32_t newest = running_.back();
      running_.pop_back();
      leave_running(newest);
      preempt(newest);
      preempted = true;
      if (newest == request) return;
    }
    state.scheduled = tokens;
    budget -= tokens;
    scheduled_.push_back(request);
    count_work(state, known);
    make_findable(request);
  }
}

void EngineModel::schedule_waiting(std::uint32_t& budget, std::uint64_t now_ns) {
  deferred_.clear();
  while (!waiting_.empty() && budget > 0 && running_.size() < limits_.max_num_seqs) {
    const std::uint32_t request = waiting_.front();
    if (waits_for_adapter(request)) {
      waiting_.pop_front();
      deferred_.push_back(request);
      continue;
    }
    State& state = states_[request];
    const std::uint32_t known = known_tokens(request);
    const Match match = match_prefix(request);
    const std::uint32_t tokens = std::min(known - match.all_tokens(), budget);
    if (!admit(request, match, tokens)) break;
    waiting_.pop_front();
    running_.push_back(request);
    enter_running(request);
    count_admission(request, match, now_ns);
    state.scheduled = tokens;
    budget -= tokens;
    scheduled_.push_back(request);
    count_work(state, known);
    make_findable(request);
  }
  counts_.deferred = static_cast<std::uint32_t>(deferred_.size());
  waiting_.insert(waiting_.begin(), deferred_.begin(), deferred_.end());
}

void EngineModel::count_admission(std::uint32_t request, const Match& match, std::uint64_t now_ns) {
  if (match.external_tokens > 0) {
    ++counts_.load_requests;
    counts_.load_blocks += match.external_tokens / kBlockTokens;
  }
  State& state = states_[request];
  if (state.seen) return;
  state.seen = true;
  state.scheduled_ns = now_ns;
  state.cached = match.tokens;
  state.external = match.external_tokens;
  work_.encoder_inputs += workload_.requests[request].images;
  ++counts_.prefix_requests;
  counts_.prefix_queries += known_tokens(request);
  counts_.prefix_hits += match.tokens;
  counts_.prefix_hit_blocks += match.blocks;
  note_lookup(request, match);
  if (!external_) return;
  ++counts_.external_requests;
  counts_.external_queries += known_tokens(request);
  counts_.external_hits += match.external_tokens;
}

void EngineModel::note_lookup(std::uint32_t request, const Match& match) {
  PrefixLookup& lookup = lookups_.emplace_back();
  lookup.request = request;
  lookup.prompt_tokens = workload_.requests[request].prompt_tokens;
  lookup.asked_blocks = most_blocks_hit(request);
  lookup.hit_blocks = match.blocks;
  if (match.blocks > 0) lookup.last_content = content_of(request, match.blocks - 1);
  // As match_external(): nothing can be loaded behind part of a block.
  if (!external_ || match.tokens % kBlockTokens != 0) return;
  lookup.external_asked_blocks =
      (known_tokens(request) - 1) / kBlockTokens - match.tokens / kBlockTokens;
  lookup.external_hit_blocks = match.external_tokens / kBlockTokens;
}

bool EngineModel::waits_for_adapter(std::uint32_t request) const {
  const std::uint32_t adapter = workload_.requests[request].adapter;
  return adapter != 0 && limits_.max_loras != 0 && adapters_[adapter].running == 0 &&
         running_adapters_ >= limits_.max_loras;
}

void EngineModel::enter_running(std::uint32_t request) {
  const std::uint32_t adapter = workload_.requests[request].adapter;
  if (adapter != 0 && adapters_[adapter].running++ == 0) ++running_adapters_;
}

void EngineModel::leave_running(std::uint32_t request) {
  const std::uint32_t adapter = workload_.requests[request].adapter;
  if (adapter != 0 && --adapters_[adapter].running == 0) --running_adapters_;
}

void EngineModel::count_adapter_of_new(std::uint32_t request) {
  const std::uint32_t adapter = workload_.requests[request].adapter;
  if (adapter != 0 && adapters_[adapter].live++ == 0) live_adapters_.push_back(adapter);
}

void EngineModel::count_adapter_of_finished(std::uint32_t request) {
  const std::uint32_t adapter = workload_.requests[request].adapter;
  if (adapter != 0 && --adapters_[adapter].live == 0) std::erase(live_adapters_, adapter);
}

// Makes room for `tokens` more tokens. Takes nothing when it cannot take all.
bool EngineModel::grow(State& state, std::uint32_t tokens) {
  const std::size_t needed = blocks_for(state.computed + tokens);
  if (needed <= state.blocks.size()) return true;
  if (pool_.free_blocks() < needed - state.blocks.size()) return false;
  while (state.blocks.size() < needed) state.blocks.push_back(pool_.allocate());
  return true;
}

bool EngineModel::admit(std::uint32_t request, const Match& match, std::uint32_t tokens) {
  State& state = states_[request];
  // A block that is not hit to its end is copied: the sequence goes on writing in it.
  const std::uint32_t shared = match.tokens / kBlockTokens;
  const std::uint32_t fresh = blocks_for(match.all_tokens() + tokens) - shared;
  std::uint32_t revived = 0;
  for (std::uint32_t i = 0; i < shared; ++i) {
    if (!pool_.in_use(pool_.find(content_of(request, i)))) ++revived;
  }
  if (pool_.free_blocks() < fresh + revived) return false;
  const Request& r = workload_.requests[request];
  state.blocks.reserve(blocks_for(std::uint64_t{r.prompt_tokens} + state.target));
  for (std::uint32_t i = 0; i < shared; ++i) {
    const std::uint32_t block = pool_.find(content_of(request, i));
    pool_.add_reference(block);
    state.blocks.push_back(block);
  }
  state.computed = match.all_tokens();
  state.findable = shared;
  const bool grown = grow(state, tokens);
  assert(grown);
  return grown;
}

// Called when the tokens of this step are decided, not when they are computed, as vLLM does:
// whoever finds the block runs in this step or a later one.
void EngineModel::make_findable(std::uint32_t request) {
  State& state = states_[request];
  const std::uint32_t covered = state.computed + state.scheduled;
  const std::uint32_t prompt = workload_.requests[request].prompt_tokens;
  std::uint32_t complete = covered / kBlockTokens;
  if (limits_.block_rule == BlockRule::trace) {
    complete = covered < prompt ? complete : blocks_for(prompt);
  }
  for (; state.findable < complete; ++state.findable) {
    const std::uint32_t content = content_of(request, state.findable);
    pool_.set_content(state.blocks[state.findable], content);
    if (external_ && external_->store(content)) ++counts_.store_blocks;
  }
}

void EngineModel::count_work(const State& state, std::uint32_t known) {
  const std::uint64_t tokens = state.scheduled;
  const std::uint64_t before = state.computed;
  work_.token_contexts += tokens * (before + tokens);
  if (tokens == 1 && before + 1 == known && state.generated > 0) {
    ++work_.decode_seqs;
    work_.decode_context_tokens += known;
  } else {
    ++work_.prefill_seqs;
    work_.prefill_tokens += tokens;
    work_.prefill_context_tokens += before + tokens;
    work_.prefill_token_pairs += tokens * before + tokens * (tokens + 1) / 2;
  }
}

void EngineModel::preempt(std::uint32_t request) {
  State& state = states_[request];
  free_blocks_of(request, /*preempted=*/true);
  state.computed = 0;
  ++state.preemptions;
  waiting_.push_front(request);
}

// The end of a sequence is the least likely to be shared, so it is freed, and evicted, first.
void EngineModel::free_blocks_of(std::uint32_t request, bool preempted) {
  State& state = states_[request];
  const std::uint32_t in_use = pool_.blocks_in_use();
  for (auto block = state.blocks.rbegin(); block != state.blocks.rend(); ++block) {
    pool_.release(*block);
  }
  releases_.push_back({.request = request,
                       .held_blocks = static_cast<std::uint32_t>(state.blocks.size()),
                       .freed_blocks = in_use - pool_.blocks_in_use(),
                       .preempted = preempted});
  state.blocks = {};
  state.findable = 0;
}

}  // namespace rankbus::simulator
