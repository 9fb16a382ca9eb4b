#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <ostream>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <rankbus/aggregator/ledger_image.hpp>
#include <rankbus/bus/declaration.hpp>
#include <rankbus/bus/limits.hpp>
#include <stdexcept>
#include <tuple>

namespace rankbus {
namespace {

using ledger::fields;
using ledger::list;
using ledger::text;

constexpr char kMagic[8] = {'R', 'B', 'L', 'E', 'D', 'G', 'E', 'R'};
constexpr std::size_t kHeadBytes = 32;

// Sections are those of feeds, which bound what they keep.
constexpr std::uint64_t kMaxSectionBytes = 64ull << 20;

// The same word is always the same step, and each step is reversible: one changed word changes the
// sum.
std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t sum = 0x9e3779b97f4a7c15ull ^ bytes.size();
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at));
    sum = (sum ^ word) * 0xff51afd7ed558ccdull;
    sum ^= sum >> 32;
  }
  return sum;
}

// What values of one field have in common; written once for all identities that have it.
struct Shape {
  std::string family;
  std::uint8_t kind = 0, type = 0, unit = 0, reduction = 0;
  std::vector<double> bounds;
  std::vector<std::uint16_t> classic_cells;
  std::uint32_t cells = 0;

  auto tie() const {
    return std::tie(family, kind, type, unit, reduction, cells, bounds, classic_cells);
  }
  bool operator<(const Shape& other) const { return tie() < other.tie(); }
};
struct KeptShape {
  Shape shape;
  std::string help;
  std::shared_ptr<const std::vector<double>> bounds;  // Shared by all values read back.
};
struct KeptValue {
  std::uint64_t shape = 0;
  Labels labels;
  std::uint64_t bits = 0, records = 0;
  std::vector<std::pair<std::uint16_t, std::uint64_t>> cells;  // Those that are not 0.
};
using KeptValues = std::vector<KeptValue>;
using KeptStreams = std::vector<std::pair<std::string, StreamCounts>>;
struct KeptIdentity {
  Identity who;
  IdentityState state;  // Without its values and streams.
  KeptValues values;
  KeptStreams streams;
};
struct KeptIncarnation {
  std::string segment;
  LedgerIncarnation state;  // Without its totals.
  KeptValues totals;
};
// Bytes of either, made before.
struct Encoded {
  const std::string* bytes = nullptr;
};
template <class OneIdentity, class OneIncarnation>
struct KeptAs {
  LedgerImage head;  // Its plain members and sections.
  std::vector<KeptShape> shapes;
  std::vector<OneIdentity> identities;
  std::vector<OneIncarnation> incarnations;
  std::vector<std::string> retired;
  std::vector<std::pair<std::string, std::string>> sections;
};
using Kept = KeptAs<KeptIdentity, KeptIncarnation>;

// Ledgers of earlier formats are read, so that no count begins again with an upgrade.
struct InputArchive : cereal::PortableBinaryInputArchive {
  InputArchive(std::istream& stream, std::uint32_t of_format)
      : cereal::PortableBinaryInputArchive(stream), format(of_format) {}
  std::uint32_t format;
};
std::uint32_t format_of(const InputArchive& archive) {
  return archive.format;
}
struct OutputArchive : cereal::PortableBinaryOutputArchive {
  using cereal::PortableBinaryOutputArchive::PortableBinaryOutputArchive;
  static constexpr bool kIsBounded = true;
};
std::uint32_t format_of(const OutputArchive&) {
  return kLedgerFormat;
}

// What is stored of each type; see ledger_archive.hpp.
template <class Archive>
void fields(Archive& archive, StreamCounts& counts) {
  archive(counts.records, counts.lost_lapped);
  // Format 1 did not tell these apart from what was never read.
  if (format_of(archive) >= 2) archive(counts.lost_quarantined);
  archive(counts.abandoned, counts.verified, counts.skipped, counts.mismatches, counts.invalid,
          counts.negative, counts.label_overflow);
}

