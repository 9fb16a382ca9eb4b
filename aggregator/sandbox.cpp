#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_connect,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_pidfd_getfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    // Messages to many, whose addresses lie in memory, where no filter can see them.
    SYS_sendmmsg,
    // Other processes, but for the calls below, which may name this one.
    SYS_tkill,
    SYS_pidfd_send_signal,
    SYS_kcmp,
    SYS_process_madvise,
    // Memory, queues and semaphores that have no path.
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_semctl,
    SYS_mq_open,
    SYS_mq_unlink,
};

// Calls that may name only this process, by their first argument.
constexpr int kOwnProcessOnly[] = {SYS_kill, SYS_tgkill, SYS_rt_sigqueueinfo,
                                   SYS_rt_tgsigqueueinfo};

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

// The filter, statement by statement. It ends each of its rules for calls by refusing or by jumping
// over the refusal, so that the number of the call is what is compared next.
class Filter {
 public:
  Filter() {
    load(offsetof(seccomp_data, arch));
    // Calls of another architecture have other numbers: only ours passes.
    program_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, kArchitecture});
    refuse();
    load_call();
    // x32 calls are ours with a bit set.
    program_.push_back(next_if(BPF_JGE, 0x40000000));
    refuse();
  }
  void refuse_call(int call) {
    program_.push_back(next_if(BPF_JEQ, static_cast<std::uint32_t>(call)));
    refuse();
  }
  // Refuses the call unless the argument, all 64 bits of it, has one of these values.
  void refuse_unless(int call, unsigned argument, const std::vector<std::uint32_t>& allowed) {
    begin_rule(call);
    rule_.push_back(statement(BPF_LD | BPF_W | BPF_ABS, word_of(argument) + 4));
    rule_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0});
    rule_.push_back(refusal());
    rule_.push_back(statement(BPF_LD | BPF_W | BPF_ABS, word_of(argument)));
    for (std::size_t i = 0; i < allowed.size(); ++i) {
      const auto over = static_cast<std::uint8_t>(allowed.size() - i);
      rule_.push_back({BPF_JMP | BPF_JEQ | BPF_K, over, 0, allowed[i]});
    }
    rule_.push_back(refusal());
    end_rule();
  }
  // Refuses the call if the low half of the argument has any of these bits.
  void refuse_bits(int call, unsigned argument, std::uint32_t bits) {
    begin_rule(call);
    rule_.push_back(statement(BPF_LD | BPF_W | BPF_ABS, word_of(argument)));
    rule_.push_back({BPF_JMP | BPF_JSET | BPF_K, 0, 1, bits});
    rule_.push_back(refusal());
    end_rule();
  }
  sock_fprog allow_the_rest() {
    program_.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    return {static_cast<unsigned short>(program_.size()), program_.data()};
  }

 private:
  static sock_filter refusal() { return statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM); }
  static std::uint32_t word_of(unsigned argument) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
  }
  void load(std::size_t offset) {
    program_.push_back(statement(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)));
  }
  void load_call() { load(offsetof(seccomp_data, nr)); }
  void refuse() { program_.push_back(refusal()); }
  void begin_rule(int call) {
    rule_.clear();
    call_ = static_cast<std::uint32_t>(call);
  }
  void end_rule() {
    const auto over = static_cast<std::uint8_t>(rule_.size() + 1);
    program_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, over, call_});
    program_.insert(program_.end(), rule_.begin(), rule_.end());
    load_call();
  }

  std::vector<sock_filter> program_;
  std::vector<sock_filter> rule_;
  std::uint32_t call_ = 0;
};

// With each of the flags that may be given with a type, and without.
std::vector<std::uint32_t> stream_types() {
  return {SOCK_STREAM, SOCK_STREAM | SOCK_CLOEXEC, SOCK_STREAM | SOCK_NONBLOCK,
          SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK};
}

std::string filter_system_calls() {
  if (kArchitecture == 0) return "there is no system call filter for this architecture";
  Filter filter;
  for (const int call : kRefusedCalls) filter.refuse_call(call);
  for (const int call : kOwnProcessOnly)
    filter.refuse_unless(call, 0, {static_cast<std::uint32_t>(getpid())});
  // The port is opened after this, and no other socket: TCP, to be listened on. Data goes to
  // whoever came, and to no address; with TCP fast open, sending would be connecting.
  filter.refuse_unless(SYS_socket, 0, {AF_INET, AF_INET6});
  filter.refuse_unless(SYS_socket, 1, stream_types());
  filter.refuse_unless(SYS_socket, 2, {0, IPPROTO_TCP});
  filter.refuse_unless(SYS_sendto, 4, {0});
  filter.refuse_bits(SYS_sendto, 3, MSG_FASTOPEN);
  // The HTTP library answers with it. The address that it may name is heard by no stream.
  filter.refuse_bits(SYS_sendmsg, 2, MSG_FASTOPEN);
  const sock_fprog program = filter.allow_the_rest();
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
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
