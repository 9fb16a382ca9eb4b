#include <algorithm>
#include <optional>
#include <rankbus/aggregator/arrivals/stall_judge.hpp>

namespace rankbus {
namespace {

// How far one place is after another: by step, then by collective of one group. Ordinals are the
// low 16 bits of a count, so the nearer way round is taken.
enum class Order : std::uint8_t { behind, level, ahead, unknown };

Order order_of(const RankPlace& left, const RankPlace& right) {
  if (left.step != right.step) {
    const auto steps = static_cast<std::int32_t>(left.step - right.step);
    return steps < 0 ? Order::behind : Order::ahead;
  }
  if (left.group != right.group) return Order::unknown;
  const auto collectives = static_cast<std::int16_t>(left.ordinal - right.ordinal);
  return collectives < 0 ? Order::behind : collectives > 0 ? Order::ahead : Order::level;
}

bool is_in(const RankPlace& place) {
  return place.phase == Phase::in_collective;
}

// Whether the rank has come to the collective that a peer is in.
bool has_reached(const RankPlace& rank, const RankPlace& collective) {
  const Order order = order_of(rank, collective);
  if (order == Order::ahead || order == Order::unknown) return true;
  return order == Order::level && (is_in(rank) || rank.phase == Phase::left_collective);
}

bool has_left(const RankPlace& rank, const RankPlace& collective) {
  const Order order = order_of(rank, collective);
  return order == Order::ahead || (order == Order::level && rank.phase == Phase::left_collective);
}

class Judge {
 public:
  Judge(std::span<const RankSight> ranks, std::int64_t now_ns, const StallConfig& config)
      : ranks_(ranks), now_ns_(now_ns), config_(config) {}

  RankVerdict judge(std::size_t index) const {
    const RankSight& rank = ranks_[index];
    RankVerdict verdict;
    verdict.since_ns = rank.unchanged_since_ns;
    if (const auto gone = judge_process(rank)) {
      verdict.state = gone->state;
      verdict.reason = gone->reason;
      return verdict;
    }
    const bool waits_for_work =
        rank.place.phase == Phase::waiting || rank.place.phase == Phase::sleeping;
    const bool moves = now_ns_ - rank.unchanged_since_ns < config_.lag_ns;
    if (!rank.has_said_anything || moves) return verdict;
    if (is_before_peers(index, verdict)) return verdict;
    if (waits_for_work) {
      verdict.state = RankState::idle;
      return verdict;
    }
    if (may_last(rank.place.phase)) return verdict;
    judge_inside(index, verdict);
    return verdict;
  }

 private:
  struct Gone {
    RankState state;
    StallReason reason;
  };
  static std::optional<Gone> judge_process(const RankSight& rank) {
    switch (rank.process) {
      case ProcessState::dead:
        return Gone{RankState::dead, StallReason::dead};
      case ProcessState::dumping_core:
        return Gone{RankState::dead, StallReason::dumping_core};
      case ProcessState::stopped:
        return Gone{RankState::stopped, StallReason::stopped};
      case ProcessState::running:
        return std::nullopt;
    }
    return std::nullopt;
  }

  template <class Is>
  std::uint32_t count_peers(std::size_t index, Is is) const {
    std::uint32_t peers = 0;
    for (std::size_t n = 0; n < ranks_.size(); ++n) {
      if (n != index && ranks_[n].has_said_anything && is(ranks_[n].place)) ++peers;
    }
    return peers;
  }

  // Peers are in a collective that this rank has not come to; the first of them is the one.
  bool is_before_peers(std::size_t index, RankVerdict& verdict) const {
    const RankPlace& mine = ranks_[index].place;
    const RankPlace* first = nullptr;
    for (std::size_t n = 0; n < ranks_.size(); ++n) {
      const RankPlace& theirs = ranks_[n].place;
      if (n == index || !ranks_[n].has_said_anything || !is_in(theirs)) continue;
      if (has_reached(mine, theirs)) continue;
      if (first == nullptr || order_of(theirs, *first) == Order::behind) first = &theirs;
    }
    if (first == nullptr || is_in(mine)) return false;
    verdict.state = RankState::lagging;
    verdict.reason = StallReason::before_collective;
    verdict.at = *first;
    verdict.peers = count_peers(index, [&](const RankPlace& theirs) {
      return is_in(theirs) && order_of(theirs, *first) == Order::level;
    });
    return true;
  }

