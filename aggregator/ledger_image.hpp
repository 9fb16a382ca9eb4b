// aggregator/ledger_image.hpp: what the ledger holds, and the bytes that hold it.
//
// One image is the whole ledger as of one pass: what dead incarnations left, which of them still
// have a name on the bus, how far each living one was read, and the counters that only samples
// tell, as of exactly those positions.
//
//   file   magic 8 | format version u32 | spare u32 | payload bytes u64 | checksum u64 | payload
//
// The payload is a cereal portable binary archive. Reading one is `untrusted`: a file can be
// damaged, cut short, of another program or of a later format, and is then refused as a whole.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <rankbus/aggregator/boot_id.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/identity_state.hpp>
#include <rankbus/aggregator/result.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankbus {

// A larger file is nobody's ledger: a thousand identities of the built-in records need a tenth.
inline constexpr std::uint64_t kMaxLedgerBytes = std::uint64_t{1} << 30;

// Raised with every change of the payload; images of all formats before it are read.
inline constexpr std::uint32_t kLedgerFormat = 2;

// An incarnation that is not folded into its identity: it lives, or it is quarantined.
struct LedgerIncarnation {
  Identity who;
  FieldValues totals;  // Counters and distributions as they were exported last: the floor.
  // In the order of the schema. `records` is the next record to read.
  std::vector<std::pair<std::string, StreamCounts>> streams;
  std::string quarantine;  // Why it is read no more; empty: it lives.
  std::uint64_t last_stamp = 0;
  bus::ClockSource last_source = bus::ClockSource::monotonic;
  double last_active_s = 0;  // CLOCK_MONOTONIC.
};

struct LedgerImage {
  std::uint64_t generation = 0;
  BootId boot_id = {};
  double written_s = 0;           // CLOCK_MONOTONIC of that boot ...
  double written_realtime_s = 0;  // ... and seconds since the epoch, at the same moment.
  // Parts are shared with later images, because most of them stay as they are.
  std::map<Identity, std::shared_ptr<const IdentityState>> identities;
  std::map<std::string, std::shared_ptr<const LedgerIncarnation>> incarnations;  // By segment.
  // Segments whose totals are those of their identity, and whose name may still be there.
  std::set<std::string> retired;
  // Counters made of samples, by who keeps them; bytes that only the keeper understands.
  std::map<std::string, std::string> sections;
};

// Encodes one image after the other. Parts that an image shares with the one before it, which are
// most of a large one, are not encoded again.
class LedgerEncoder {
 public:
  LedgerEncoder();
  ~LedgerEncoder();
  LedgerEncoder(const LedgerEncoder&) = delete;
  LedgerEncoder& operator=(const LedgerEncoder&) = delete;

  // The error says what `parse_untrusted_ledger` would not read: that is never written.
  Result<std::string> encode(const LedgerImage& image);
  // How many parts were encoded, ever.
  std::uint64_t encoded() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// One image by itself; empty if it could not be read.
std::string encode_ledger(const LedgerImage& image);

// The error says what is wrong with the bytes.
Result<LedgerImage> parse_untrusted_ledger(std::string_view bytes);

}  // namespace rankbus
