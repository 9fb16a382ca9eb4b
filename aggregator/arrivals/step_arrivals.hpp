// aggregator/arrivals/step_arrivals.hpp: who came late to the steps of one pipeline stage, by the
// records that every worker writes once a step.
//
// Evidence `host_step`: when each host began its forward call. A host may run ahead of its device,
// and then being late costs nobody anything; so it counts as late only from the moment when its
// device ran dry. All members leave the last collective of a step together, so that is the earliest
// moment at which any of them had the step before on its host. A step whose predecessor is not
// known charges nobody.
//
// Evidence `device_step`: how long each device stood idle before the step, by two events on its own
// stream. All devices begin to idle together, so that the idle gap less the smallest one is
// lateness, without any common clock, and under CUDA graphs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <rankbus/aggregator/arrivals/arrival_tally.hpp>
#include <rankbus/aggregator/arrivals/group_joins.hpp>
#include <span>
#include <utility>
#include <vector>

namespace rankbus {

// One member's step, on one clock for all members of this host.
struct StepPassage {
  static constexpr std::int64_t kUnknown = std::numeric_limits<std::int64_t>::min();

  std::int64_t entry_ns = kUnknown;  // The forward call began.
  std::int64_t ready_ns = kUnknown;  // The output was on the host.
  std::int64_t gap_ns = kUnknown;    // The device stood idle before.

  bool operator==(const StepPassage&) const = default;
};

class StepArrivals {
 public:
  // Costs under each evidence that the step had.
  using OnStep = std::function<void(std::uint64_t step, std::span<const StepPassage> told,
                                    const std::optional<JoinCost>& host,
                                    const std::optional<JoinCost>& device)>;

  explicit StepArrivals(std::uint32_t places, OnStep on_step = {})
      : joins_(places, [this](std::uint64_t step, auto told) { add(step, told); }),
        host_(places),
        device_(places),
        arrivals_ns_(places),
        on_step_(std::move(on_step)) {}
  StepArrivals(const StepArrivals&) = delete;
  StepArrivals& operator=(const StepArrivals&) = delete;

  GroupJoins<StepPassage>& joins() { return joins_; }
  const GroupJoins<StepPassage>& joins() const { return joins_; }
  const ArrivalLedger& host() const { return host_; }
  const ArrivalLedger& device() const { return device_; }

 private:
  void add(std::uint64_t step, std::span<const StepPassage> told) {
    std::optional<JoinCost> host, device;
    if (told.size() > 1) {
      host = add_host(step, told);
      device = add_device(told);
    }
    dry_ns_ = StepPassage::kUnknown;
    for (const StepPassage& each : told) {
      if (each.ready_ns == StepPassage::kUnknown) continue;
      dry_ns_ = dry_ns_ == StepPassage::kUnknown ? each.ready_ns : std::min(dry_ns_, each.ready_ns);
    }
    next_step_ = step + 1;
    if (on_step_) on_step_(step, told, host, device);
  }

  std::optional<JoinCost> add_host(std::uint64_t step, std::span<const StepPassage> told) {
    if (step != next_step_ || dry_ns_ == StepPassage::kUnknown) return std::nullopt;
    for (std::size_t place = 0; place < told.size(); ++place) {
      arrivals_ns_[place] = std::max(told[place].entry_ns, dry_ns_);
    }
    return host_.add(arrivals_ns_);
  }

  std::optional<JoinCost> add_device(std::span<const StepPassage> told) {
    for (std::size_t place = 0; place < told.size(); ++place) {
      if (told[place].gap_ns == StepPassage::kUnknown) return std::nullopt;
      arrivals_ns_[place] = told[place].gap_ns;
    }
    return device_.add(arrivals_ns_);
  }

  GroupJoins<StepPassage> joins_;
  ArrivalLedger host_;
  ArrivalLedger device_;
  std::vector<std::int64_t> arrivals_ns_;
  OnStep on_step_;
  std::uint64_t next_step_ = 0;
  std::int64_t dry_ns_ = StepPassage::kUnknown;  // After the step before `next_step_`.
};

}  // namespace rankbus
