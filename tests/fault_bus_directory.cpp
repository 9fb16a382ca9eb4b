// Goal:   whatever the bus directory is (small, full, read-only, missing, somebody else's, open to
// all,
//         a link, a file, on a disk), opening a producer says what was found where and what is
//         expected, and the worker goes on; a small but sound directory just works.
// Method: make each such directory, mounting what needs mounting in a mount namespace of a forked
//         child, open producers, and let them record.
// Replay: fault_bus_directory [--gtest_filter=...]; nothing here is random.
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::OpenOptions;
using rankbus::Producer;
using rankbus::Role;

OpenOptions tiles_on(const std::string& bus) {
  OpenOptions options = options_for(bus, Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  return options;
}

// Opens a producer that must be inert for a reason with all these words, and lets it work. Returns
// what is wrong, or empty.
std::string inert_fault(const OpenOptions& options, const std::vector<std::string>& words) {
  const Environment quiet("RANKBUS_QUIET", "1");
  Producer producer = Producer::open(options);
  if (!producer.inert()) return "it works";
  for (const std::string& word : words) {
    if (std::strstr(producer.reason(), word.c_str()) == nullptr)
      return "no '" + word + "' in: " + producer.reason();
  }
  for (std::uint64_t n = 0; n < 1000; ++n) producer.record(tile(n));
  producer.status(1, 2, 3, 4);
  if (producer.dropped_records() != 1000) return "it does not count what it drops";
  return {};
}
void expect_inert(const std::string& bus, std::vector<std::string> words) {
  words.push_back(bus);
  const OpenOptions options = tiles_on(bus);
  EXPECT_EQ(inert_fault(options, words), "");
}

// A producer that works, judged by what a reader finds.
bool works(const std::string& bus) {
  Producer producer = Producer::open(tiles_on(bus));
  if (producer.inert()) {
    std::printf("%s\n", producer.reason());
    return false;
  }
  for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
  const std::string name = producer.segment_name();
  producer.close();
  const auto reader = open_segment(bus, name);
  return reader && read_to_end(*reader) && reader->error().empty() &&
         reader->streams()[0].published == 100;
}

// Runs `body` in a child with mounts of its own, where `place` is a tmpfs with these options.
int with_tmpfs(const std::string& place, const std::string& mount_options,
               const std::function<int()>& body) {
  return in_child([&] {
    if (unshare(CLONE_NEWNS) != 0) return kSkipped;
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return kSkipped;
    std::filesystem::create_directories(place);
    if (mount("tmpfs", place.c_str(), "tmpfs", 0, mount_options.c_str()) != 0) return kSkipped;
    return body();
  });
}
constexpr const char* kNoMounts = "mounting is not permitted here (needs root)";

bool fill_with(const std::string& file, std::uint64_t bytes) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const bool done = fd >= 0 && posix_fallocate(fd, 0, static_cast<off_t>(bytes)) == 0;
  if (fd >= 0) close(fd);
  return done;
}
std::uint64_t free_on(const std::string& path) {
  return rankbus::bus::free_bytes(Directory(path).fd());
}

