#include <rankbus/aggregator/goodput.hpp>

namespace rankbus {

GoodputJudge::GoodputJudge(const StreamSchema& stream)
    : first_token_(stream.find("time_to_first_token_seconds")),
      queued_(stream.find("queued_time_seconds")),
      prefill_(stream.find("prefill_time_seconds")),
      per_token_(stream.find("mean_time_per_output_token_seconds")),
      end_to_end_(stream.find("e2e_latency_seconds")),
      reason_(stream.find("finished_reason")) {}

// A time that the record does not know is none, and breaks no promise.
std::optional<double> GoodputJudge::seconds(const Sample& sample, int field) const {
  if (field < 0) return std::nullopt;
  const bus::FieldPlan& plan = sample.stream.plan.fields[field];
  if (plan.type != bus::Type::f64 || plan.capacity != 1) return std::nullopt;
  const std::uint64_t bits = sample.raw(field);
  if (bus::is_nan_or_infinite(bits)) return std::nullopt;
  return bus::double_of(bits);
}

void GoodputJudge::judge(const Sample& sample, const SloLimits& limits, Goodput& into) const {
  const auto misses = [](std::optional<double> time_s, std::optional<double> limit_s) {
    return time_s && limit_s && *time_s > *limit_s;
  };
  const std::optional<double> measured_s = seconds(sample, first_token_);
  std::optional<double> estimated_s = seconds(sample, prefill_);
  if (const auto queued_s = seconds(sample, queued_); estimated_s && queued_s)
    *estimated_s += *queued_s;
  const bool late_first = misses(measured_s ? measured_s : estimated_s, limits.ttft_s);
  const bool slow = misses(seconds(sample, per_token_), limits.inter_token_s);
  const bool late_end = misses(seconds(sample, end_to_end_), limits.end_to_end_s);
  bool failed = false;
  if (reason_ >= 0) {
    const FieldSchema& field = sample.stream.fields[static_cast<std::size_t>(reason_)];
    const std::uint64_t reason = sample.raw(reason_);
    if (reason >= 1 && reason <= field.domain.size()) {
      const std::string& text = field.domain[reason - 1];
      failed = text == "abort" || text == "error";
    }
  }
  if (late_first) ++(measured_s ? into.missed_ttft : into.missed_ttft_estimate);
  into.missed_inter_token += slow ? 1 : 0;
  into.missed_end_to_end += late_end ? 1 : 0;
  into.failed += failed ? 1 : 0;
  ++(late_first || slow || late_end || failed ? into.missed : into.met);
}

}  // namespace rankbus
