// Goal:   in a directory that users share everybody gets their locks, whatever the kernel protects;
//         a directory that a stranger made in the place of one's own is not taken; and without
//         /proc everything is read all the same.
// Method: other users by setuid; the kernel's protection (fs.protected_regular) as a filter of
//         system calls, because it is a setting of the whole machine; /proc under another mount.
// Replay: fault_shared_directory [--gtest_filter=...]; nothing here is random.
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>

#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::Role;

// Users of nobody on any machine.
constexpr uid_t kVictim = 61'234;
constexpr uid_t kStranger = 61'235;
constexpr gid_t kGroup = 61'236;

bool become(uid_t uid) {
  return setgroups(1, &kGroup) == 0 && setgid(kGroup) == 0 && setuid(uid) == 0;
}

// Makes a directory that a stranger has for a group.
bool make_group_directory(const std::string& path) {
  return mkdir(path.c_str(), 0700) == 0 && chown(path.c_str(), kStranger, kGroup) == 0 &&
         chmod(path.c_str(), 03770) == 0;
}

rankbus::OpenOptions marks_on(const char* bus) {
  rankbus::OpenOptions options;
  options.bus = bus;
  options.model = "m";
  options.role = Role::other;
  options.records[0] = rankbus::record_type<llm_engine::Mark>();
  return options;
}

// C-13, C-14
TEST(SharedDirectory, Malicious_GroupDirectoryInThePlaceOfOnesOwn_IsNotTaken) {
  const std::string place = "/dev/shm/rankbus-" + std::to_string(kVictim);
  const std::string named = "/dev/shm/rankbus-" + std::to_string(kStranger);
  const bool are_made = make_group_directory(place) && make_group_directory(named);
  const int status = !are_made ? kSkipped : in_child([&] {
    const Environment quiet("RANKBUS_QUIET", "1");
    if (!become(kVictim)) return kSkipped;
    unsetenv("RANKBUS_BUS");
    const Producer producer = Producer::open(marks_on(nullptr));
    // Where a service has made its directory, that one comes first.
    if (access(rankbus::bus::kServiceDirectory, F_OK) == 0) return kSkipped;
    CHECK_HERE(producer.inert());
    CHECK_HERE(std::strstr(producer.reason(), place.c_str()) != nullptr);
    CHECK_HERE(std::strstr(producer.reason(), "owned by uid 61235") != nullptr);
    CHECK_HERE(Directory(place).segments().empty());
    // One that somebody named is a service's.
    const Producer asked = Producer::open(marks_on(named.c_str()));
    CHECK_HERE(!asked.inert());
    return 0;
  });
  std::filesystem::remove_all(place);
  std::filesystem::remove_all(named);
  SKIP_OR_EXPECT_0(status, "this process may not become another user");
}

// As a kernel that protects files of others in sticky directories: what O_CREAT would only open is
// refused.
bool protect_regular_files() {
#if defined(__x86_64__)
  const auto word = [](std::size_t offset) { return static_cast<std::uint32_t>(offset); };
  sock_filter program[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, word(offsetof(seccomp_data, nr))},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_openat},
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, word(offsetof(seccomp_data, args) + 16)},
      {BPF_ALU | BPF_AND | BPF_K, 0, 0, O_CREAT | O_EXCL},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, O_CREAT},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EACCES},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{sizeof program / sizeof program[0], program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
#else
  return false;
#endif
}

bool lock_is_held(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  const bool held = fd >= 0 && rankbus::bus::write_lock_is_held(fd);
  close(fd);
  return held;
}

// C-14
TEST(SharedDirectory, ProtectedRegularFiles_LocksAreTakenAllTheSame) {
  const Folder folder;
  ASSERT_FALSE(Producer::open(marks_on(folder.bus().c_str())).inert());
  {
    const auto owner = open_bus(folder.bus(), false);
    ASSERT_TRUE(owner);
  }
  const int status = in_child([&] {
    if (!protect_regular_files()) return kSkipped;
    const Directory directory(folder.bus());
    {
      const rankbus::bus::OpenersLock lock(directory.fd(), 0600);
      CHECK_HERE(lock_is_held(folder.bus() + "/" + rankbus::bus::kOpenFile));
    }
    rankbus::BusOptions options;
    options.directory = folder.bus();
    options.ledger.keep = false;
    const auto owner = rankbus::BusReader::open(options, [](const std::string&) {});
    CHECK_HERE(owner);
    CHECK_HERE(lock_is_held(folder.bus() + "/" + rankbus::bus::kOwnerFile));
    return 0;
  });
  SKIP_OR_EXPECT_0(status, "no filter of system calls can be set here");
}

// C-13
TEST(SharedDirectory, SharedFile_IsMadeOnceAndNotThroughALink) {
  const Folder folder;
  const Directory directory(folder.path());
  const auto open_it = [&](const char* name) {
    const int fd = rankbus::bus::open_shared_file(directory.fd(), name, 0600);
    struct stat status {};
    const bool is_open = fd >= 0 && fstat(fd, &status) == 0;
    if (fd >= 0) close(fd);
    return is_open ? status.st_ino : 0;
  };
  const ino_t first = open_it("lock");
  EXPECT_NE(first, 0u);
  EXPECT_EQ(open_it("lock"), first);
  ASSERT_EQ(symlink("elsewhere", (folder / "link").c_str()), 0);
  EXPECT_EQ(open_it("link"), 0u);
  EXPECT_NE(access((folder / "elsewhere").c_str(), F_OK), 0);
}

// C-16
TEST(SharedDirectory, WithoutProc_SegmentsAreReadBehindTheirGuard) {
  const Folder folder;
  Producer producer = Producer::open(marks_on(folder.bus().c_str()));
  for (std::uint64_t n = 0; n < 10; ++n) producer.record(mark(n));
  const int status = in_child([&] {
    return in_namespaces(
        CLONE_NEWNS,
        [] {
          return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                 mount("tmpfs", "/proc", "tmpfs", 0, "size=64k") == 0;
        },
        [&] {
          std::vector<std::string> warnings;
          const auto bus = open_bus(folder.bus(), true, &warnings);
          CHECK_HERE(bus != nullptr);
          full_pass(*bus);
          CHECK_HERE(bus->postponed() == 0 && bus->live().size() == 1);
          CHECK_HERE(bus->live().begin()->second.reader->streams()[0].position == 10);
          return 0;
        });
  });
  SKIP_OR_EXPECT_0(status, "this process may not mount");
}

}  // namespace
}  // namespace bus_test