  void judge_inside(std::size_t index, RankVerdict& verdict) const {
    const RankPlace& mine = ranks_[index].place;
    verdict.state = RankState::lagging;
    verdict.reason = StallReason::not_visible;
    if (!is_in(mine)) return;
    verdict.at = mine;
    verdict.peers =
        count_peers(index, [&](const RankPlace& theirs) { return has_left(theirs, mine); });
    if (verdict.peers > 0) {
      verdict.reason = StallReason::inside_collective;
      return;
    }
    const std::uint32_t inside = count_peers(index, [&](const RankPlace& theirs) {
      return is_in(theirs) && order_of(theirs, mine) == Order::level;
    });
    verdict.peers = inside;
    if (inside + 1 == ranks_.size()) {
      verdict.reason = StallReason::all_inside;
      return;
    }
    // Somebody has not come yet: that one is judged, and this one waits.
    verdict.state = RankState::ok;
    verdict.reason = StallReason::waiting_for_peer;
  }

  std::span<const RankSight> ranks_;
  std::int64_t now_ns_;
  const StallConfig& config_;
};

}  // namespace

std::vector<RankVerdict> judge_stalls(std::span<const RankSight> ranks,
                                      const EngineProgress& progress, std::int64_t now_ns,
                                      const StallConfig& config) {
  const Judge judge(ranks, now_ns, config);
  std::vector<RankVerdict> verdicts;
  verdicts.reserve(ranks.size());
  for (std::size_t index = 0; index < ranks.size(); ++index) {
    verdicts.push_back(judge.judge(index));
  }
  const bool may_take_its_time = !progress.has_finished_a_step ||
                                 std::any_of(ranks.begin(), ranks.end(), [](const RankSight& rank) {
                                   return may_last(rank.place.phase);
                                 });
  if (may_take_its_time) return verdicts;
  const auto longest_ns = static_cast<std::int64_t>(config.longest_steps *
                                                    static_cast<double>(progress.longest_step_ns));
  const std::int64_t limit_ns = std::max(config.stall_after_ns, longest_ns);
  for (RankVerdict& verdict : verdicts) {
    if (verdict.state == RankState::lagging && now_ns - verdict.since_ns >= limit_ns) {
      verdict.state = RankState::stalled;
    }
  }
  return verdicts;
}

const char* name_of(RankState state) {
  switch (state) {
    case RankState::ok:
      return "ok";
    case RankState::idle:
      return "idle";
    case RankState::lagging:
      return "lagging";
    case RankState::stalled:
      return "stalled";
    case RankState::stopped:
      return "stopped";
    case RankState::dead:
      return "dead";
  }
  return "ok";
}

std::string text_of(const RankVerdict& verdict) {
  const std::string collective = "collective " + std::to_string(verdict.at.ordinal) + " of group " +
                                 std::to_string(verdict.at.group) + " in step " +
                                 std::to_string(verdict.at.step);
  const std::string peers =
      std::to_string(verdict.peers) + (verdict.peers == 1 ? " peer" : " peers");
  switch (verdict.reason) {
    case StallReason::none:
      return {};
    case StallReason::dead:
      return "its process is dead";
    case StallReason::dumping_core:
      return "its process is dumping core";
    case StallReason::stopped:
      return "its process is stopped by a signal";
    case StallReason::before_collective:
      return "has not entered " + collective + "; " + peers +
             (verdict.peers == 1 ? " is" : " are") + " in it";
    case StallReason::inside_collective:
      return "inside " + collective + "; " + peers + (verdict.peers == 1 ? " has" : " have") +
             " left it";
    case StallReason::all_inside:
      return "all ranks are inside " + collective + " and none has left it: no rank can be named";
    case StallReason::not_visible:
      return "does not move; the cause is not visible from the host";
    case StallReason::waiting_for_peer:
      return "waits in " + collective + " for others";
  }
  return {};
}

}  // namespace rankbus
