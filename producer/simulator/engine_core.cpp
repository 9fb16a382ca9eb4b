#include <algorithm>
#include <rankbus/producer/simulator/engine_core.hpp>

namespace rankbus::simulator {

EngineCore::EngineCore(const Workload& workload, const EngineLimits& limits,
                       const StepTimeModel& model, std::uint32_t engine, std::uint32_t engines)
    : model_(workload, limits) {
  std::uint64_t intake_end_ns = 0;
  for (std::uint32_t request = 0; request < workload.requests.size(); ++request) {
    if (engine_of(request, engines) != engine) continue;
    if (!model_.accepts(request)) {
      ++refused_;
      continue;
    }
    const Request& r = workload.requests[request];
    intake_end_ns = std::max(r.arrival_ns, intake_end_ns) + model.intake_ns +
                    model.intake_token_ns * r.prompt_tokens;
    arrivals_.push_back({request, intake_end_ns});
  }
}

void EngineCore::admit_arrivals(std::uint64_t now_ns) {
  for (; next_ < arrivals_.size() && next_arrival_ns() <= now_ns; ++next_) {
    model_.enqueue(arrivals_[next_].request, now_ns);
  }
}

}  // namespace rankbus::simulator
