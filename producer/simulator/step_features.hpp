// What the features of an engine's scheduler make of one step: pure functions of the step's work
// and of the seed.
#pragma once

#include <array>
#include <cstdint>
#include <rankbus/producer/simulator/engine_model.hpp>

namespace rankbus::simulator {

inline constexpr std::uint32_t kMostDraftTokens = 32;

// Speculative decoding: each decoding sequence gets a draft of as many tokens.
struct SpeculationOutcome {
  std::uint64_t drafts = 0;
  std::uint64_t draft_tokens = 0;
  std::uint64_t accepted_tokens = 0;
  std::array<std::uint64_t, kMostDraftTokens> accepted_at{};
  std::array<std::uint64_t, kMostDraftTokens> drafted_at{};
};

// Each token of a draft is accepted with a chance of 0.7 if the one before it was. The outputs of
// the step stay as they are: what is accepted is told, not served.
SpeculationOutcome speculate(const StepWork& work, std::uint32_t draft_tokens, std::uint64_t seed,
                             std::uint32_t engine, std::uint64_t step);

// Diffusion decoding: each decoding sequence has a canvas of kCanvasPositions, of which a denoising
// step commits 1 to 8.
inline constexpr std::uint32_t kCanvasPositions = 32;
struct DiffusionOutcome {
  std::uint64_t denoising_steps = 0;
  std::uint64_t canvas_positions = 0;
  std::uint64_t committed_tokens = 0;
};
DiffusionOutcome diffuse(const StepWork& work, std::uint64_t seed, std::uint32_t engine,
                         std::uint64_t step);

// The model whose work is estimated: the one of step_time.hpp, one byte per weight and per element
// of the KV cache, two per activation.
struct ModelSize {
  std::uint64_t layers = 80;
  std::uint64_t width = 8192;
  std::uint64_t heads = 64;
  std::uint64_t kv_heads = 8;
  std::uint64_t head_width = 128;
  std::uint64_t ffn_width = 28672;
};

struct WorkEstimate {
  std::uint64_t flops = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t write_bytes = 0;
};

// For one of `tp` GPUs. Attention by vLLM's formulas; a gated FFN of three matrices; every weight
// is read once, the context's keys and values are read and those of new tokens written, and each of
// the two blocks of a layer writes its result.
WorkEstimate estimate_work(const StepWork& work, const ModelSize& model, std::uint32_t tp);

}  // namespace rankbus::simulator
