#include <optional>
#include <rankbus/aggregator/connector_pool.hpp>
#include <rankbus/aggregator/field_value.hpp>
#include <string_view>

namespace rankbus {
namespace {

using bus::Kind;

// The fields of one record by name. What a stream does not have, or a record leaves absent, counts
// as not told: the stream may be of another version, or a stranger's.
class Fields {
 public:
  Fields(const SegmentReader& reader, const Sample& sample) : reader_(reader), sample_(sample) {}

  std::optional<std::uint64_t> whole(std::string_view name) const {
    const int field = scalar(name);
    if (field < 0) return std::nullopt;
    const bus::Type type = plan(field).type;
    const std::uint64_t raw = sample_.raw(field);
    if (type == bus::Type::f64 || type == bus::Type::i64 || bus::is_absent(type, raw))
      return std::nullopt;
    return raw;
  }
  std::uint64_t count(std::string_view name) const { return whole(name).value_or(0); }
  std::optional<double> real(std::string_view name) const {
    const int field = scalar(name);
    if (field < 0 || plan(field).type != bus::Type::f64) return std::nullopt;
    return finite(sample_.raw(field));
  }
  std::string label(std::string_view name) const {
    const int field = scalar(name);
    if (field < 0 || plan(field).kind != Kind::label) return "other";
    return label_text(reader_, sample_.stream.fields[static_cast<std::size_t>(field)],
                      sample_.raw(field));
  }

  static std::optional<double> finite(std::uint64_t bits) {
    if (bus::is_nan_or_infinite(bits)) return std::nullopt;
    return bus::double_of(bits);
  }

 private:
  const bus::FieldPlan& plan(int field) const { return sample_.stream.plan.fields[field]; }
  int scalar(std::string_view name) const {
    const int field = sample_.stream.find(name);
    return field >= 0 && plan(field).capacity == 1 ? field : -1;
  }

  const SegmentReader& reader_;
  const Sample& sample_;
};

template <class Stats>
void pool_posted_transfer(const Fields& fields, Stats& stats) {
  if (const auto duration_s = fields.real("transfer_duration_seconds")) {
    stats.add_transfer(*duration_s, fields.real("post_duration_seconds"),
                       fields.count("bytes_transferred"), fields.count("num_descriptors"));
  }
  stats.add_failed_transfers(fields.count("num_failed_transfers"));
  stats.add_failed_notifications(fields.count("num_failed_notifications"));
  stats.add_expired_requests(fields.count("num_kv_expired_reqs"));
}

void pool_mooncake(const Fields& fields, MooncakeTransferStats& stats) {
  if (const auto duration_s = fields.real("transfer_duration_seconds")) {
    stats.add_transfer(*duration_s, fields.count("bytes_transferred"),
                       fields.count("num_descriptors"));
  }
  stats.add_failed_transfers(fields.count("num_failed_transfers"));
  stats.add_failed_receives(fields.count("num_failed_recvs"));
  stats.add_expired_requests(fields.count("num_kv_expired_reqs"));
}

void pool_store_operation(const Fields& fields, MooncakeStoreStats& stats) {
  const auto duration_s = fields.real("duration_seconds");
  if (!duration_s) return;
  MooncakeStoreStats::Operation operation;
  operation.duration_s = *duration_s;
  operation.keys = fields.count("num_keys");
  operation.bytes = fields.count("num_bytes");
  operation.failed_keys = fields.count("num_failed_keys");
  operation.is_error = fields.label("status") == "error";
  stats.add(fields.label("operation"), operation);
}

// A value as its record holds it; none if it is absent or no number.
std::optional<Number> number_of(bus::Type type, std::uint64_t raw) {
  if (bus::is_absent(type, raw)) return std::nullopt;
  if (type == bus::Type::i64) return static_cast<std::int64_t>(raw);
  if (type != bus::Type::f64) return raw;
  if (const auto value = Fields::finite(raw)) return *value;
  return std::nullopt;
}

// Calls `take` with every number of every field that is summed, set or observed. Scalars count
// with the first part of a record only.
template <class Take>
void for_each_number(const Sample& sample, Take take) {
  for (std::size_t f = 0; f < sample.stream.fields.size(); ++f) {
    const FieldSchema& field = sample.stream.fields[f];
    const bus::FieldPlan& plan = sample.stream.plan.fields[f];
    const bool is_told =
        plan.kind == Kind::counter || plan.kind == Kind::gauge || plan.kind == Kind::distribution;
    // What is kept by rank is no part of the connector's own report.
    if (!is_told || field.reduction == bus::Reduction::each) continue;
    const int index = static_cast<int>(f);
    if (plan.capacity == 1) {
      if (sample.part() != 0) continue;
      if (const auto value = number_of(plan.type, sample.raw(index))) take(field, plan, *value);
      continue;
    }
    for (std::size_t i = 0; i < sample.count(index); ++i) {
      if (const auto value = number_of(plan.type, sample.element(index, i)))
        take(field, plan, *value);
    }
  }
}

bool is_zero(const Number& number) {
  return std::visit([](auto value) { return value == 0; }, number);
}

// Under the names of the families, as vLLM's payload has them: without `_total`, and without
// what was not told in the interval.
void pool_offloading(const Sample& sample, OffloadingStats& stats) {
  for_each_number(
      sample, [&](const FieldSchema& field, const bus::FieldPlan& plan, const Number& value) {
        std::string_view name = field.metric;
        constexpr std::string_view kTotal = "_total";
        if (name.size() > kTotal.size() && name.substr(name.size() - kTotal.size()) == kTotal)
          name.remove_suffix(kTotal.size());
        if (plan.kind == Kind::distribution) {
          stats.observe(name, value);
        } else if (plan.kind == Kind::gauge) {
          stats.set_gauge(name, value);
        } else if (!is_zero(value)) {
          stats.add_to_counter(name, value);
        }
      });
}

void pool_user_connector(const Sample& sample, UserConnectorStats& stats) {
  for_each_number(sample,
                  [&](const FieldSchema& field, const bus::FieldPlan& plan, const Number& value) {
                    if (plan.kind == Kind::distribution) {
                      stats.observe(field.name, as_double(value));
                    } else if (plan.kind == Kind::counter) {
                      stats.add_to_counter(field.name, value);
                    }
                  });
}

}  // namespace

void pool_connector_sample(const std::string& connector, const SegmentReader& reader,
                           const Sample& sample, MultiConnectorStats& stats) {
  const Fields fields(reader, sample);
  if (connector == "nixl") {
    if (auto* own = stats.child<NixlStats>(connector)) pool_posted_transfer(fields, *own);
  } else if (connector == "moriio") {
    if (auto* own = stats.child<MoriioStats>(connector)) pool_posted_transfer(fields, *own);
  } else if (connector == "mooncake") {
    if (auto* own = stats.child<MooncakeTransferStats>(connector)) pool_mooncake(fields, *own);
  } else if (connector == "mooncake_store") {
    if (auto* own = stats.child<MooncakeStoreStats>(connector)) pool_store_operation(fields, *own);
  } else if (connector == "offloading") {
    if (auto* own = stats.child<OffloadingStats>(connector)) pool_offloading(sample, *own);
  } else if (connector == "hisparse") {
    if (auto* own = stats.child<HiSparseStats>(connector)) {
      own->add(fields.count("cache_hits"), fields.count("cache_misses"),
               fields.count("host_to_device_bytes"));
    }
  } else {
    if (auto* own = stats.child<UserConnectorStats>(connector)) pool_user_connector(sample, *own);
  }
}

}  // namespace rankbus
