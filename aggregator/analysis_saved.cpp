// The counters of the analyses that only samples tell, as the ledger keeps them.
#include <exception>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <sstream>
#include <utility>
#include <vector>

namespace rankbus {
namespace {

constexpr std::uint32_t kFormat = 2;

struct SavedCount {
  std::string family;
  Labels labels;
  std::uint64_t count = 0;
};
struct SavedEngine {
  Identity who;
  Goodput goodput;
  std::vector<SavedCount> counts;
};

template <class Archive>
void stored(Archive& archive, std::vector<SavedEngine>& saved) {
  std::uint32_t format = kFormat;
  archive(format);
  if (format != kFormat) throw std::runtime_error("a format of another version");
  ledger::list(archive, saved, [&](SavedEngine& engine) {
    ledger::fields(archive, engine.who);
    archive(engine.goodput);
    ledger::list(archive, engine.counts, [&](SavedCount& count) {
      ledger::text(archive, count.family);
      ledger::list(archive, count.labels, [&](auto& label) {
        ledger::text(archive, label.first);
        ledger::text(archive, label.second);
      });
      archive(count.count);
    });
  });
}

}  // namespace

std::string AnalysisFeed::saved_counters() const {
  std::vector<SavedEngine> saved;
  for (const auto& [key, engine] : engines_) {
    SavedEngine one{engine->who, engine->goodput, {}};
    for (const auto& [series, count] : engine->block_counters())
      one.counts.push_back({series.first, series.second, count});
    if (!one.goodput.is_empty() || !one.counts.empty()) saved.push_back(std::move(one));
  }
  std::ostringstream stream(std::ios::binary);
  cereal::PortableBinaryOutputArchive archive(stream);
  stored(archive, saved);
  return stream.str();
}

bool AnalysisFeed::restore_untrusted(std::string_view bytes) {
  std::vector<SavedEngine> saved;
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    stored(archive, saved);
  } catch (const std::exception&) {
    return false;
  }
  for (const SavedEngine& one : saved) {
    if (engines_.size() >= kMaxEngines) return true;
    std::unique_ptr<Engine>& engine = engines_[engine_of(one.who)];
    if (!engine) engine = std::make_unique<Engine>();
    engine->who = one.who;
    engine->goodput.aggregate(one.goodput);
    for (const SavedCount& count : one.counts)
      add_saturating(engine->carried[{count.family, count.labels}], count.count);
  }
  return true;
}

}  // namespace rankbus
