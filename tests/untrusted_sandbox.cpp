// Goal:   from within the sandbox nobody can be reached: no data to anybody who did not come by
//         himself, no signal to another process, no memory that has no path.
// Method: the product's own `enter_sandbox` in a child, which then tries each way out; beside it
//         what an aggregator needs: listening, answering, its own threads and signals.
// Replay: untrusted_sandbox [--gtest_filter=...]; nothing here is random.
#include <arpa/inet.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <rankbus/aggregator/sandbox.hpp>
#include <thread>

#include "process_world.hpp"

namespace bus_test {
namespace {

constexpr const char* kNoSandbox = "this kernel confines nobody (no Landlock, or no filter)";

struct Address {
  sockaddr_in value{};
  Address() {
    value.sin_family = AF_INET;
    value.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&value); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&value); }
  void take_from(int socket) {
    socklen_t size = sizeof value;
    (void)getsockname(socket, get(), &size);
  }
};

bool is_confined() {
  return rankbus::enter_sandbox({{"/proc"}, {"/dev/shm"}}).empty();
}

// Whether a call was refused by the filter, and by nothing else.
template <class Result>
bool refused(Result result) {
  return static_cast<long>(result) == -1 && errno == EPERM;
}

// C-28
TEST(Sandbox, NoDataToAnybodyWhoDidNotCome) {
  const int status = in_child([] {
    const int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    Address address;
    CHECK_HERE(bind(receiver, address.get(), sizeof address.value) == 0);
    address.take_from(receiver);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    Address server;
    CHECK_HERE(bind(listener, server.get(), sizeof server.value) == 0 && listen(listener, 5) == 0);
    server.take_from(listener);
    if (!is_confined()) return kSkipped;
    // Also from a socket that was open before.
    CHECK_HERE(refused(sendto(sender, "x", 1, 0, address.get(), sizeof address.value)));
    iovec part{const_cast<char*>("x"), 1};
    mmsghdr message{};
    message.msg_hdr.msg_name = address.get();
    message.msg_hdr.msg_namelen = sizeof address.value;
    message.msg_hdr.msg_iov = &part;
    message.msg_hdr.msg_iovlen = 1;
    CHECK_HERE(refused(sendmmsg(sender, &message, 1, 0)));
    const int stream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_HERE(stream >= 0);
    CHECK_HERE(refused(connect(stream, server.get(), sizeof server.value)));
    CHECK_HERE(refused(sendto(stream, "x", 1, MSG_FASTOPEN, server.get(), sizeof server.value)));
    CHECK_HERE(refused(sendto(stream, "x", 1, MSG_FASTOPEN, nullptr, 0)));
    message.msg_hdr.msg_name = server.get();
    CHECK_HERE(refused(sendmsg(stream, &message.msg_hdr, MSG_FASTOPEN)));
    CHECK_HERE(sendmsg(stream, &message.msg_hdr, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    pollfd nobody[2] = {{receiver, POLLIN, 0}, {listener, POLLIN, 0}};
    CHECK_HERE(poll(nobody, 2, 0) == 0);
    for (const int family : {AF_UNIX, AF_NETLINK, AF_PACKET, AF_VSOCK})
      CHECK_HERE(refused(socket(family, SOCK_STREAM, 0)));
    for (const int type : {SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET})
      CHECK_HERE(refused(socket(AF_INET, type, 0)));
    CHECK_HERE(refused(socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP)));
    return 0;
  });
  SKIP_OR_EXPECT_0(status, kNoSandbox);
}

// C-28
TEST(Sandbox, NoSignalToAnotherProcess) {
  Child victim([](const Line& line) {
    (void)line.hear();
    return 0;
  });
  const int status = in_child([&] {
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, victim.pid(), 0));
    if (!is_confined()) return kSkipped;
    siginfo_t info{};
    info.si_code = SI_QUEUE;
    for (const pid_t pid : {victim.pid(), getppid(), pid_t{0}, pid_t{-1}, -victim.pid()}) {
      CHECK_HERE(refused(kill(pid, SIGKILL)));
      CHECK_HERE(refused(syscall(SYS_tgkill, pid, pid, SIGKILL)));
      CHECK_HERE(refused(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &info)));
      CHECK_HERE(refused(syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGTERM, &info)));
    }
    CHECK_HERE(refused(syscall(SYS_tkill, victim.pid(), SIGKILL)));
    CHECK_HERE(pidfd < 0 || refused(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0)));
    return 0;
  });
  EXPECT_TRUE(victim.is_running());
  SKIP_OR_EXPECT_0(status, kNoSandbox);
}

// C-28
TEST(Sandbox, NoMemoryOrQueueWithoutAPath) {
  const int segment = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
  const int status = in_child([&] {
    if (!is_confined()) return kSkipped;
    CHECK_HERE(refused(reinterpret_cast<long>(shmat(segment, nullptr, 0))));
    CHECK_HERE(refused(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600)));
    CHECK_HERE(refused(shmctl(segment, IPC_RMID, nullptr)));
    CHECK_HERE(refused(msgget(IPC_PRIVATE, IPC_CREAT | 0600)));
    CHECK_HERE(refused(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600)));
    CHECK_HERE(refused(mq_open("/rankbus-test", O_RDWR | O_CREAT, 0600, nullptr)));
    char byte = 0;
    iovec part{&byte, 1};
    CHECK_HERE(refused(process_vm_readv(getppid(), &part, 1, &part, 1, 0)));
    return 0;
  });
  if (segment >= 0) shmctl(segment, IPC_RMID, nullptr);
  SKIP_OR_EXPECT_0(status, kNoSandbox);
}

// What an aggregator does all day.
// C-28
TEST(Sandbox, ListeningAnsweringAndOnesOwnSignals_GoOn) {
  Child server([](const Line& line) {
    if (!is_confined()) {
      line.say("none");
      return kSkipped;
    }
    std::thread([] {}).join();
    CHECK_HERE(kill(getpid(), 0) == 0);
    CHECK_HERE(pthread_kill(pthread_self(), 0) == 0);
    CHECK_HERE(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) >= 0 ||
               errno == EAFNOSUPPORT);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    Address address;
    CHECK_HERE(bind(listener, address.get(), sizeof address.value) == 0);
    CHECK_HERE(listen(listener, 5) == 0);
    address.take_from(listener);
    line.say(std::to_string(ntohs(address.value.sin_port)));
    const int guest = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    CHECK_HERE(send(guest, "hello", 5, MSG_NOSIGNAL) == 5);
    return 0;
  });
  const std::string port = server.hear();
  if (port == "none") GTEST_SKIP() << kNoSandbox;
  Address address;
  address.value.sin_port =
      htons(static_cast<std::uint16_t>(std::strtoul(port.c_str(), nullptr, 10)));
  const int guest = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char heard[8] = {};
  EXPECT_EQ(connect(guest, address.get(), sizeof address.value), 0);
  EXPECT_EQ(recv(guest, heard, 5, MSG_WAITALL), 5);
  EXPECT_STREQ(heard, "hello");
  close(guest);
  EXPECT_EQ(server.wait(), 0);
}

}  // namespace
}  // namespace bus_test
