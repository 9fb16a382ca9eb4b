// Goal:   whatever a stranger, an earlier owner or a later build left under a name of the ledger's
//         files neither hangs it nor gets into it, and what this build cannot read is not lost by
//         it; a disk that is full or hangs costs no more than it must.
// Method: links, pipes, directories, open files and images of other formats under those names, in
//         folders of their own; a tmpfs that is filled; an fsync that does not come back.
// Replay: untrusted_ledger_files [--gtest_filter=...]; nothing here is random.
#include <sys/mount.h>
#include <sys/syscall.h>

#include <condition_variable>
#include <mutex>

#include "ledger_of_bus.hpp"
#include "process_world.hpp"

namespace {

// While it is closed, whoever syncs a file waits.
class Gate {
 public:
  void close() { set(false); }
  void open() { set(true); }
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_open_; });
  }

 private:
  void set(bool is_open) {
    const std::lock_guard lock(mutex_);
    is_open_ = is_open;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = true;
};
Gate& disk() {
  static Gate* const gate = new Gate;  // A thread may wait at it until the process ends.
  return *gate;
}

}  // namespace

// In the place of the C library's, for all of this program.
extern "C" int fsync(int fd) {
  disk().pass();
  return static_cast<int>(syscall(SYS_fsync, fd));
}

