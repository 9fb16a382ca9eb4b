// One engine's life: its share of the requests, the time at which each reaches the scheduler, and
// the scheduler itself. Knows no clock: the caller passes the time, virtual or real.
#pragma once

#include <cstdint>
#include <optional>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <rankbus/producer/simulator/step_time.hpp>
#include <span>
#include <vector>

namespace rankbus::simulator {

// Maps model time to the clock's. At infinite speed everything takes no time.
struct TimeScale {
  std::uint64_t origin_ns = 0;  // the clock's reading at model time 0
  double speed = 1;

  std::uint64_t duration_ns(std::uint64_t model_ns) const {
    // The virtual clock must not go through floating point.
    return speed == 1 ? model_ns
                      : static_cast<std::uint64_t>(static_cast<double>(model_ns) / speed);
  }
  std::uint64_t clock_ns(std::uint64_t model_ns) const { return origin_ns + duration_ns(model_ns); }
};

// Requests go to engines in turn, in the order of their arrival. That is fair to queue lengths
// without any engine knowing another's, and it is the same on both clocks.
constexpr std::uint32_t engine_of(std::uint32_t request, std::uint32_t engines) {
  return request % engines;
}

// The front ends of an engine take its requests in turn.
constexpr std::uint32_t front_end_of(std::uint32_t request, std::uint32_t engines,
                                     std::uint32_t front_ends) {
  return request / engines % front_ends;
}

class EngineCore {
 public:
  // `workload` must outlive the core.
  EngineCore(const Workload& workload, const EngineLimits& limits, const StepTimeModel& model,
             std::uint32_t engine, std::uint32_t engines, std::uint32_t front_ends = 1);

  // The clock may be chosen after construction, but before anything else is called.
  void set_time_scale(const TimeScale& scale) { scale_ = scale; }

  // `observer` must outlive the core.
  void watch_blocks(BlockObserver& observer) { model_.watch_blocks(observer); }

  bool finished() const { return !model_.has_work() && next_ == arrivals_.size(); }
  bool idle() const { return !model_.has_work(); }
  // When the next request reaches the scheduler. Needs idle() and not finished().
  std::uint64_t next_arrival_ns() const { return scale_.clock_ns(arrivals_[next_].intake_end_ns); }

  // Queues everything that has reached the scheduler by now.
  void admit_arrivals(std::uint64_t now_ns);
  const StepWork& begin_step(std::uint64_t now_ns) { return model_.begin_step(now_ns); }
  std::span<const Output> end_step();
  SchedulerCounts take_counts() { return model_.take_counts(); }

  const EngineModel& model() const { return model_; }
  // Accepted requests that have not had their last token, arrived or not.
  std::uint64_t unfinished() const { return arrivals_.size() - finished_; }
  // Requests that the front end refused because their prompt is longer than a sequence may be.
  std::uint32_t refused() const { return refused_; }

 private:
  struct Arrival {
    std::uint32_t request;
    std::uint64_t intake_end_ns;
  };

  EngineModel model_;
  std::vector<Arrival> arrivals_;
  std::size_t next_ = 0;
  std::size_t finished_ = 0;
  std::uint32_t refused_ = 0;
  TimeScale scale_;
};

}  // namespace rankbus::simulator
