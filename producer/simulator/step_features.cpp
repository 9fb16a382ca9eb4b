#include <algorithm>
#include <rankbus/producer/simulator/random.hpp>
#include <rankbus/producer/simulator/step_features.hpp>

namespace rankbus::simulator {

namespace {

enum SeedStream : std::uint64_t { kDrafts = 106, kCanvases = 107 };

// Draws of one step are independent of how many other steps drew.
Random draws_of_step(std::uint64_t seed, SeedStream stream, std::uint32_t engine,
                     std::uint64_t step) {
  return {seed, hash_pair(hash_pair(stream, engine), step)};
}

}  // namespace

SpeculationOutcome speculate(const StepWork& work, std::uint32_t draft_tokens, std::uint64_t seed,
                             std::uint32_t engine, std::uint64_t step) {
  SpeculationOutcome outcome;
  Random random = draws_of_step(seed, kDrafts, engine, step);
  outcome.drafts = work.decode_seqs;
  outcome.draft_tokens = work.decode_seqs * draft_tokens;
  for (std::uint32_t position = 0; position < draft_tokens; ++position) {
    outcome.drafted_at[position] = work.decode_seqs;
  }
  for (std::uint64_t draft = 0; draft < work.decode_seqs; ++draft) {
    for (std::uint32_t position = 0; position < draft_tokens && random.chance(0.7); ++position) {
      ++outcome.accepted_at[position];
      ++outcome.accepted_tokens;
    }
  }
  return outcome;
}

DiffusionOutcome diffuse(const StepWork& work, std::uint64_t seed, std::uint32_t engine,
                         std::uint64_t step) {
  DiffusionOutcome outcome;
  Random random = draws_of_step(seed, kCanvases, engine, step);
  outcome.denoising_steps = work.decode_seqs;
  outcome.canvas_positions = work.decode_seqs * kCanvasPositions;
  for (std::uint64_t canvas = 0; canvas < work.decode_seqs; ++canvas) {
    outcome.committed_tokens += 1 + random.below(8);
  }
  return outcome;
}

WorkEstimate estimate_work(const StepWork& work, const ModelSize& model, std::uint32_t tp) {
  const std::uint64_t heads = std::max<std::uint64_t>(1, model.heads / tp);
  const std::uint64_t kv_heads = std::max<std::uint64_t>(1, model.kv_heads / tp);
  const std::uint64_t ffn_width = std::max<std::uint64_t>(1, model.ffn_width / tp);
  const std::uint64_t tokens = work.tokens();
  const std::uint64_t qkv_weights = model.width * (heads + 2 * kv_heads) * model.head_width;
  const std::uint64_t output_weights = model.width * heads * model.head_width;
  const std::uint64_t ffn_weights = 3 * model.width * ffn_width;
  const std::uint64_t weights = qkv_weights + output_weights + ffn_weights;
  const std::uint64_t scores_and_values = 2 * (2 * heads * work.token_contexts * model.head_width);
  const std::uint64_t context = work.prefill_context_tokens + work.decode_context_tokens;
  const std::uint64_t kv_bytes = 2 * kv_heads * model.head_width;
  const std::uint64_t result_bytes = 2 * (2 * model.width);
  WorkEstimate estimate;
  estimate.flops = (2 * tokens * weights + scores_and_values) * model.layers;
  estimate.read_bytes = (weights + context * kv_bytes) * model.layers;
  estimate.write_bytes = tokens * (kv_bytes + result_bytes) * model.layers;
  return estimate;
}

}  // namespace rankbus::simulator