template <class Archive>
void fields(Archive& archive, bus::ClockSource& source) {
  auto number = static_cast<std::uint32_t>(source);
  archive(number);
  if (number < 1 || number > 3) throw std::runtime_error("an unknown clock");
  source = static_cast<bus::ClockSource>(number);
}

template <class Archive>
void fields(Archive& archive, KeptShape& kept) {
  Shape& shape = kept.shape;
  text(archive, shape.family);
  text(archive, kept.help);
  archive(shape.kind, shape.type, shape.unit, shape.reduction, shape.cells);
  const std::uint64_t most = bus::kMaxCellsPerField;
  list(
      archive, shape.bounds, [&](double& bound) { archive(bound); }, most);
  list(
      archive, shape.classic_cells, [&](std::uint16_t& cell) { archive(cell); }, most);
}

template <class Archive>
void fields(Archive& archive, KeptValue& value) {
  archive(value.shape, value.bits, value.records);
  list(archive, value.labels, [&](auto& label) {
    text(archive, label.first);
    text(archive, label.second);
  });
  list(archive, value.cells, [&](auto& cell) { archive(cell.first, cell.second); });
}

template <class Archive>
void fields(Archive& archive, KeptValues& values) {
  list(archive, values, [&](KeptValue& value) { fields(archive, value); });
}

template <class Archive>
void fields(Archive& archive, KeptStreams& streams) {
  list(archive, streams, [&](auto& stream) {
    text(archive, stream.first);
    fields(archive, stream.second);
  });
}

template <class Archive>
void fields(Archive& archive, KeptIdentity& kept) {
  fields(archive, kept.who);
  IdentityState& state = kept.state;
  archive(state.retired.incarnations, state.last_alive_s, state.began_ns, state.began_ticks,
          state.began_realtime_s, state.last_stamp, state.last_active_s, state.ranks_expected);
  fields(archive, state.last_source);
  fields(archive, kept.values);
  fields(archive, kept.streams);
}

template <class Archive>
void fields(Archive& archive, KeptIncarnation& kept) {
  text(archive, kept.segment);
  fields(archive, kept.state.who);
  text(archive, kept.state.quarantine);
  archive(kept.state.last_stamp, kept.state.last_active_s);
  fields(archive, kept.state.last_source);
  fields(archive, kept.state.streams);
  fields(archive, kept.totals);
}

void fields(OutputArchive& archive, Encoded& encoded) {
  archive(cereal::binary_data(encoded.bytes->data(), encoded.bytes->size()));
}

template <class Archive, class OneIdentity, class OneIncarnation>
void fields(Archive& archive, KeptAs<OneIdentity, OneIncarnation>& kept) {
  archive(kept.head.generation, kept.head.written_s, kept.head.written_realtime_s);
  archive(cereal::binary_data(kept.head.boot_id.data(), kept.head.boot_id.size()));
  list(archive, kept.shapes, [&](KeptShape& shape) { fields(archive, shape); });
  list(archive, kept.identities, [&](OneIdentity& each) { fields(archive, each); });
  list(archive, kept.incarnations, [&](OneIncarnation& each) { fields(archive, each); });
  list(archive, kept.retired, [&](std::string& name) { text(archive, name); });
  list(archive, kept.sections, [&](auto& section) {
    text(archive, section.first);
    text(archive, section.second, kMaxSectionBytes);
  });
}

// Gives each value the number of its shape.
class ShapeTable {
 public:
  KeptValues keep(const FieldValues& values) {
    KeptValues kept;
    for (const auto& [key, value] : values) {
      if (value.kind == bus::Kind::gauge) continue;  // A state without a writer is nobody's.
      KeptValue& each = kept.emplace_back();
      each.shape = number_of(key.first, value);
      each.labels = key.second;
      each.bits = value.bits;
      each.records = value.records;
      for (std::size_t cell = 0; cell < value.cells.size(); ++cell) {
        if (value.cells[cell] != 0)
          each.cells.emplace_back(static_cast<std::uint16_t>(cell), value.cells[cell]);
      }
    }
    return kept;
  }
  const std::vector<KeptShape>& shapes() const { return shapes_; }

