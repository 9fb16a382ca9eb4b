#include <cmath>
#include <rankbus/aggregator/goodput.hpp>
#include <rankbus/aggregator/sample_fields.hpp>

namespace rankbus {

GoodputJudge::GoodputJudge(const StreamSchema& stream)
    : first_token_(stream.find("time_to_first_token_seconds")),
      queued_(stream.find("queued_time_seconds")),
      prefill_(stream.find("prefill_time_seconds")),
      per_token_(stream.find("mean_time_per_output_token_seconds")),
      end_to_end_(stream.find("e2e_latency_seconds")),
      reason_(stream.find("finished_reason")),
      tokens_(find_scalars<1>(stream, {"num_generation_tokens"})[0]) {}

// None where the record does not know the time; infinite ones are known, and too long.
std::optional<double> GoodputJudge::seconds(const Sample& sample, int field) const {
  if (field < 0) return std::nullopt;
  const bus::FieldPlan& plan = sample.stream.plan.fields[field];
  if (plan.type != bus::Type::f64 || plan.capacity != 1) return std::nullopt;
  const double value = bus::double_of(sample.raw(field));
  // Workers may be compiled with -ffast-math, this is not.
  if (std::isnan(value)) return std::nullopt;
  return value;
}

bool GoodputJudge::has_failed(const Sample& sample) const {
  if (reason_ < 0) return false;
  const FieldSchema& field = sample.stream.fields[static_cast<std::size_t>(reason_)];
  const std::uint64_t reason = sample.raw(reason_);
  if (reason < 1 || reason > field.domain.size()) return false;
  const std::string& text = field.domain[reason - 1];
  return text == "abort" || text == "error";
}

void GoodputJudge::judge(const Sample& sample, const SloLimits& limits, Goodput& into) const {
  bool is_unknown = false;
  const auto misses = [&](std::optional<double> time_s, std::optional<double> limit_s) {
    is_unknown = is_unknown || (limit_s && !time_s);
    return time_s && limit_s && *time_s > *limit_s;
  };
  const std::optional<double> measured_s = seconds(sample, first_token_);
  std::optional<double> estimated_s = seconds(sample, prefill_);
  if (const auto queued_s = seconds(sample, queued_); estimated_s && queued_s)
    *estimated_s += *queued_s;
  const bool late_first = misses(measured_s ? measured_s : estimated_s, limits.ttft_s);
  // One token has no other one to wait for.
  std::optional<double> per_token_s = seconds(sample, per_token_);
  if (!per_token_s && whole(sample, tokens_) <= 1) per_token_s = 0;
  const bool slow = misses(per_token_s, limits.inter_token_s);
  const bool late_end = misses(seconds(sample, end_to_end_), limits.end_to_end_s);
  const bool failed = has_failed(sample);
  if (limits.ttft_s && !measured_s && estimated_s) ++into.estimated;
  if (late_first) ++(measured_s ? into.missed_ttft : into.missed_ttft_estimate);
  into.missed_inter_token += slow ? 1 : 0;
  into.missed_end_to_end += late_end ? 1 : 0;
  into.failed += failed ? 1 : 0;
  const bool is_missed = late_first || slow || late_end || failed;
  ++(is_missed ? into.missed : is_unknown ? into.unknown : into.met);
}

}  // namespace rankbus
