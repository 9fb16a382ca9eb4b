// Goal:   where a control group, of either version, at any of its levels, has too little memory
// left, a
//         producer is inert at open and says so, because the kernel would kill the worker instead
//         of failing a call; page cache that the kernel gives back counts as free.
// Method: put files as the kernel writes them over /sys/fs/cgroup in a mount namespace; and enter a
//         real control group with a real limit, where one may be made.
// Replay: fault_memory_limit [--gtest_filter=...]; nothing here is random.
#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::bus::group_in_line;
using rankbus::bus::kCgroup1;
using rankbus::bus::kCgroup2;

constexpr const char* kNoMounts = "mounting is not permitted here (needs root)";

// Version, level, limit, use and page cache in KiB.
struct Files {
  const rankbus::bus::MemoryFiles& version;
  std::string group;
  std::uint64_t most_kib;
  std::uint64_t used_kib;
  std::uint64_t cache_kib;
};

bool put_files(const Files& files) {
  const std::string place = files.version.mount + files.group;
  std::error_code error;
  std::filesystem::create_directories(place, error);
  const std::string half = std::to_string(files.cache_kib * 512) + "\n";
  const std::string most = files.most_kib == 0 ? "max" : std::to_string(files.most_kib * 1024);
  return write_text(place + "/" + files.version.most, most + "\n") &&
         write_text(place + "/" + files.version.used,
                    std::to_string(files.used_kib * 1024) + "\n") &&
         write_text(place + "/memory.stat", "cache 1\n" + (files.version.reclaimable[0] + half) +
                                                (files.version.reclaimable[1] + half) + "anon 7\n");
}

// What the open of a rank says in a world whose control groups are these.
int open_among(const std::vector<Files>& all, const std::string& cgroup_lines, const Folder& folder,
               bool should_work) {
  return in_child([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "size=1m") != 0)
      return kSkipped;
    const std::string lines = folder / "cgroup";
    if (!write_text(lines, cgroup_lines) ||
        mount(lines.c_str(), "/proc/self/cgroup", nullptr, MS_BIND, nullptr) != 0)
      return kSkipped;
    for (const Files& files : all) CHECK_HERE(put_files(files));
    const Environment quiet("RANKBUS_QUIET", "1");
    Producer producer = Producer::open(tiles_of_rank(folder.bus(), 0));
    const bool says_limit = std::strstr(producer.reason(), "memory limit") != nullptr;
    CHECK_HERE(producer.inert() != should_work);
    CHECK_HERE(producer.inert() == says_limit);
    return 0;
  });
}

// C-15
TEST(MemoryLimit, OfAnyLevelAndVersion_IsKept) {
  const std::string unified = "0::/pod/worker\n";
  const std::string older = "5:devices:/x\n4:cpu,memory:/pod/worker\n0::/\n";
  struct Case {
    std::string what;
    std::string lines;
    std::vector<Files> files;
    bool works;
  };
  // A segment here takes some 30 KiB.
  const std::vector<Case> cases = {
      {"no limit anywhere", unified, {}, true},
      {"enough", unified, {{kCgroup2, "/pod/worker", 4096, 100, 0}}, true},
      {"own level is full", unified, {{kCgroup2, "/pod/worker", 4096, 4090, 0}}, false},
      {"level above is full", unified, {{kCgroup2, "/pod", 4096, 4090, 0}}, false},
      {"own level has no limit, the root is full",
       unified,
       {{kCgroup2, "/pod/worker", 0, 100, 0}, {kCgroup2, "", 4096, 4090, 0}},
       false},
      {"full of page cache", unified, {{kCgroup2, "/pod/worker", 4096, 4090, 3000}}, true},
      {"version 1, enough", older, {{kCgroup1, "/pod/worker", 4096, 100, 0}}, true},
      {"version 1, own level is full", older, {{kCgroup1, "/pod/worker", 4096, 4090, 0}}, false},
      {"version 1, in a container that sees its own group as the root",
       older,
       {{kCgroup1, "", 4096, 4090, 0}},
       false},
      {"version 1, full of page cache", older, {{kCgroup1, "/pod/worker", 4096, 4090, 3000}}, true},
      {"both versions, the older one is full",
       older,
       {{kCgroup2, "", 4096, 0, 0}, {kCgroup1, "/pod/worker", 4096, 4090, 0}},
       false},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    const Folder folder;
    SKIP_OR_EXPECT_0(open_among(each.files, each.lines, folder, each.works), kNoMounts);
  }
}