 private:
  std::uint64_t number_of(const std::string& family, const FieldValue& value) {
    Shape shape;
    shape.family = family;
    shape.kind = static_cast<std::uint8_t>(value.kind);
    shape.type = static_cast<std::uint8_t>(value.type);
    shape.unit = static_cast<std::uint8_t>(value.unit);
    shape.reduction = static_cast<std::uint8_t>(value.reduction);
    if (value.bounds) shape.bounds = *value.bounds;
    shape.classic_cells = value.classic_cells;
    shape.cells = static_cast<std::uint32_t>(value.cells.size());
    const auto [at, fresh] = numbers_.try_emplace(std::move(shape), shapes_.size());
    if (fresh) shapes_.push_back({at->first, value.help, nullptr});
    return at->second;
  }

  std::map<Shape, std::uint64_t> numbers_;
  std::vector<KeptShape> shapes_;
};

void refuse_unless(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

void judge_shape_untrusted(KeptShape& kept) {
  const Shape& shape = kept.shape;
  refuse_unless(bus::is_name(shape.family.data(), shape.family.size()), "a name that is none");
  const auto kind = static_cast<bus::Kind>(shape.kind);
  const bool is_distribution = kind == bus::Kind::distribution;
  refuse_unless(is_distribution || kind == bus::Kind::counter || kind == bus::Kind::running_total,
                "a value of no kind that is kept");
  refuse_unless(shape.type >= 1 && shape.type <= 6 && shape.unit >= 1 && shape.unit <= 5 &&
                    shape.reduction >= 1 && shape.reduction <= 8,
                "an unknown type, unit or reduction");
  refuse_unless(is_distribution ? shape.cells >= 1 : shape.cells == 0, "cells that are none");
  refuse_unless(shape.cells <= bus::kMaxCellsPerField, "more cells than a field can have");
  refuse_unless(shape.bounds.size() == shape.classic_cells.size(), "bounds without cells");
  refuse_unless(is_distribution || shape.bounds.empty(), "bounds of what is no distribution");
  for (std::size_t i = 0; i < shape.bounds.size(); ++i) {
    refuse_unless(std::isfinite(shape.bounds[i]) && shape.classic_cells[i] < shape.cells,
                  "a bound that is none");
    refuse_unless(i == 0 || (shape.bounds[i - 1] < shape.bounds[i] &&
                             shape.classic_cells[i - 1] <= shape.classic_cells[i]),
                  "bounds that do not ascend");
  }
  kept.bounds = std::make_shared<const std::vector<double>>(shape.bounds);
}

FieldValues values_untrusted(const KeptValues& kept, const std::vector<KeptShape>& shapes) {
  FieldValues values;
  for (const KeptValue& each : kept) {
    refuse_unless(each.shape < shapes.size(), "a value of no shape");
    const KeptShape& shape = shapes[each.shape];
    for (std::size_t i = 0; i < each.labels.size(); ++i) {
      const std::string& name = each.labels[i].first;
      refuse_unless(bus::is_label_name(name.data(), name.size()), "a label's name that is none");
      refuse_unless(i == 0 || each.labels[i - 1].first < name, "labels out of order");
    }
    FieldValue value;
    value.help = shape.help;
    value.kind = static_cast<bus::Kind>(shape.shape.kind);
    value.type = static_cast<bus::Type>(shape.shape.type);
    value.unit = static_cast<bus::Unit>(shape.shape.unit);
    value.reduction = static_cast<bus::Reduction>(shape.shape.reduction);
    value.bits = each.bits;
    value.records = each.records;
    if (value.kind == bus::Kind::distribution) value.bounds = shape.bounds;
    value.classic_cells = shape.shape.classic_cells;
    value.cells.resize(shape.shape.cells);
    for (const auto& [cell, count] : each.cells) {
      refuse_unless(cell < value.cells.size(), "a cell that does not exist");
      value.cells[cell] = count;
    }
    const bool fresh = values.emplace(FieldKey{shape.shape.family, each.labels}, value).second;
    refuse_unless(fresh, "one value twice");
  }
  return values;
}

LedgerImage image_untrusted(Kept& kept) {
  LedgerImage image = std::move(kept.head);
  refuse_unless(std::isfinite(image.written_s) && std::isfinite(image.written_realtime_s),
                "a time that is none");
  for (KeptShape& shape : kept.shapes) judge_shape_untrusted(shape);
  for (KeptIdentity& each : kept.identities) {
    const IdentityState& state = each.state;
    refuse_unless(std::isfinite(state.last_alive_s) && std::isfinite(state.last_active_s) &&
                      std::isfinite(state.began_realtime_s),
                  "a time that is none");
    each.state.retired.values = values_untrusted(each.values, kept.shapes);
    for (auto& [name, counts] : each.streams) each.state.retired.streams[name].add(counts);
    auto shared = std::make_shared<const IdentityState>(std::move(each.state));
    refuse_unless(image.identities.emplace(each.who, std::move(shared)).second,
                  "one identity twice");
  }
  for (KeptIncarnation& each : kept.incarnations) {
    refuse_unless(bus::is_segment_name(each.segment.c_str()) &&
                      each.segment.find('/') == std::string::npos &&
                      each.segment.find('\0') == std::string::npos,
                  "a segment's name that is none");
    refuse_unless(std::isfinite(each.state.last_active_s), "a time that is none");
    each.state.totals = values_untrusted(each.totals, kept.shapes);
    auto shared = std::make_shared<const LedgerIncarnation>(std::move(each.state));
    refuse_unless(image.incarnations.emplace(each.segment, std::move(shared)).second,
                  "one segment twice");
  }
  for (std::string& name : kept.retired) {
    refuse_unless(image.incarnations.count(name) == 0, "a segment that lives and is retired");
    image.retired.insert(std::move(name));
  }
  for (auto& [name, bytes] : kept.sections) image.sections[name] = std::move(bytes);
  return image;
}

template <class Number>
Number number_at(std::string_view bytes, std::size_t offset) {
  Number number;
  std::memcpy(&number, bytes.data() + offset, sizeof number);
  return number;
}

}  // namespace

