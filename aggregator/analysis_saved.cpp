// The counters of the analyses that only samples tell, as the ledger keeps them.
#include <exception>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <sstream>
#include <utility>
#include <vector>

namespace rankbus {
namespace {

constexpr std::uint32_t kFormat = 1;

using SavedGoodput = std::vector<std::pair<Identity, Goodput>>;

template <class Archive>
void stored(Archive& archive, SavedGoodput& saved) {
  std::uint32_t format = kFormat;
  archive(format);
  if (format != kFormat) throw std::runtime_error("a format of another version");
  ledger::list(archive, saved, [&](auto& engine) {
    ledger::fields(archive, engine.first);
    archive(engine.second);
  });
}

}  // namespace

std::string AnalysisFeed::saved_counters() const {
  SavedGoodput saved;
  for (const auto& [key, engine] : engines_) {
    if (!engine->goodput.is_empty()) saved.emplace_back(engine->who, engine->goodput);
  }
  std::ostringstream stream(std::ios::binary);
  cereal::PortableBinaryOutputArchive archive(stream);
  stored(archive, saved);
  return stream.str();
}

bool AnalysisFeed::restore_untrusted(std::string_view bytes) {
  SavedGoodput saved;
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    stored(archive, saved);
  } catch (const std::exception&) {
    return false;
  }
  for (const auto& [who, goodput] : saved) {
    if (engines_.size() >= kMaxEngines) return true;
    std::unique_ptr<Engine>& engine = engines_[EngineKey{who.server, who.model, who.engine}];
    if (!engine) engine = std::make_unique<Engine>();
    engine->who = who;
    engine->goodput.aggregate(goodput);
  }
  return true;
}

}  // namespace rankbus
