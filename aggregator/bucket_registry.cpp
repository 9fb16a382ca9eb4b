#include <cmath>
#include <cstring>
#include <rankbus/aggregator/bucket_registry.hpp>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <rankbus/bus/limits.hpp>
#include <sstream>

namespace rankbus {
namespace {

Buckets buckets_of(const FieldValue& value) {
  return {value.bounds, value.classic_cells, value.cells.size()};
}

// One family of one engine, as it is stored.
struct Kept {
  Identity who;
  std::string family;
  std::vector<double> bounds;
  std::vector<std::uint16_t> classic_cells;
  std::uint64_t cells = 0;
  double since_s = 0;
};

template <class Archive>
void fields(Archive& archive, std::vector<Kept>& all) {
  ledger::list(archive, all, [&](Kept& each) {
    ledger::fields(archive, each.who);
    ledger::text(archive, each.family);
    ledger::list(archive, each.bounds, [&](double& bound) { archive(bound); });
    ledger::list(archive, each.classic_cells, [&](std::uint16_t& cell) { archive(cell); });
    archive(each.cells, each.since_s);
  });
}

}  // namespace

std::map<std::string, Buckets> buckets_of(const SegmentReader& reader) {
  std::map<std::string, Buckets> all;
  for (const StreamState& stream : reader.streams()) {
    for (std::size_t f = 0; f < stream.schema.fields.size(); ++f) {
      const FieldSchema& field = stream.schema.fields[f];
      const bus::FieldPlan& plan = stream.schema.plan.fields[f];
      if (field.metric.empty() || plan.kind != bus::Kind::distribution) continue;
      all.try_emplace(field.metric, Buckets{field.bounds, field.classic_cells, plan.row_words - 1});
    }
  }
  return all;
}

const BucketRegistry::Engine* BucketRegistry::engine_of(const Identity& who) const {
  const auto at = engines_.find(who.whole_engine());
  return at == engines_.end() ? nullptr : &at->second;
}

void BucketRegistry::meet(const Identity& who, const std::string& family, const Buckets& buckets) {
  Engine& engine = engines_[who.whole_engine()];
  const auto [at, fresh] = engine.families.try_emplace(family, Current{buckets});
  if (!fresh && !(at->second.buckets == buckets)) engine.is_mixed = true;
}

void BucketRegistry::meet(const Identity& who, const FieldValues& values) {
  for (const auto& [key, value] : values) {
    if (value.kind == bus::Kind::distribution) meet(who, key.first, buckets_of(value));
  }
}

bool BucketRegistry::is_mixed(const Identity& who) const {
  const Engine* engine = engine_of(who);
  return engine != nullptr && engine->is_mixed;
}

std::vector<Identity> BucketRegistry::mixed_engines() const {
  std::vector<Identity> mixed;
  for (const auto& [who, engine] : engines_) {
    if (engine.is_mixed) mixed.push_back(who);
  }
  return mixed;
}

bool BucketRegistry::has(const Identity& who, const std::string& family,
                         const Buckets& buckets) const {
  const Engine* engine = engine_of(who);
  if (engine == nullptr) return false;
  const auto at = engine->families.find(family);
  return at != engine->families.end() && at->second.buckets == buckets;
}

bool BucketRegistry::is_current(const Identity& who, const FieldKey& key,
                                const FieldValue& value) const {
  const Engine* engine = engine_of(who);
  if (engine == nullptr || !engine->is_mixed || value.kind != bus::Kind::distribution) return true;
  const auto at = engine->families.find(key.first);
  return at == engine->families.end() || at->second.buckets == buckets_of(value);
}

std::vector<std::string> BucketRegistry::apart(const Identity& who,
                                               const SegmentReader& reader) const {
  std::vector<std::string> families;
  const Engine* engine = engine_of(who);
  if (engine == nullptr || !engine->is_mixed) return families;
  for (const auto& [family, buckets] : buckets_of(reader)) {
    if (!has(who, family, buckets)) families.push_back(family);
  }
  return families;
}

void BucketRegistry::restart(const Identity& who, const std::string& family, const Buckets& buckets,
                             double now_realtime_s) {
  engines_[who.whole_engine()].families[family] = {buckets, now_realtime_s};
}

double BucketRegistry::since_s(const Identity& who, const std::string& family) const {
  const Engine* engine = engine_of(who);
  if (engine == nullptr || !engine->is_mixed) return 0;
  const auto at = engine->families.find(family);
  return at == engine->families.end() ? 0 : at->second.since_s;
}

std::string BucketRegistry::saved() const {
  std::vector<Kept> all;
  for (const auto& [who, engine] : engines_) {
    for (const auto& [family, current] : engine.families) {
      if (!engine.is_mixed) continue;
      const Buckets& buckets = current.buckets;
      all.push_back(
          {who, family, *buckets.bounds, buckets.classic_cells, buckets.cells, current.since_s});
    }
  }
  if (all.empty()) return {};
  std::ostringstream stream(std::ios::binary);
  {
    cereal::PortableBinaryOutputArchive archive(stream);
    fields(archive, all);
  }
  return std::move(stream).str();
}

// Bytes that are none of ours are no buckets: then those stand whose process is met first.
void BucketRegistry::restore_untrusted(std::string_view bytes) {
  if (bytes.empty()) return;
  std::vector<Kept> all;
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    fields(archive, all);
  } catch (const std::exception&) {
    return;
  }
  for (const Kept& each : all) {
    if (!std::isfinite(each.since_s) || each.cells > bus::kMaxCellsPerField) continue;
    Engine& engine = engines_[each.who.whole_engine()];
    engine.is_mixed = true;
    engine.families[each.family] = {
        {std::make_shared<const std::vector<double>>(each.bounds), each.classic_cells, each.cells},
        each.since_s};
  }
}

}  // namespace rankbus
