#include <algorithm>
#include <bit>
#include <limits>
#include <rankbus/producer/simulator/random.hpp>
#include <rankbus/producer/simulator/workload.hpp>

namespace rankbus::simulator {

namespace {

// Streams of the seed, so that adding a draw to one purpose does not change another.
enum SeedStream : std::uint64_t { kShape = 1, kMaxTokens = 2 };

std::uint32_t draw_max_tokens(std::uint32_t output_tokens, std::uint64_t bits) {
  switch (bits % 8) {
    case 0:
      return 0;
    case 1:
      return output_tokens;
    default:
      return std::max(256u, std::bit_ceil(output_tokens + 1));
  }
}

std::uint32_t clamp_tokens(double tokens, std::uint32_t most) {
  return tokens >= most ? most : std::max(1u, static_cast<std::uint32_t>(tokens));
}

struct Prompt {
  std::uint32_t tokens = 0;
  std::vector<std::uint64_t> ids;
};

struct Conversation {
  Prompt prompt;
  std::uint32_t output_tokens = 0;
};

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed, kShape) {
    for (Prompt& system : systems_) {
      extend(system, (1 + static_cast<std::uint32_t>(random_.below(4))) * kBlockTokens);
    }
    for (Prompt& document : documents_) extend(document, 8 * kBlockTokens);
  }

  Workload run(std::uint32_t requests, std::uint64_t seed) && {
    WorkloadBuilder builder;
    double now_s = 0;
    for (std::uint32_t i = 0; i < requests; ++i) {
      now_s += random_.exponential(1 / kArrivalsPerSecond);
      Conversation turn;
      turn.prompt = draw_prompt();
      turn.output_tokens = clamp_tokens(random_.log_normal(200, 0.8), 2048);
      builder.add({.arrival_ns = static_cast<std::uint64_t>(now_s * 1e9),
                   .prompt_tokens = turn.prompt.tokens,
                   .output_tokens = turn.output_tokens},
                  turn.prompt.ids);
      remember(std::move(turn));
    }
    return std::move(builder).finish(seed);
  }

 private:
  static constexpr std::size_t kOpenConversations = 64;

  // Appends tokens. Whole blocks keep their ids; a partial last block becomes another block when
  // something is written behind it.
  void extend(Prompt& prompt, std::uint32_t tokens) {
    prompt.ids.resize(prompt.tokens / kBlockTokens);
    prompt.tokens += tokens;
    while (prompt.ids.size() < blocks_for(prompt.tokens)) prompt.ids.push_back(next_id_++);
  }

  Prompt draw_prompt() {
    const double kind = random_.uniform();
    if (kind < 0.05) return draw_document();
    if (kind < 0.10 && !recent_.empty()) return recent_[random_.below(recent_.size())].prompt;
    if (kind < 0.50 && !recent_.empty()) {
      const Conversation& before = recent_[random_.below(recent_.size())];
      const std::uint32_t turn = clamp_tokens(random_.log_normal(300, 1.0), kLongestPrompt);
      if (before.prompt.tokens + before.output_tokens + turn <= kLongestPrompt) {
        Prompt prompt = before.prompt;
        extend(prompt, before.output_tokens + turn);
        return prompt;
      }
    }
    Prompt prompt = systems_[std::min(random_.below(16), random_.below(16))];
    extend(prompt, clamp_tokens(random_.log_normal(2000, 1.2), kLongestPrompt - prompt.tokens));
    return prompt;
  }

  Prompt draw_document() {
    Prompt prompt = documents_[random_.below(4)];
    prompt.ids.resize(1 + random_.below(8));
    prompt.tokens = static_cast<std::uint32_t>(prompt.ids.size()) * kBlockTokens;
    return prompt;
  }

  void remember(Conversation turn) {
    if (recent_.size() < kOpenConversations) {
      recent_.push_back(std::move(turn));
    } else {
      recent_[oldest_++ % kOpenConversations] = std::move(turn);
    }
  }

  Random random_;
  std::uint64_t next_id_ = 0;
  Prompt systems_[16];
  Prompt documents_[4];
  std::vector<Conversation> recent_;
  std::size_t oldest_ = 0;
};

}  // namespace

std::span<const std::uint32_t> Workload::nodes_of(std::uint32_t request) const {
  const Request& r = requests[request];
  return std::span(path).subspan(r.first_node, blocks_for(r.prompt_tokens));
}

std::size_t WorkloadBuilder::EdgeHash::operator()(const Edge& edge) const {
  return hash_pair(edge.parent, edge.id);
}

void WorkloadBuilder::add(Request request, std::span<const std::uint64_t> block_ids) {
  constexpr std::uint32_t kRoot = std::numeric_limits<std::uint32_t>::max();
  if (workload_.path.size() + block_ids.size() >= kRoot) {
    throw InputError(
        "the workload has more than 2^32 prompt blocks, which is beyond the simulator");
  }
  request.first_node = static_cast<std::uint32_t>(workload_.path.size());
  std::uint32_t node = kRoot;
  for (const std::uint64_t id : block_ids) {
    node =
        nodes_.try_emplace(Edge{node, id}, static_cast<std::uint32_t>(nodes_.size())).first->second;
    workload_.path.push_back(node);
  }
  workload_.requests.push_back(request);
}

Workload WorkloadBuilder::finish(std::uint64_t seed) && {
  std::stable_sort(workload_.requests.begin(), workload_.requests.end(),
                   [](const Request& a, const Request& b) { return a.arrival_ns < b.arrival_ns; });
  Random random(seed, kMaxTokens);
  for (Request& request : workload_.requests) {
    request.max_tokens = draw_max_tokens(request.output_tokens, random.next());
  }
  workload_.node_count = static_cast<std::uint32_t>(nodes_.size());
  return std::move(workload_);
}

Workload generate_workload(std::uint32_t requests, std::uint64_t seed) {
  return Generator(seed).run(requests, seed);
}

void limit_duration(Workload& workload, std::uint64_t last_arrival_ns) {
  std::erase_if(workload.requests,
                [=](const Request& request) { return request.arrival_ns > last_arrival_ns; });
}

}  // namespace rankbus::simulator
