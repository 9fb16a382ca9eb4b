// Goal: when it gets crowded, the right one goes: of the largest crowd, whoever asks for nothing.
// Method: the table alone, with sockets of our own, addresses and times as they are given.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <deque>
#include <rankbus/exporters/http_connections.hpp>
#include <string>

namespace rankbus::test {
namespace {

using namespace std::chrono_literals;

class HttpConnectionsTest : public testing::Test {
 protected:
  struct Peer {
    int ours = -1;
    int theirs = -1;
    HttpConnections::Connection* place = nullptr;

    // The other side sees the end of it.
    bool is_closed() const {
      pollfd end{theirs, POLLIN, 0};
      return poll(&end, 1, 0) > 0;
    }
  };

  ~HttpConnectionsTest() override {
    for (const Peer& each : peers_) {
      close(each.ours);
      close(each.theirs);
    }
  }

  static sockaddr_storage address(const std::string& text) {
    sockaddr_storage storage{};
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    storage.ss_family = text.find(':') == std::string::npos ? AF_INET : AF_INET6;
    const bool is_v4 = storage.ss_family == AF_INET;
    void* bytes = is_v4 ? static_cast<void*>(&v4->sin_addr) : static_cast<void*>(&v6->sin6_addr);
    EXPECT_EQ(inet_pton(storage.ss_family, text.c_str(), bytes), 1) << text;
    return storage;
  }

  // One second later than whoever came before.
  Peer& come(HttpConnections& table, const std::string& from) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    const sockaddr_storage where = address(from);
    now_ += 1s;
    peers_.push_back(
        {pair[0], pair[1], table.opened(pair[0], reinterpret_cast<const sockaddr*>(&where), now_)});
    return peers_.back();
  }

  HttpConnections::Clock::time_point now_{1h};
  std::deque<Peer> peers_;
};

TEST_F(HttpConnectionsTest, FullTable_ClosesOfTheLargestCrowdWhoAskedForNothingForLongest) {
  HttpConnections table({4, 1h, 1h, 1});
  const Peer& alone = come(table, "10.0.0.1");
  const Peer& busy = come(table, "10.0.0.2");
  const Peer& idle = come(table, "10.0.0.2");
  const Peer& later = come(table, "10.0.0.2");
  table.asked(busy.place);
  const Peer& fifth = come(table, "10.0.0.3");
  EXPECT_TRUE(idle.is_closed());
  EXPECT_FALSE(alone.is_closed()) << "older, but no crowd";
  EXPECT_FALSE(busy.is_closed());
  EXPECT_FALSE(later.is_closed());
  EXPECT_FALSE(fifth.is_closed());
}

TEST_F(HttpConnectionsTest, AddressesOfOneHost_AreOneCrowd) {
  HttpConnections table({4, 1h, 1h, 1});
  const Peer& alone = come(table, "2001:db8:0:1::1");
  const Peer& first = come(table, "2001:db8:0:2::1");
  come(table, "2001:db8:0:2::2");
  come(table, "2001:db8:0:2:ffff::3");
  come(table, "2001:db8:0:3::4");
  EXPECT_FALSE(alone.is_closed());
  EXPECT_TRUE(first.is_closed());

  HttpConnections mapped({3, 1h, 1h, 1});
  const Peer& other = come(mapped, "10.0.0.2");
  const Peer& as_v4 = come(mapped, "10.0.0.1");
  come(mapped, "::ffff:10.0.0.1");
  come(mapped, "10.0.0.3");
  EXPECT_FALSE(other.is_closed());
  EXPECT_TRUE(as_v4.is_closed());
}

TEST_F(HttpConnectionsTest, ReadersOfAnswers_GoAfterThoseWhoAskForNothing) {
  HttpConnections table({3, 1h, 1h, 1});
  const Peer& slow = come(table, "10.0.0.1");
  table.asked(slow.place);
  table.answering(slow.place, now_);
  const Peer& waiting = come(table, "10.0.0.1");
  table.asked(waiting.place);
  const Peer& idle = come(table, "10.0.0.1");
  const Peer& next = come(table, "10.0.0.1");
  EXPECT_TRUE(idle.is_closed());
  table.asked(next.place);
  const Peer& last = come(table, "10.0.0.1");
  EXPECT_TRUE(last.is_closed()) << "it is the only one that asks for nothing";
  EXPECT_FALSE(slow.is_closed());
  const Peer& answered = waiting;
  table.answering(answered.place, now_);
  table.answered(answered.place, now_);
  come(table, "10.0.0.1");
  EXPECT_TRUE(answered.is_closed()) << "an answered connection asks for nothing again";
  EXPECT_FALSE(slow.is_closed());
}

TEST_F(HttpConnectionsTest, Deadlines_AreOfWholeRequestsAndAnswers) {
  HttpConnections table({9, 10s, 20s, 1});
  const Peer& silent = come(table, "10.0.0.1");
  const auto began = now_;
  const Peer& waiting = come(table, "10.0.0.1");
  table.asked(waiting.place);
  const Peer& reading = come(table, "10.0.0.1");
  table.asked(reading.place);
  table.answering(reading.place, began);
  table.close_overdue(began + 10s);
  EXPECT_FALSE(silent.is_closed());
  table.close_overdue(began + 10s + 1ms);
  EXPECT_TRUE(silent.is_closed());
  table.close_overdue(began + 20s);
  EXPECT_FALSE(reading.is_closed());
  table.close_overdue(began + 20s + 1ms);
  EXPECT_TRUE(reading.is_closed());
  table.close_overdue(began + 24h);
  EXPECT_FALSE(waiting.is_closed()) << "a wait for the bus is no fault of the client";
}

TEST_F(HttpConnectionsTest, HeldAnswers_AreBoundedByClosingTheOldest) {
  HttpConnections table({9, 1h, 1h, 100});
  Peer& one = come(table, "10.0.0.1");
  Peer& two = come(table, "10.0.0.1");
  Peer& three = come(table, "10.0.0.1");
  Peer& four = come(table, "10.0.0.1");
  table.hold({one.place, two.place}, 60);
  table.hold({three.place}, 40);
  table.answered(two.place, now_);
  EXPECT_FALSE(one.is_closed());
  table.hold({four.place}, 60);
  EXPECT_TRUE(one.is_closed());
  EXPECT_FALSE(two.is_closed()) << "it has read its answer";
  EXPECT_FALSE(three.is_closed()) << "100 bytes are held";
  table.answered(three.place, now_);
  table.answered(four.place, now_);
  table.hold({two.place}, 1000);
  EXPECT_FALSE(two.is_closed()) << "the newest may be larger";
}

}  // namespace
}  // namespace rankbus::test
