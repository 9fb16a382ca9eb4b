// Goal:   a ledger that is damaged, cut short, too long, of another program or made up is refused
//         with a reason, and costs no more memory than it has bytes; what is whole comes back
//         equal.
// Method: images as the aggregator writes them, changed byte by byte, by whole parts, and in what
//         they say, with a checksum that fits.
// Replay: RANKBUS_TEST_SEED=<printed> untrusted_ledger [--gtest_filter=...]
#include <rankbus/aggregator/ledger.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::LedgerImage;

constexpr std::size_t kHeadBytes = 32;

rankbus::FieldValue counter(std::uint64_t bits) {
  rankbus::FieldValue value;
  value.help = "help";
  value.bits = bits;
  value.records = 7;
  return value;
}

rankbus::FieldValue distribution() {
  rankbus::FieldValue value = counter(99);
  value.kind = rankbus::bus::Kind::distribution;
  value.bounds = std::make_shared<const std::vector<double>>(std::vector<double>{0.5, 1, 2.5});
  value.classic_cells = {2, 4, 6};
  value.cells = {0, 1, 2, 0, 0, 3, 0, 5, 0};
  return value;
}

rankbus::Identity somebody(std::uint32_t rank) {
  rankbus::Identity who;
  who.server = who.server_label = "chat";
  who.model = "llama \xe4\xbd\xa0 \"quoted\"\n";
  who.engine = 1;
  who.role = 3;
  who.rank = rank;
  return who;
}

const char* const kSegment = "worker-1-0.0123456789abcdef0123456789abcdef";
const char* const kDead = "worker-1-0.fedcba9876543210fedcba9876543210";

LedgerImage sample_image() {
  LedgerImage image;
  image.generation = 41;
  image.boot_id[0] = 1;
  image.written_s = 12.5;
  image.written_realtime_s = 1.7e9;
  rankbus::IdentityState state;
  state.retired.values[{"my_total", {{"kind", "a"}}}] = counter(~std::uint64_t{0} - 3);
  state.retired.values[{"my_total", {{"kind", "b"}}}] = counter(4);
  state.retired.values[{"my_seconds", {}}] = distribution();
  state.retired.streams["step"].records = 12;
  state.retired.incarnations = 3;
  state.last_alive_s = 3.25;
  state.began_realtime_s = 1.6e9;
  image.identities[somebody(0)] = std::make_shared<const rankbus::IdentityState>(state);
  image.identities[somebody(1)] = std::make_shared<const rankbus::IdentityState>(state);
  rankbus::LedgerIncarnation living;
  living.who = somebody(0);
  living.totals = state.retired.values;
  living.streams = {{"step", {.records = 5, .lost_lapped = 1}}, {"step", {.records = 6}}};
  living.quarantine = "because";
  image.incarnations[kSegment] = std::make_shared<const rankbus::LedgerIncarnation>(living);
  image.retired.insert(kDead);
  image.sections["goodput"] = std::string("\0\1\2", 3);
  return image;
}

// As the format says it.
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

// Makes the head fit what the payload has become.
std::string sealed(std::string bytes) {
  const std::uint64_t size = bytes.size() - kHeadBytes;
  const std::uint64_t sum = checksum(std::string_view(bytes).substr(kHeadBytes));
  std::memcpy(bytes.data() + 16, &size, sizeof size);
  std::memcpy(bytes.data() + 24, &sum, sizeof sum);
  return bytes;
}

std::string refusal(const std::string& bytes) {
  auto image = rankbus::parse_untrusted_ledger(bytes);
  return image ? std::string() : image.error();
}

TEST(UntrustedLedger, AsItWasWritten_ComesBackEqual) {
  const LedgerImage image = sample_image();
  auto read = rankbus::parse_untrusted_ledger(rankbus::encode_ledger(image));
  ASSERT_TRUE(read) << read.error();
  EXPECT_EQ(rankbus::encode_ledger(read.value()), rankbus::encode_ledger(image));
  EXPECT_EQ(read->generation, 41u);
  const auto& values = read->identities.at(somebody(1))->retired.values;
  EXPECT_EQ(values.at({"my_total", {{"kind", "a"}}}).bits, ~std::uint64_t{0} - 3);
  EXPECT_EQ(values.at({"my_seconds", {}}).cells, distribution().cells);
  EXPECT_EQ(*values.at({"my_seconds", {}}).bounds, *distribution().bounds);
  rankbus::FieldValue sum = distribution();
  EXPECT_TRUE(rankbus::add_value(sum, values.at({"my_seconds", {}}))) << "it still adds up";
  EXPECT_EQ(read->incarnations.at(kSegment)->streams[1].second.records, 6u);
  EXPECT_EQ(read->incarnations.at(kSegment)->quarantine, "because");
  EXPECT_EQ(read->retired.count(kDead), 1u);
  EXPECT_EQ(read->sections.at("goodput"), std::string("\0\1\2", 3));
}