namespace bus_test {
namespace {

using rankbus::kLedgerFiles;
using rankbus::kLedgerLockFile;
using rankbus::kLedgerNewFile;
using rankbus::kLedgerReserveFile;
using rankbus::LedgerStore;

std::shared_ptr<LedgerImage> image_for(const LedgerStore& store, std::size_t section_bytes = 100) {
  auto image = std::make_shared<LedgerImage>();
  image->generation = store.next_generation();
  image->identities[rank_of_engine(0, 0)] = dead_with(7, 1);
  image->sections["section"] = std::string(section_bytes, 'x');
  return image;
}

// Why it could not be written; empty if it was.
std::string write_to(LedgerStore& store, std::size_t section_bytes = 100) {
  store.write(image_for(store, section_bytes));
  if (!store.wait_for(60)) return "it hangs";
  return store.status().trouble;
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class LedgerFiles : public testing::Test {
 protected:
  std::unique_ptr<LedgerStore> open_store() {
    auto store = LedgerStore::open(folder_.path());
    if (store) return std::move(store.value());
    error_ = store.error();
    return nullptr;
  }
  std::string path(const char* name) const { return folder_ / name; }
  Folder folder_;
  std::string error_;
};

// C-22
TEST_F(LedgerFiles, PipeUnderANewFilesName_IsRemovedAndNothingHangs) {
  for (const char* name : {kLedgerNewFile, kLedgerReserveFile})
    ASSERT_EQ(mkfifo(path(name).c_str(), 0600), 0);
  const auto store = open_store();
  ASSERT_TRUE(store) << error_;
  for (int image = 0; image < 3; ++image) EXPECT_EQ(write_to(*store), "");
  EXPECT_EQ(store->status().generation, 3u);
}

// C-22
TEST_F(LedgerFiles, FileThatAStrangerHoldsOpen_DoesNotBecomeTheLedger) {
  const int held = open(path(kLedgerNewFile).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ASSERT_GE(held, 0);
  const std::string target = path("target");
  std::ofstream(target) << "somebody's";
  const auto store = open_store();
  ASSERT_TRUE(store) << error_;
  EXPECT_EQ(write_to(*store), "");
  struct stat theirs {};
  struct stat ours {};
  ASSERT_EQ(fstat(held, &theirs), 0);
  ASSERT_EQ(stat(path(kLedgerFiles[0]).c_str(), &ours), 0);
  EXPECT_NE(theirs.st_ino, ours.st_ino);
  EXPECT_EQ(theirs.st_size, 0) << "nothing was written into it";
  EXPECT_EQ(ours.st_mode & 0777, 0600u);
  close(held);
  ASSERT_EQ(symlink(target.c_str(), path(kLedgerNewFile).c_str()), 0);
  EXPECT_EQ(write_to(*store), "");
  ASSERT_EQ(link(target.c_str(), path(kLedgerNewFile).c_str()), 0);
  EXPECT_EQ(write_to(*store), "");
  EXPECT_EQ(content(target), "somebody's");
}

// C-22
TEST_F(LedgerFiles, LockThatIsNoFile_IsRefusedAtTheStart) {
  const std::string lock = path(kLedgerLockFile);
  const std::function<int()> obstacles[] = {
      [&] { return mkdir(lock.c_str(), 0700); }, [&] { return mkfifo(lock.c_str(), 0600); },
      [&] { return symlink(path("elsewhere").c_str(), lock.c_str()); }};
  for (const auto& make : obstacles) {
    ASSERT_EQ(make(), 0);
    EXPECT_FALSE(open_store());
    EXPECT_NE(error_.find(lock), std::string::npos) << error_;
    EXPECT_NE(error_.find("--state-dir"), std::string::npos) << error_;
    ASSERT_EQ(remove(lock.c_str()), 0);
  }
  EXPECT_TRUE(open_store()) << error_;
}

// C-35
TEST_F(LedgerFiles, LedgerOfALaterBuild_IsSetAsideOnceAndStays) {
  std::string later[2];
  {
    const auto store = open_store();
    ASSERT_TRUE(store) << error_;
    EXPECT_EQ(write_to(*store) + write_to(*store), "");
  }
  for (int file = 0; file < 2; ++file) {
    later[file] = content(path(kLedgerFiles[file]));
    ++later[file][8];  // The format's number.
    std::ofstream(path(kLedgerFiles[file]), std::ios::binary) << later[file];
  }
  for (int start = 0; start < 3; ++start) {
    const auto store = open_store();
    ASSERT_TRUE(store) << error_;
    EXPECT_EQ(store->complaints().size(), start == 0 ? 2u : 0u);
    if (start == 0) {
      EXPECT_NE(store->complaints()[0].find("rename it back"), std::string::npos)
          << store->complaints()[0];
    }
    for (int image = 0; image < 3; ++image) EXPECT_EQ(write_to(*store), "");
    for (int file = 0; file < 2; ++file) {
      EXPECT_EQ(content(path(kLedgerFiles[file]) + rankbus::kLedgerRefused), later[file]);
    }
  }
  // What is refused afterwards is replaced: the older history stays.
  std::ofstream(path(kLedgerFiles[0]), std::ios::binary) << "damaged";
  const auto store = open_store();
  ASSERT_TRUE(store) << error_;
  ASSERT_EQ(store->complaints().size(), 1u);
  EXPECT_NE(store->complaints()[0].find("is replaced"), std::string::npos);
  EXPECT_EQ(content(path(kLedgerFiles[0]) + rankbus::kLedgerRefused), later[0]);
}

TEST_F(LedgerFiles, ImageThatCouldNotBeReadAgain_IsNotWritten) {
  auto store = open_store();
  ASSERT_TRUE(store) << error_;
  EXPECT_EQ(write_to(*store) + write_to(*store), "");
  const std::string before[2] = {content(path(kLedgerFiles[0])), content(path(kLedgerFiles[1]))};
  const std::string trouble = write_to(*store, (64 << 20) + 1);
  EXPECT_NE(trouble.find("too large to be read again"), std::string::npos) << trouble;
  EXPECT_EQ(store->status().failures, 1u);
  for (int file = 0; file < 2; ++file) EXPECT_EQ(content(path(kLedgerFiles[file])), before[file]);
  EXPECT_EQ(write_to(*store), "") << "the next one can be";
  EXPECT_EQ(store->status().trouble, "");
}

TEST(LedgerEncoder, PartsThatStayed_AreNotEncodedAgain) {
  LedgerImage image;
  for (std::uint32_t engine = 0; engine < 1'000; ++engine)
    image.identities[rank_of_engine(engine, 0)] = dead_with(engine, 1);
  rankbus::LedgerEncoder encoder;
  for (int generation = 1; generation < 20; ++generation) {
    image.generation = static_cast<std::uint64_t>(generation);
    const Identity changed = rank_of_engine(static_cast<std::uint32_t>(generation), 0);
    image.identities[changed] = dead_with(1'000'000, 1);
    image.identities.erase(rank_of_engine(999 - static_cast<std::uint32_t>(generation), 0));
    const auto bytes = encoder.encode(image);
    ASSERT_TRUE(bytes) << bytes.error();
    EXPECT_EQ(encoder.encoded(), 999u + static_cast<std::uint64_t>(generation - 1));
    auto read = rankbus::parse_untrusted_ledger(bytes.value());
    ASSERT_TRUE(read) << read.error();
    EXPECT_EQ(rankbus::encode_ledger(read.value()), rankbus::encode_ledger(image));
  }
}

// Families come and go: what nobody has any more leaves the image.
TEST(LedgerEncoder, FamiliesThatCameAndWent_DoNotStay) {
  rankbus::LedgerEncoder encoder;
  std::size_t largest = 0;
  for (int life = 0; life < 3'000; ++life) {
    rankbus::IdentityState state = *dead_with(1, 1);
    const auto value = state.retired.values.begin()->second;
    for (int family = 0; family < 3; ++family)
      state.retired.values[{"f_" + std::to_string(3 * life + family), {}}] = value;
    LedgerImage image;
    image.identities[rank_of_engine(0, 0)] = std::make_shared<const rankbus::IdentityState>(state);
    const auto bytes = encoder.encode(image);
    ASSERT_TRUE(bytes) << bytes.error();
    ASSERT_TRUE(rankbus::parse_untrusted_ledger(bytes.value()));
    largest = std::max(largest, bytes.value().size());
  }
  EXPECT_LT(largest, 100'000u) << "9,000 families were there";
}

// C-9, C-15
TEST_F(LedgerFiles, FileSystemThatIsFull_HasRoomForTheLedgerStill) {
  const std::string small = folder_ / "small";
  const int status = in_child([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mkdir(small.c_str(), 0700) != 0 ||
        mount("tmpfs", small.c_str(), "tmpfs", 0, "size=4m") != 0)
      return kSkipped;
    auto opened = LedgerStore::open(small);
    if (!opened) return 1;
    LedgerStore& store = **opened;
    if (!write_to(store, 100'000).empty() || !write_to(store, 100'000).empty()) return 2;
    const int fd = open((small + "/full").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const std::string page(4096, 'x');
    while (write(fd, page.data(), page.size()) > 0) {
    }
    for (int image = 0; image < 6; ++image) {
      if (!write_to(store, 110'000).empty()) return 3;
    }
    // One that grew beyond all reserve says what it needs.
    const std::string trouble = write_to(store, 1'000'000);
    std::printf("%s\n", trouble.c_str());
    if (trouble.find("needs 977 KiB") == std::string::npos) return 4;
    if (trouble.find("--state-dir") == std::string::npos) return 5;
    if (store.status().failures != 1) return 6;
    unlink((small + "/full").c_str());
    close(fd);
    return write_to(store, 1'000'000).empty() ? 0 : 7;
  });
  if (status == kSkipped) GTEST_SKIP() << "mounting is not permitted here (needs root)";
  EXPECT_EQ(status, 0);
}

// C-12
TEST_F(LedgerOfBus, DiskThatHangsAtTheEnd_IsNotWaitedForWithoutLimit) {
  auto bus = open_with_ledger([](auto& options) { options.wait_at_end_s = 0.2; });
  ASSERT_TRUE(bus);
  rankbus::Producer producer = open_producer(0, 0);
  record(producer, 5);
  full_pass(*bus);
  disk().close();
  bus->finish(now_s());
  bus.reset();
  EXPECT_NE(said_.find("could not be written within"), std::string::npos) << said_;
  EXPECT_NE(said_.find(folder_.bus()), std::string::npos) << "it says where: " << said_;
  disk().open();
}

}  // namespace
}  // namespace bus_test