TEST(MemoryLimit, LinesOfControlGroups_AreUnderstood) {
  const auto group = [](const char* line, const rankbus::bus::MemoryFiles& files) {
    const char* found = group_in_line(line, files);
    return found == nullptr ? std::string("none") : std::string(found);
  };
  EXPECT_EQ(group("0::/a/b", kCgroup2), "/a/b");
  EXPECT_EQ(group("4:memory:/a", kCgroup2), "none");
  EXPECT_EQ(group("0::/a/b", kCgroup1), "none");
  EXPECT_EQ(group("4:memory:/a", kCgroup1), "/a");
  EXPECT_EQ(group("14:cpu,memory,pids:/a:b", kCgroup1), "/a:b");
  EXPECT_EQ(group("9:name=memory:/a", kCgroup1), "none");
  EXPECT_EQ(group("9:memorylike,cpu:/a", kCgroup1), "none");
  for (const char* rubbish : {"", ":", "::", "memory", "4:memory", "4:,,:"}) {
    EXPECT_EQ(group(rubbish, kCgroup1) == "/a", false) << rubbish;
    EXPECT_EQ(group(rubbish, kCgroup2) == "/a", false) << rubbish;
  }
}

// This process's own group of a version, where it can be found; else empty.
std::string own_group(const rankbus::bus::MemoryFiles& version) {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (const char* group = group_in_line(line.c_str(), version)) {
      std::string place = version.mount + std::string(group);
      while (place.size() > 1 && place.back() == '/') place.pop_back();
      if (std::filesystem::exists(place + "/cgroup.procs")) return place;
    }
  }
  return {};
}

// C-15
TEST(MemoryLimit, OfARealControlGroup_NobodyIsKilled) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory would fill the group";
#endif
  bool was_one_made = false;
  for (const auto* version : {&kCgroup1, &kCgroup2}) {
    const std::string parent = own_group(*version);
    if (parent.empty()) continue;
    const std::string group = parent + "/rankbus-test-" + std::to_string(getpid());
    if (mkdir(group.c_str(), 0755) != 0) continue;
    if (std::filesystem::exists(group + "/" + version->most) &&
        write_text(group + "/" + version->most, std::to_string(16 << 20))) {
      was_one_made = true;
      const Folder folder;
      // Workers come until there is no room; each has touched all its pages by then.
      Child pod([&](const Line& line) {
        if (!write_text(group + "/cgroup.procs", std::to_string(getpid()))) return kSkipped;
        const Environment quiet("RANKBUS_QUIET", "1");
        std::vector<Producer> workers;
        for (;;) {
          rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::worker);
          options.rank = static_cast<std::uint32_t>(workers.size());
          options.segment_bytes = 1 << 20;  // So much room is left for what else a process needs.
          workers.push_back(Producer::open(options));
          if (workers.back().inert() || workers.size() > 100) break;
        }
        line.say(workers.back().reason());
        for (Producer& worker : workers) worker.record(rankbus::WorkerStep{});
        return workers.size() > 100 ? 1 : 0;
      });
      const std::string said = pod.hear();
      EXPECT_EQ(pod.wait(), 0) << "the kernel has killed it, or it could not be moved";
      EXPECT_NE(said.find("memory limit"), std::string::npos) << said;
      std::printf("%s: %s\n", group.c_str(), said.c_str());
    }
    // What the bus holds is charged to the group until it is gone.
    ASSERT_TRUE(wait_until([&] { return rmdir(group.c_str()) == 0 || errno == ENOENT; }));
  }
  if (!was_one_made) GTEST_SKIP() << "no control group with a memory limit can be made here";
}

}  // namespace
}  // namespace bus_test