struct LedgerEncoder::Parts {
  template <class State>
  struct Part {
    std::shared_ptr<const State> state;
    std::string bytes;
  };
  ShapeTable shapes;  // Grows; parts have the numbers of its shapes in them.
  std::size_t shapes_in_use = 0;
  std::map<Identity, Part<IdentityState>> identities;
  std::map<std::string, Part<LedgerIncarnation>> incarnations;
  std::uint64_t encoded = 0;

  KeptIdentity kept(const Identity& who, const IdentityState& state) {
    KeptIdentity each{who, state, shapes.keep(state.retired.values), {}};
    each.state.retired.values.clear();
    each.streams.assign(state.retired.streams.begin(), state.retired.streams.end());
    return each;
  }
  KeptIncarnation kept(const std::string& segment, const LedgerIncarnation& state) {
    KeptIncarnation each{segment, state, shapes.keep(state.totals)};
    each.state.totals.clear();
    return each;
  }
  // Brings the parts up to date, and lists their bytes.
  template <class Key, class State>
  std::vector<Encoded> update(std::map<Key, Part<State>>& parts,
                              const std::map<Key, std::shared_ptr<const State>>& states) {
    std::erase_if(parts, [&](const auto& part) { return states.count(part.first) == 0; });
    std::vector<Encoded> all;
    for (const auto& [key, state] : states) {
      Part<State>& part = parts[key];
      all.push_back({&part.bytes});
      if (part.state == state) continue;
      part.state = nullptr;  // Until its bytes are whole.
      part.bytes.clear();
      ledger::StringBuffer buffer(part.bytes);
      std::ostream stream(&buffer);
      OutputArchive archive(stream);
      part.bytes.clear();  // An archive begins with its byte order; the image has one already.
      auto each = kept(key, *state);
      fields(archive, each);
      part.state = state;
      ++encoded;
    }
    return all;
  }
};