// C-15
TEST(BusDirectory, TmpfsOf64MiB_WorksWithinAnEighthOfIt) {
  const Folder folder;
  const std::string small = folder / "small";
  SKIP_OR_EXPECT_0(
      with_tmpfs(small, "size=64m",
                 [&] {
                   const std::string bus = small + "/bus";
                   const Environment quiet("RANKBUS_QUIET", "1");
                   CHECK_HERE(works(bus));
                   // Workers come until there is no room; all that came go on.
                   std::vector<Producer> living;
                   for (;;) {
                     OpenOptions options = options_for(bus, Role::worker);
                     options.rank = static_cast<std::uint32_t>(living.size());
                     Producer producer = Producer::open(options);
                     if (producer.inert()) {
                       CHECK_HERE(std::strstr(producer.reason(), bus.c_str()) != nullptr);
                       CHECK_HERE(std::strstr(producer.reason(), "8192 KiB") != nullptr);
                       break;
                     }
                     living.push_back(std::move(producer));
                     CHECK_HERE(living.size() < 10'000);
                   }
                   CHECK_HERE(living.size() >= 16);
                   CHECK_HERE(free_on(small) >= (std::uint64_t{55} << 20));
                   for (Producer& producer : living) producer.record(rankbus::WorkerStep{});
                   living.clear();
                   // A crash loop leaves room for those who live there.
                   for (std::uint64_t life = 0; life < scaled(300); ++life) {
                     Producer producer = Producer::open(options_for(bus, Role::worker));
                     CHECK_HERE(!producer.inert());
                   }
                   CHECK_HERE(fill_with(small + "/others", std::uint64_t{50} << 20));
                   return 0;
                 }),
      kNoMounts);
}

// C-9, C-15
TEST(BusDirectory, FullTmpfs_IsInertAndNothingIsLeftBehind) {
  const Folder folder;
  const std::string small = folder / "small";
  SKIP_OR_EXPECT_0(
      with_tmpfs(small, "size=16m",
                 [&] {
                   const std::string bus = small + "/bus";
                   CHECK_HERE(mkdir(bus.c_str(), 0700) == 0);
                   CHECK_HERE(fill_with(small + "/others", free_on(small)));
                   const std::string fault = inert_fault(tiles_on(bus), {bus, "free"});
                   std::printf("%s\n", fault.c_str());
                   CHECK_HERE(fault.empty());
                   CHECK_HERE(Directory(bus).segments().empty());
                   // Little room: a smaller ring.
                   CHECK_HERE(truncate((small + "/others").c_str(),
                                       static_cast<off_t>((16 << 20) - (100 << 10))) == 0);
                   CHECK_HERE(works(bus));
                   CHECK_HERE(unlink((small + "/others").c_str()) == 0);
                   CHECK_HERE(works(bus));
                   return 0;
                 }),
      kNoMounts);
}

// C-9
TEST(BusDirectory, TmpfsWithoutInodes_IsInert) {
  const Folder folder;
  const std::string small = folder / "small";
  SKIP_OR_EXPECT_0(
      with_tmpfs(
          small, "size=16m,nr_inodes=2",
          [&] {
            const std::string bus = small + "/bus";
            CHECK_HERE(mkdir(bus.c_str(), 0700) == 0);
            const std::string fault = inert_fault(tiles_on(bus), {bus, std::strerror(ENOSPC)});
            std::printf("%s\n", fault.c_str());
            CHECK_HERE(fault.empty());
            return 0;
          }),
      kNoMounts);
}

// C-13
TEST(BusDirectory, ReadOnlyTmpfs_IsInertAndAnObserverReads) {
  const Folder folder;
  const std::string place = folder / "place";
  SKIP_OR_EXPECT_0(
      with_tmpfs(place, "size=16m",
                 [&] {
                   const std::string bus = place + "/bus";
                   const std::string view = place + "/view";
                   Producer producer = Producer::open(tiles_on(bus));
                   CHECK_HERE(!producer.inert());
                   for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
                   // The same directory once more, without the right to write.
                   CHECK_HERE(mkdir(view.c_str(), 0700) == 0);
                   CHECK_HERE(mount(bus.c_str(), view.c_str(), nullptr, MS_BIND, nullptr) == 0);
                   CHECK_HERE(mount(nullptr, view.c_str(), nullptr,
                                    MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0);
                   const std::string fault = inert_fault(tiles_on(view), {view, "Read-only"});
                   std::printf("%s\n", fault.c_str());
                   CHECK_HERE(fault.empty());
                   auto owner = rankbus::BusReader::open({view, false}, {});
                   CHECK_HERE(!owner);
                   CHECK_HERE(owner.error().find(view) != std::string::npos);
                   CHECK_HERE(owner.error().find("--observe") != std::string::npos);
                   const auto observer = open_bus(view, true);
                   CHECK_HERE(observer != nullptr);
                   full_pass(*observer);
                   CHECK_HERE(observer->live().size() == 1);
                   const auto& reader = observer->live().begin()->second.reader;
                   CHECK_HERE(reader->writer_is_alive());
                   CHECK_HERE(reader->streams()[0].position == 100);
                   producer.close();
                   full_pass(*observer);
                   CHECK_HERE(observer->retired_segments() == 1);
                   CHECK_HERE(Directory(bus).segments().size() == 1);
                   return 0;
                 }),
      kNoMounts);
}

TEST(BusDirectory, WithoutProc_SegmentsAreMadeUnderADotName) {
  const Folder folder;
  const std::string place = folder / "place";
  // What the child makes on the shared tmpfs of the test, this process reads.
  const std::string bus = folder.bus();
  SKIP_OR_EXPECT_0(
      with_tmpfs(place, "size=1m",
                 [&] {
                   CHECK_HERE(mount(place.c_str(), "/proc", nullptr, MS_BIND, nullptr) == 0);
                   CHECK_HERE(access("/proc/self", F_OK) != 0);
                   Producer producer = Producer::open(tiles_on(bus));
                   CHECK_HERE(!producer.inert());
                   for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
                   CHECK_HERE(Producer::open(tiles_on(bus)).lane() == 1);
                   return 0;
                 }),
      kNoMounts);
  const Directory directory(bus);
  EXPECT_EQ(directory.segments().size(), 2u);
  for (const auto& entry : std::filesystem::directory_iterator(bus)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == ".open" || rankbus::bus::is_segment_name(name.c_str()))
        << name << " is left";
  }
  for (const std::string& name : directory.segments()) {
    const auto reader = open_segment(bus, name);
    ASSERT_TRUE(reader && read_to_end(*reader));
    EXPECT_FALSE(reader->writer_is_alive());
  }
}

TEST(BusDirectory, MissingParent_IsInert) {
  const Folder folder;
  expect_inert(folder / "no/such/bus", {"cannot be made", std::strerror(ENOENT), "RANKBUS_BUS"});
  EXPECT_FALSE(std::filesystem::exists(folder / "no"));
}

TEST(BusDirectory, Missing_IsMadeForItsOwnerOnly) {
  const Folder folder;
  const mode_t mask = umask(0);
  EXPECT_TRUE(works(folder.bus()));
  umask(mask);
  struct stat status {};
  ASSERT_EQ(stat(folder.bus().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  for (const std::string& name : Directory(folder.bus()).segments()) {
    ASSERT_EQ(stat((folder.bus() + "/" + name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
  }
}

// C-17
TEST(BusDirectory, OfAnotherUser_IsInert) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can make directories of other users";
  const Folder folder;
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  ASSERT_EQ(chown(folder.bus().c_str(), 12345, 12345), 0);
  expect_inert(folder.bus(), {"uid 12345", "expected uid 0"});
  auto reader = rankbus::BusReader::open({folder.bus(), false}, {});
  ASSERT_FALSE(reader);
  EXPECT_NE(reader.error().find("uid 12345"), std::string::npos);
}

TEST(BusDirectory, OfRootForAnotherUser_IsInertWithoutTheRightToWrite) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const Folder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0755), 0);
  EXPECT_EQ(in_child([&] {
              if (setegid(54321) != 0 || seteuid(54321) != 0) return 1;
              const std::string fault =
                  inert_fault(tiles_on(folder.bus()), {folder.bus(), std::strerror(EACCES)});
              std::printf("%s\n", fault.c_str());
              return fault.empty() ? 0 : 2;
            }),
            0);
}

// A service's directory: setgid and sticky, for the group.
// C-17
TEST(BusDirectory, OfAGroup_WorksForItsMembersAndTheirSegmentsAreReadableInIt) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const Folder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  ASSERT_EQ(chown(folder.bus().c_str(), 11111, 777), 0);
  ASSERT_EQ(chmod(folder.bus().c_str(), 03770), 0);
  const auto open_as = [&](uid_t uid, gid_t gid) {
    return in_child([&] {
      umask(077);
      if (setegid(gid) != 0 || seteuid(uid) != 0) return 1;
      return Producer::open(tiles_on(folder.bus())).inert() ? 2 : 0;
    });
  };
  EXPECT_EQ(open_as(22222, 777), 0);
  EXPECT_EQ(open_as(33333, 777), 0) << "the first one's mask keeps nobody out";
  EXPECT_EQ(open_as(44444, 888), 2);
  const std::set<std::string> names = Directory(folder.bus()).segments();
  EXPECT_EQ(names.size(), 2u);
  for (const std::string& name : names) {
    struct stat status {};
    ASSERT_EQ(stat((folder.bus() + "/" + name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0640u);
    EXPECT_EQ(status.st_gid, 777u);
  }
}

// C-17
TEST(BusDirectory, WritableForEverybody_IsInertAndSaysHowToMendIt) {
  const Folder folder;
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  ASSERT_EQ(chmod(folder.bus().c_str(), 01777), 0);
  expect_inert(folder.bus(), {"1777", "expected 0700", "chmod"});
  ASSERT_EQ(chmod(folder.bus().c_str(), 0700), 0);
  EXPECT_TRUE(works(folder.bus()));
}

TEST(BusDirectory, SymbolicLink_IsInert) {
  const Folder folder;
  ASSERT_EQ(mkdir((folder / "real").c_str(), 0700), 0);
  ASSERT_EQ(symlink("real", folder.bus().c_str()), 0);
  expect_inert(folder.bus(), {"symbolic link", "expected a directory"});
  // The same with slashes behind it, which make the kernel follow it.
  const std::string slashed = folder.bus() + "//";
  EXPECT_EQ(inert_fault(tiles_on(slashed), {folder.bus(), "symbolic link"}), "");
  ASSERT_EQ(unlink(folder.bus().c_str()), 0);
  ASSERT_EQ(symlink("nowhere", folder.bus().c_str()), 0);
  expect_inert(folder.bus(), {"symbolic link"});
  EXPECT_TRUE(Directory(folder / "real").segments().empty());
}

TEST(BusDirectory, PlainFileInItsPlace_IsInert) {
  const Folder folder;
  std::ofstream(folder.bus()) << "somebody's notes";
  expect_inert(folder.bus(), {"not a directory", "expected"});
  expect_inert(folder.bus() + "/below", {"cannot be made", std::strerror(ENOTDIR)});
  std::ifstream file(folder.bus());
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text, "somebody's notes");
}

TEST(BusDirectory, PathTooLong_IsInert) {
  const Folder folder;
  // Cut at the end of our buffer, it would name another directory.
  std::string path = folder.path();
  while (path.size() < 700) path += "/" + std::string(90, 'd');
  std::filesystem::create_directories(path);
  OpenOptions options = tiles_on(path);
  EXPECT_EQ(inert_fault(options, {"too long", path.substr(0, 80)}), "");
  std::uint64_t made = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
    made += entry.is_directory() ? 0u : 1u;
  }
  EXPECT_EQ(made, 0u);
}

class OnDisk : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "rankbus-disk-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    struct statfs filesystem {};
    ASSERT_EQ(statfs(path_.c_str(), &filesystem), 0);
    if (filesystem.f_type == TMPFS_MAGIC) {
      GTEST_SKIP() << path_ << " is in memory; set TMPDIR to a directory on a disk";
    }
  }
  void TearDown() override { std::filesystem::remove_all(path_); }
  std::string path_;
};

