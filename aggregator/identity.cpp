#include <algorithm>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/bus/segment.hpp>
#include <rankbus/exporters/utf8.hpp>

namespace rankbus {

std::string as_utf8_untrusted(std::string_view text) {
  std::string clean;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint next = read_utf8_untrusted(text, at);
    clean += next.valid ? text.substr(at, next.bytes) : kReplacementCharacter;
    at += next.bytes;
  }
  return clean;
}

Labels joined(const Labels& a, const Labels& b) {
  Labels all = a;
  all.insert(all.end(), b.begin(), b.end());
  const auto by_name = [](const auto& x, const auto& y) { return x.first < y.first; };
  std::stable_sort(all.begin(), all.end(), by_name);
  const auto same_name = [](const auto& x, const auto& y) { return x.first == y.first; };
  all.erase(std::unique(all.begin(), all.end(), same_name), all.end());
  return all;
}

Labels rank_labels(const Identity& who) {
  Labels own{{"rank", who.rank == bus::kNoRank ? std::string() : std::to_string(who.rank)},
             {"role", bus::role_name(who.role)}};
  if (who.lane != 0) own.emplace_back("lane", std::to_string(who.lane));
  return joined(engine_labels(who), own);
}

}  // namespace rankbus
