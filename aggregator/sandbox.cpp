#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <iterator>
#include <rankbus/aggregator/sandbox.hpp>

namespace rankbus {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr std::uint32_t kArchitecture = 0;  // No filter for it here.
#endif

// Kernels know more rights than the headers of an older Debian name: each bit is one, in the order
// in which they came, and version i of Landlock has the first kRights[i] of them.
constexpr unsigned kRights[] = {0, 13, 14, 15, 15, 16};
constexpr std::uint64_t kReadRights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t kWriteRights =
    LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
    std::uint64_t{1} << 13 |  // Rename between directories.
    std::uint64_t{1} << 14;   // Truncate.

// What no thread of an aggregator ever does. Anything else stays, because a new C library calls
// what an old one did not.
constexpr int kRefusedCalls[] = {
    SYS_execve,        SYS_execveat,
    SYS_ptrace,        SYS_process_vm_readv,
    SYS_connect,       SYS_process_vm_writev,
    SYS_mount,         SYS_umount2,
    SYS_pivot_root,    SYS_chroot,
    SYS_unshare,       SYS_setns,
    SYS_bpf,           SYS_perf_event_open,
    SYS_userfaultfd,   SYS_keyctl,
    SYS_add_key,       SYS_request_key,
    SYS_init_module,   SYS_finit_module,
    SYS_delete_module, SYS_kexec_load,
    SYS_reboot,        SYS_swapon,
    SYS_swapoff,       SYS_settimeofday,
    SYS_clock_settime, SYS_sethostname,
    SYS_pidfd_getfd,   SYS_io_uring_setup,
};

std::string failure(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

std::string allow(int ruleset, const std::string& directory, std::uint64_t rights) {
  landlock_path_beneath_attr rule{};
  rule.allowed_access = rights;
  rule.parent_fd = open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (rule.parent_fd < 0) return failure("cannot open directory " + directory);
  const long added = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
  std::string why = added == 0 ? "" : failure("cannot allow directory " + directory);
  close(rule.parent_fd);
  return why;
}

std::string confine_files(const SandboxDirectories& directories) {
  const long version =
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 1) {
    return failure("this kernel has no Landlock, or it was started without it (lsm=...)");
  }
  constexpr long kNewest = std::size(kRights) - 1;
  const unsigned count = kRights[version < kNewest ? version : kNewest];
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = (std::uint64_t{1} << count) - 1;
  const auto ruleset = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes.handled_access_fs), 0));
  if (ruleset < 0) return failure("cannot make a Landlock ruleset");
  std::string why;
  const std::uint64_t known = attributes.handled_access_fs;
  for (const std::string& each : directories.read_only) {
    if (why.empty()) why = allow(ruleset, each, kReadRights & known);
  }
  for (const std::string& each : directories.read_write) {
    if (why.empty()) why = allow(ruleset, each, (kReadRights | kWriteRights) & known);
  }
  if (why.empty() && syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) {
    why = failure("cannot enter the Landlock ruleset");
  }
  close(ruleset);
  return why;
}

sock_filter statement(unsigned code, std::uint32_t value) {
  return {static_cast<std::uint16_t>(code), 0, 0, value};
}

// Goes on with the next statement if the accumulator compares so, else skips it.
sock_filter next_if(unsigned comparison, std::uint32_t value) {
  return {static_cast<std::uint16_t>(BPF_JMP | comparison | BPF_K), 0, 1, value};
}

std::string filter_system_calls() {
  if (kArchitecture == 0) return "there is no system call filter for this architecture";
  const sock_filter refuse = statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  const auto load = [](std::size_t offset) {
    return statement(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
  };
  std::vector<sock_filter> program{load(offsetof(seccomp_data, arch))};
  // Calls of another architecture have other numbers: only ours passes.
  program.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, kArchitecture});
  program.push_back(refuse);
  program.push_back(load(offsetof(seccomp_data, nr)));
  // x32 calls are ours with a bit set.
  program.push_back(next_if(BPF_JGE, 0x40000000));
  program.push_back(refuse);
  for (const int call : kRefusedCalls) {
    program.push_back(next_if(BPF_JEQ, static_cast<std::uint32_t>(call)));
    program.push_back(refuse);
  }
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    return failure("cannot install the system call filter");
  }
  return {};
}

}  // namespace

std::string enter_sandbox(const SandboxDirectories& directories) {
  tzset();  // Reads a file that the log's time stamps need.
  // Else neither is allowed without privileges, and a program could get some back.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failure("cannot give up new privileges");
  std::string why = confine_files(directories);
  return why.empty() ? filter_system_calls() : why;
}

}  // namespace rankbus