// C-16
TEST_F(OnDisk, NotAllowed_IsInertAndMakesNothing) {
  const std::string bus = path_ + "/bus";
  expect_inert(bus, {"not in memory", "expected tmpfs", "RANKBUS_ALLOW_DISK=1"});
  EXPECT_FALSE(std::filesystem::exists(bus)) << "what is refused is not left behind";
  expect_inert(path_, {"not in memory"});
  EXPECT_TRUE(std::filesystem::exists(path_)) << "what was there stays";
  auto reader = rankbus::BusReader::open({path_, false}, {});
  ASSERT_FALSE(reader);
  EXPECT_NE(reader.error().find("RANKBUS_ALLOW_DISK=1"), std::string::npos);
  const Environment no("RANKBUS_ALLOW_DISK", "0");
  expect_inert(path_, {"not in memory"});
}

TEST_F(OnDisk, Allowed_Works) {
  const Environment allow("RANKBUS_ALLOW_DISK", "1");
  EXPECT_TRUE(works(path_ + "/bus"));
}

// C-17
TEST(BusDirectory, RemovedUnderALivingProducer_TheWorkerGoesOnAndTheNextMakesItAnew) {
  const Folder folder;
  Producer producer = Producer::open(tiles_on(folder.bus()));
  ASSERT_FALSE(producer.inert());
  std::filesystem::remove_all(folder.bus());
  for (std::uint64_t n = 0; n < 10'000; ++n) producer.record(tile(n));
  EXPECT_EQ(producer.dropped_records(), 0u);
  EXPECT_TRUE(works(folder.bus()));
}

// Another opener may be stopped while it holds the others off; they do not wait for ever.
// C-3
TEST(BusDirectory, OpenersLockHeldForEver_OpensAllTheSame) {
  const Folder folder;
  ASSERT_TRUE(works(folder.bus()));
  Child holder([&](const Line& line) {
    const int fd = open((folder.bus() + "/.open").c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0 || !rankbus::bus::take_write_lock(fd)) return 1;
    line.say("held");
    (void)line.hear();
    return 0;
  });
  ASSERT_EQ(holder.hear(), "held");
  EXPECT_TRUE(works(folder.bus()));
}

TEST(BusDirectory, OwnAndOpenFilesOfAnotherKind_HarmNobody) {
  const Folder folder;
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  ASSERT_EQ(symlink("/dev/zero", (folder.bus() + "/.open").c_str()), 0);
  ASSERT_EQ(mkfifo((folder.bus() + "/.owner").c_str(), 0600), 0);
  EXPECT_TRUE(works(folder.bus()));
  const Environment budget("RANKBUS_BUDGET", "40k");
  for (int life = 0; life < 20; ++life) EXPECT_TRUE(works(folder.bus()));
}

}  // namespace
}  // namespace bus_test