TEST(UntrustedLedger, AnyByteChanged_IsRefused) {
  const std::string bytes = rankbus::encode_ledger(sample_image());
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      EXPECT_NE(refusal(damaged), "") << "byte " << at;
    }
  }
}

TEST(UntrustedLedger, CutAnywhereOrContinued_IsRefused) {
  const std::string bytes = rankbus::encode_ledger(sample_image());
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_NE(refusal(bytes.substr(0, size)), "") << size << " bytes";
  EXPECT_NE(refusal(bytes + '\0'), "");
  for (std::size_t size = kHeadBytes; size < bytes.size(); ++size)
    EXPECT_NE(refusal(sealed(bytes.substr(0, size))), "") << size << " bytes, sealed";
}

// C-19
TEST(UntrustedLedger, AnythingAtAllUnderAFittingChecksum_IsRefusedOrWhole) {
  const std::string bytes = rankbus::encode_ledger(sample_image());
  Dice dice(test_seed());
  std::uint64_t refused = 0;
  for (std::uint64_t round = 0; round < scaled(20'000); ++round) {
    std::string damaged = bytes;
    const std::uint64_t changes = 1 + dice.below(3);
    for (std::uint64_t change = 0; change < changes; ++change) {
      const std::size_t at = kHeadBytes + dice.below(damaged.size() - kHeadBytes);
      // Lengths and numbers of all sizes, and single bytes.
      const std::uint64_t word =
          dice.one_in(2) ? ~std::uint64_t{0} >> dice.below(64) : dice.below(256);
      const std::size_t width = dice.one_in(2) ? 1 : 8;
      std::memcpy(damaged.data() + at, &word, std::min(width, damaged.size() - at));
    }
    auto image = rankbus::parse_untrusted_ledger(sealed(damaged));
    refused += image ? 0 : 1;
    // What is taken must be of use: it can be written and read again.
    if (!image) continue;
    EXPECT_EQ(refusal(rankbus::encode_ledger(image.value())), "");
  }
  EXPECT_GT(refused, 0u);
}

TEST(UntrustedLedger, OfAnotherProgramOrALaterFormat_IsRefusedWithThatReason) {
  std::string bytes = rankbus::encode_ledger(sample_image());
  EXPECT_NE(refusal(std::string(4096, 'x')).find("no ledger"), std::string::npos);
  EXPECT_NE(refusal("").find("no ledger"), std::string::npos);
  bytes[8] = static_cast<char>(rankbus::kLedgerFormat + 1);
  EXPECT_NE(refusal(bytes).find("format 3, this build reads 2"), std::string::npos)
      << refusal(bytes);
}

// The reason of a whole image in which one thing is said that cannot be.
std::string refusal_of(const std::function<void(LedgerImage&)>& change) {
  LedgerImage image = sample_image();
  change(image);
  return refusal(rankbus::encode_ledger(image));
}

void change_value(LedgerImage& image, const std::function<void(rankbus::FieldValue&)>& change) {
  auto state = *image.identities.at(somebody(0));
  change(state.retired.values.at({"my_seconds", {}}));
  image.identities[somebody(0)] = std::make_shared<const rankbus::IdentityState>(state);
}

// C-23
TEST(UntrustedLedger, ImpossibleContents_AreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(refusal_of([](LedgerImage&) {}), "");
  EXPECT_NE(refusal_of([&](LedgerImage& image) { image.written_s = nan; }), "");
  EXPECT_NE(refusal_of([](LedgerImage& image) { image.retired.insert(kSegment); }), "");
  for (const std::string& name :
       {std::string("../../etc/passwd"), std::string(".owner"), std::string("x/") + kSegment}) {
    EXPECT_NE(refusal_of([&](LedgerImage& image) {
                image.incarnations[name] = image.incarnations.at(kSegment);
              }),
              "")
        << name;
  }
  const auto value = [&](const std::function<void(rankbus::FieldValue&)>& change) {
    return refusal_of([&](LedgerImage& image) { change_value(image, change); });
  };
  using rankbus::FieldValue;
  EXPECT_NE(value([](FieldValue& v) { v.classic_cells = {2, 4, 9}; }), "");
  EXPECT_NE(value([](FieldValue& v) { v.classic_cells = {2, 4}; }), "");
  EXPECT_NE(value([](FieldValue& v) { v.classic_cells = {4, 2, 6}; }), "");
  EXPECT_NE(value([](FieldValue& v) { v.cells.resize(100'000); }), "");
  EXPECT_NE(value([](FieldValue& v) { v.cells.clear(); }), "");
  EXPECT_NE(
      value([&](FieldValue& v) {
        v.bounds = std::make_shared<const std::vector<double>>(std::vector<double>{1, nan, 3});
      }),
      "");
  EXPECT_NE(value([](FieldValue& v) { v.unit = static_cast<rankbus::bus::Unit>(77); }), "");
  EXPECT_NE(value([](FieldValue& v) { v.reduction = static_cast<rankbus::bus::Reduction>(0); }),
            "");
}

// The store: which of two files is used, and what is said of the other.
class UntrustedLedgerFiles : public testing::Test {
 protected:
  void put(int file, const std::string& bytes) const {
    std::ofstream out(path(file), std::ios::binary);
    out << bytes;
    out.close();
    chmod(path(file).c_str(), 0600);
  }
  std::string path(int file) const { return folder_ / std::string(rankbus::kLedgerFiles[file]); }
  static std::string image_of(std::uint64_t generation) {
    LedgerImage image = sample_image();
    image.generation = generation;
    return rankbus::encode_ledger(image);
  }
  // The generation that a start takes, 0 for none; and how many complaints there are.
  std::pair<std::uint64_t, std::size_t> taken() const {
    auto store = rankbus::LedgerStore::open(folder_.path());
    if (!store) {
      ADD_FAILURE() << store.error();
      return {};
    }
    const LedgerImage* image = (*store)->started_from();
    return {image != nullptr ? image->generation : 0, (*store)->complaints().size()};
  }
  using Taken = std::pair<std::uint64_t, std::size_t>;
  Folder folder_;
};

TEST_F(UntrustedLedgerFiles, TwoGoodOnes_TheNewerIsUsed) {
  EXPECT_EQ(taken(), Taken(0, 0));
  put(0, image_of(8));
  EXPECT_EQ(taken(), Taken(8, 0));
  put(1, image_of(9));
  EXPECT_EQ(taken(), Taken(9, 0));
  put(0, image_of(10));
  EXPECT_EQ(taken(), Taken(10, 0));
}

TEST_F(UntrustedLedgerFiles, NewerIsDamagedHugeOrNoFileOfOurs_TheOlderIsUsedAndItIsSaid) {
  put(0, image_of(8));
  std::string damaged = image_of(9);
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] + 1);
  put(1, damaged);
  EXPECT_EQ(taken(), Taken(8, 1));
  put(1, "");
  EXPECT_EQ(taken(), Taken(8, 1));
  // A file of two gigabytes, of which nothing is stored.
  put(1, image_of(9));
  ASSERT_EQ(truncate(path(1).c_str(), off_t{1} << 31), 0);
  EXPECT_EQ(taken(), Taken(8, 1));
  ASSERT_EQ(unlink(path(1).c_str()), 0);
  ASSERT_EQ(mkdir(path(1).c_str(), 0700), 0);
  EXPECT_EQ(taken(), Taken(8, 1));
  ASSERT_EQ(rmdir(path(1).c_str()), 0);
  ASSERT_EQ(mkfifo(path(1).c_str(), 0600), 0);
  EXPECT_EQ(taken(), Taken(8, 1));
  ASSERT_EQ(unlink(path(1).c_str()), 0);
  ASSERT_EQ(symlink(path(0).c_str(), path(1).c_str()), 0);
  EXPECT_EQ(taken(), Taken(8, 1));
  ASSERT_EQ(unlink(path(1).c_str()), 0);
  put(1, image_of(9));
  chmod(path(1).c_str(), 0622);
  EXPECT_EQ(taken(), Taken(8, 1)) << "others may write it";
  put(1, image_of(0));
  EXPECT_EQ(taken(), Taken(8, 1));
}

TEST_F(UntrustedLedgerFiles, NextImage_ReplacesTheBadOneFirst) {
  put(0, image_of(8));
  put(1, "damaged");
  {
    auto store = rankbus::LedgerStore::open(folder_.path());
    ASSERT_TRUE(store) << store.error();
    LedgerImage image = sample_image();
    image.generation = (*store)->next_generation();
    (*store)->write(std::make_shared<const LedgerImage>(image));
    (*store)->wait();
    EXPECT_EQ((*store)->status().trouble, "");
    EXPECT_EQ((*store)->status().kept, (rankbus::ledger::Kept{8, 9}));
  }
  EXPECT_EQ(taken(), Taken(9, 0));
  ASSERT_EQ(unlink(path(1).c_str()), 0);
  EXPECT_EQ(taken(), Taken(8, 0));
}

}  // namespace
}  // namespace bus_test
