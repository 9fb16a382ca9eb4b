#include <algorithm>
#include <rankbus/producer/simulator/engine_core.hpp>

namespace rankbus::simulator {

EngineCore::EngineCore(const Workload& workload, const EngineLimits& limits,
                       const StepTimeModel& model, std::uint32_t engine, std::uint32_t engines,
                       std::uint32_t front_ends)
    : model_(workload, limits) {
  std::vector<std::uint64_t> intake_ends_ns(front_ends);
  for (std::uint32_t request = 0; request < workload.requests.size(); ++request) {
    if (engine_of(request, engines) != engine) continue;
    if (!model_.accepts(request)) {
      ++refused_;
      continue;
    }
    const Request& r = workload.requests[request];
    std::uint64_t& intake_end_ns = intake_ends_ns[front_end_of(request, engines, front_ends)];
    intake_end_ns = std::max(r.arrival_ns, intake_end_ns) + model.intake_ns +
                    model.intake_token_ns * r.prompt_tokens;
    arrivals_.push_back({request, intake_end_ns});
  }
  // One front end may overtake another that tokenizes a long prompt.
  std::stable_sort(arrivals_.begin(), arrivals_.end(), [](const Arrival& a, const Arrival& b) {
    return a.intake_end_ns < b.intake_end_ns;
  });
}

std::span<const Output> EngineCore::end_step() {
  const auto outputs = model_.end_step();
  for (const Output& output : outputs) finished_ += output.finished != FinishedBy::nothing;
  return outputs;
}

void EngineCore::admit_arrivals(std::uint64_t now_ns) {
  for (; next_ < arrivals_.size() && next_arrival_ns() <= now_ns; ++next_) {
    model_.enqueue(arrivals_[next_].request, now_ns);
  }
}

}  // namespace rankbus::simulator
