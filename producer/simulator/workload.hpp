// A workload is the list of requests that a simulation serves, wherever they come from.
//
// Prompts are known by their KV blocks, not by their text. Two prompts share a block when the block
// and all blocks before it have equal ids, so each prompt is a path in a prefix tree and a block's
// content is named by its tree node: equal node means equal content and equal history.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace rankbus::simulator {

// Tokens per KV block. The public traces name prompts in blocks of this size.
inline constexpr std::uint32_t kBlockTokens = 512;

// A fault of the user's input (a trace line, an option): the message says where, what was found and
// what was expected, and the process exits with status 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Request {
  std::uint64_t arrival_ns = 0;  // since the start of the run, in model time
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::uint32_t max_tokens = 0;  // what the client allowed; 0 when it gave no limit
  std::uint32_t first_node = 0;  // where this prompt's path begins in Workload::path
  // Drawn where the features are on (features.hpp).
  std::uint32_t adapter = 0;  // LoRA adapter, 0: the base model
  std::uint32_t images = 0;   // multimodal inputs
  bool corrupted = false;     // its logits will hold a NaN
};

struct Workload {
  std::vector<Request> requests;    // by arrival
  std::vector<std::uint32_t> path;  // the tree nodes of all prompts, one prompt after another
  std::uint32_t node_count = 0;

  // One node per started block of the prompt; the last block may be partial.
  std::span<const std::uint32_t> nodes_of(std::uint32_t request) const;
};

constexpr std::uint32_t blocks_for(std::uint64_t tokens) {
  return static_cast<std::uint32_t>((tokens + kBlockTokens - 1) / kBlockTokens);
}

// Builds a workload prompt by prompt and gives every distinct prefix its node.
class WorkloadBuilder {
 public:
  // `block_ids` has one entry per started block of the prompt.
  void add(Request request, std::span<const std::uint64_t> block_ids);

  // Sorts by arrival, keeping the order of equal arrivals, and draws each request's max_tokens:
  // traces do not record it. 1 in 8 clients gives no limit, 1 in 8 is cut at exactly the recorded
  // output (so it ends by length), the others ask for the next power of two above it, at least 256.
  Workload finish(std::uint64_t seed) &&;

 private:
  struct Edge {
    std::uint32_t parent;
    std::uint64_t id;
    bool operator==(const Edge&) const = default;
  };
  struct EdgeHash {
    std::size_t operator()(const Edge& edge) const;
  };

  Workload workload_;
  std::unordered_map<Edge, std::uint32_t, EdgeHash> nodes_;
};

// The generated workload, for machines without a trace. A stream of chat and batch requests:
//
//   arrivals      Poisson, kArrivalsPerSecond
//   outputs       log-normal, median 200 tokens, sigma 0.8, cut to [1, 2048]
//   prompts       log-normal user turns on a tree of shared prefixes, cut at kLongestPrompt:
//     50 %  a new conversation: one of 16 system prompts of 1 to 4 whole blocks (low numbers are
//           more popular) and a first turn with median 2000 tokens, sigma 1.2
//     40 %  the next turn of one of the last 64 conversations: its prompt, its output, and a turn
//           with median 300 tokens, sigma 1.0
//      5 %  a prompt seen before, word for word: all its blocks may be cached
//      5 %  the first 1 to 8 blocks of one of 4 documents: an exact multiple of a block
//
// The last two kinds are what tells the two block rules apart.
inline constexpr double kArrivalsPerSecond = 2.0;
inline constexpr std::uint32_t kLongestPrompt = 32768;
Workload generate_workload(std::uint32_t requests, std::uint64_t seed);

// Removes every request that arrives after `last_arrival_ns`.
void limit_duration(Workload& workload, std::uint64_t last_arrival_ns);

}  // namespace rankbus::simulator
