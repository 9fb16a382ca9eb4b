// aggregator/arrivals/stall_judge.hpp: which rank does not move, while who waits for it.
//
// A rank's status word proves what its host thread said last, no more, and a verdict never goes
// beyond it. Reasons are tried in this order: dead; dumping core; stopped by a signal (the pid is a
// hint, used only where it is visible); before the collective that peers are in (named); inside the
// collective that peers have left (named); all inside and none left (the collective is named, no
// rank); not moving, with the cause not visible; idle.
//
// Two degrees: `lagging` is shown when a rank has not moved for `lag_ns`, and never acted on;
// `stalled` after the longer of `stall_after_ns` and `longest_steps` times the longest step that
// the engine has finished. Before the engine's first finished step, and while any member starts,
// compiles, sleeps or reloads, nobody is stalled. All times are those of the clock that is handed
// in.
#pragma once

#include <cstdint>
#include <rankbus/bus/phase.hpp>
#include <span>
#include <string>
#include <vector>

namespace rankbus {

// A status word, taken apart.
struct RankPlace {
  std::uint32_t step = 0;     // Forward calls of this run.
  std::uint8_t group = 0;     // Index in the segment's table of groups.
  std::uint16_t ordinal = 0;  // Low bits of the collective's, in that group.
  Phase phase = Phase::unknown;

  bool operator==(const RankPlace&) const = default;
};

constexpr RankPlace place_of(std::uint64_t word) {
  return {static_cast<std::uint32_t>(word >> 32), static_cast<std::uint8_t>(word >> 24),
          static_cast<std::uint16_t>(word >> 8), static_cast<Phase>(word & 0xff)};
}

enum class ProcessState : std::uint8_t { running, stopped, dumping_core, dead };

// What is seen of one rank of an engine's stage; equal group indexes mean one communicator.
struct RankSight {
  ProcessState process = ProcessState::running;
  RankPlace place;
  std::int64_t unchanged_since_ns = 0;  // Neither its word nor a published count moved.
  bool has_said_anything = false;       // A worker that writes no status word is not judged by it.
};

enum class RankState : std::uint8_t { ok, idle, lagging, stalled, stopped, dead };

enum class StallReason : std::uint8_t {
  none,
  dead,
  dumping_core,
  stopped,
  before_collective,  // `peers` of its group are in it.
  inside_collective,  // `peers` of its group have left it.
  all_inside,         // Nobody can be named.
  not_visible,
  waiting_for_peer,  // Somebody else of its group is the cause.
};

struct RankVerdict {
  RankState state = RankState::ok;
  StallReason reason = StallReason::none;
  std::uint32_t peers = 0;
  RankPlace at;  // The collective that is meant, where one is.
  std::int64_t since_ns = 0;

  bool operator==(const RankVerdict&) const = default;
};

struct StallConfig {
  std::int64_t lag_ns = 500'000'000;
  std::int64_t stall_after_ns = 60'000'000'000;
  double longest_steps = 3;
};

// What the engine has done so far.
struct EngineProgress {
  bool has_finished_a_step = false;
  std::int64_t longest_step_ns = 0;
};

// One verdict for each rank.
std::vector<RankVerdict> judge_stalls(std::span<const RankSight> ranks,
                                      const EngineProgress& progress, std::int64_t now_ns,
                                      const StallConfig& config = {});

// "before collective 17 of group 0 in step 204, 3 peers are in it": for the log and the alert.
std::string text_of(const RankVerdict& verdict);
const char* name_of(RankState state);

}  // namespace rankbus