LedgerEncoder::LedgerEncoder() : parts_(std::make_unique<Parts>()) {}
LedgerEncoder::~LedgerEncoder() = default;

std::uint64_t LedgerEncoder::encoded() const {
  return parts_->encoded;
}

Result<std::string> LedgerEncoder::encode(const LedgerImage& image) {
  KeptAs<Encoded, Encoded> kept;
  kept.head.generation = image.generation;
  kept.head.boot_id = image.boot_id;
  kept.head.written_s = image.written_s;
  kept.head.written_realtime_s = image.written_realtime_s;
  kept.retired.assign(image.retired.begin(), image.retired.end());
  kept.sections.assign(image.sections.begin(), image.sections.end());
  // Shapes of those who are gone stay in the table until it is twice as long as it was.
  if (parts_->shapes.shapes().size() > 2 * parts_->shapes_in_use + 256) {
    const std::uint64_t encoded = parts_->encoded;
    parts_ = std::make_unique<Parts>();
    parts_->encoded = encoded;
  }
  const bool is_first = parts_->shapes.shapes().empty();
  std::string bytes(kHeadBytes, '\0');
  try {
    kept.identities = parts_->update(parts_->identities, image.identities);
    kept.incarnations = parts_->update(parts_->incarnations, image.incarnations);
    kept.shapes = parts_->shapes.shapes();
    if (is_first) parts_->shapes_in_use = kept.shapes.size();
    ledger::StringBuffer buffer(bytes);
    std::ostream stream(&buffer);
    OutputArchive archive(stream);
    fields(archive, kept);
  } catch (const std::exception& failure) {
    return Error{failure.what()};
  }
  if (bytes.size() > kMaxLedgerBytes) return Error{std::to_string(bytes.size()) + " bytes"};
  const std::string_view payload = std::string_view(bytes).substr(kHeadBytes);
  const std::uint64_t size = payload.size();
  const std::uint64_t sum = checksum(payload);
  std::memcpy(bytes.data(), kMagic, sizeof kMagic);
  std::memcpy(bytes.data() + 8, &kLedgerFormat, sizeof kLedgerFormat);
  std::memcpy(bytes.data() + 16, &size, sizeof size);
  std::memcpy(bytes.data() + 24, &sum, sizeof sum);
  return bytes;
}

std::string encode_ledger(const LedgerImage& image) {
  auto bytes = LedgerEncoder().encode(image);
  return bytes ? std::move(bytes.value()) : std::string();
}

Result<LedgerImage> parse_untrusted_ledger(std::string_view bytes) {
  if (bytes.size() < kHeadBytes || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    return Error{"no ledger of rankbus"};
  const auto format = number_at<std::uint32_t>(bytes, 8);
  if (format < 1 || format > kLedgerFormat) {
    return Error{"format " + std::to_string(format) + ", this build reads " +
                 std::to_string(kLedgerFormat) + " and those before it"};
  }
  if (number_at<std::uint32_t>(bytes, 12) != 0) return Error{"its spare bytes are not 0"};
  const std::string_view payload = bytes.substr(kHeadBytes);
  if (const auto size = number_at<std::uint64_t>(bytes, 16); size != payload.size()) {
    return Error{std::to_string(payload.size()) + " bytes of " + std::to_string(size)};
  }
  if (checksum(payload) != number_at<std::uint64_t>(bytes, 24))
    return Error{"its checksum is wrong"};
  try {
    ledger::BytesBuffer buffer(payload);
    std::istream stream(&buffer);
    InputArchive archive(stream, format);
    Kept kept;
    fields(archive, kept);
    return image_untrusted(kept);
  } catch (const std::exception& failure) {
    return Error{std::string("damaged: ") + failure.what()};
  }
}

}  // namespace rankbus
