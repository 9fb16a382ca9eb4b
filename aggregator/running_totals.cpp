#include <algorithm>
#include <exception>
#include <istream>
#include <limits>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <rankbus/aggregator/running_totals.hpp>
#include <rankbus/bus/limits.hpp>
#include <sstream>

namespace rankbus {
namespace {

using bus::Type;
using bus::Word;

bool has_fallen(Type type, Word before, Word now) {
  if (type == Type::f64) return bus::double_of(now) < bus::double_of(before);
  if (type == Type::i64) return static_cast<std::int64_t>(now) < static_cast<std::int64_t>(before);
  return now < before;
}

}  // namespace

Word sum_of(Type type, Word a, Word b) {
  if (type != Type::f64) return a + b;
  const Word sum = bus::add_double_bits(a, b);
  return bus::is_nan_or_infinite(sum) ? bus::bits_of(std::numeric_limits<double>::max()) : sum;
}

RunningTotals::RunningTotals(const bus::StreamPlan& plan) {
  for (std::uint32_t f = 0; f < plan.field_count; ++f) {
    const bus::FieldPlan& field = plan.fields[f];
    if (field.kind != bus::Kind::running_total) continue;
    const std::uint32_t rows = field.by_labels != 0 ? plan.label_rows : 1;
    for (std::uint32_t row = 0; row < rows; ++row)
      all_.push_back({field.totals_offset + row * field.row_words, field.type});
  }
}

void RunningTotals::note(const std::vector<Word>& totals, std::uint64_t position) {
  if (position < known_) return;
  for (Each& each : all_) {
    const Word now = totals[each.word];
    if (has_fallen(each.type, each.last, now))
      each.before = sum_of(each.type, each.before, each.last);
    each.last = now;
  }
}

Word RunningTotals::whole(std::uint32_t word, Word now) const {
  const auto at =
      std::lower_bound(all_.begin(), all_.end(), word,
                       [](const Each& each, std::uint32_t wanted) { return each.word < wanted; });
  return at == all_.end() || at->word != word ? now : sum_of(at->type, at->before, now);
}

std::string RunningTotals::saved(std::uint64_t position) const {
  std::vector<Each> some;
  for (const Each& each : all_) {
    const bool says_something = each.before != 0 || each.last != 0;
    if (says_something && some.size() < bus::kMaxSeriesPerSegment) some.push_back(each);
  }
  if (some.empty()) return {};
  std::ostringstream stream(std::ios::binary);
  {
    cereal::PortableBinaryOutputArchive archive(stream);
    archive(std::max(position, known_));
    ledger::list(archive, some, [&](Each& each) { archive(each.word, each.before, each.last); });
  }
  return std::move(stream).str();
}

void RunningTotals::restore_untrusted(std::string_view bytes) {
  if (bytes.empty()) return;
  std::vector<Each> some;
  std::uint64_t position = 0;
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    archive(position);
    ledger::list(archive, some, [&](Each& each) { archive(each.word, each.before, each.last); });
  } catch (const std::exception&) {
    return;
  }
  known_ = position;
  for (const Each& each : some) {
    const auto at = std::find_if(all_.begin(), all_.end(),
                                 [&](const Each& own) { return own.word == each.word; });
    if (at == all_.end()) continue;
    const auto finite = [&](Word value) {
      return at->type != Type::f64 || !bus::is_nan_or_infinite(value) ? value : 0;
    };
    at->before = finite(each.before);
    at->last = finite(each.last);
  }
}

}  // namespace rankbus
