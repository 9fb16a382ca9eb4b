// Labels: threads alone
// Goal: scrapes stay available and correct whatever a crowd of other clients does.
// Method: real sockets on loopback, so everybody shares one address, the worst case. Idle clients
// and clients that ask or read a byte at a time stay, and come back when they are closed, until
// forty scrapers have got what they asked for. Nothing here measures time.
// Replay: ctest --test-dir build/release -R fault_http_crowds -V
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>

#include "unit_exporters_http_lib.hpp"

namespace rankbus::test {
namespace {

using namespace std::chrono_literals;

constexpr int kIdle = 1000;
constexpr int kSlow = 200;
constexpr int kScrapers = 40;
constexpr int kScrapesEach = 10;

// Both ends of every connection are here.
void raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Clients that never finish what they do. Half of the slow ones send a header a byte at a time,
// the others read an answer so.
class Crowd {
 public:
  Crowd(std::uint16_t port, int idle, int slow) : port_(port), idle_(idle), slow_(slow) {
    for (int i = 0; i < idle + slow; ++i) clients_.push_back(come(i));
    thread_ = std::thread([this] { bother(); });
  }
  ~Crowd() {
    {
      const std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  int rounds() const { return rounds_; }
  int closed() const { return closed_; }

 private:
  bool reads_slowly(int i) const { return i >= idle_ && i % 2 == 0; }

  std::unique_ptr<Client> come(int i) {
    auto client = std::make_unique<Client>(port_, reads_slowly(i) ? 2048 : 0);
    if (reads_slowly(i)) {
      client->send(request_text("GET /metrics"));
    } else if (i >= idle_) {
      client->send("GET /metrics HTTP/1.1\r\nX-Slow: ");
    }
    return client;
  }

  void bother() {
    while (!leaving_) {
      for (int i = 0; i < idle_ + slow_ && !leaving_; ++i) {
        auto& client = clients_[static_cast<std::size_t>(i)];
        if (i >= idle_) {
          if (reads_slowly(i)) {
            client->read_byte_if_any();
          } else {
            client->send("x");
          }
        }
        if (client->is_closed()) {
          client = come(i);
          ++closed_;
        }
      }
      ++rounds_;
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, 20ms, [this] { return leaving_.load(); });
    }
  }

  const std::uint16_t port_;
  const int idle_;
  const int slow_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> leaving_ = false;
  std::atomic<int> rounds_ = 0;
  std::atomic<int> closed_ = 0;
  std::thread thread_;
};

// How many scrapes, and how many of them were whole and right.
std::pair<int, int> scrape_all(const HttpServer& server, const std::string& expected) {
  std::vector<std::future<int>> right;
  for (int i = 0; i < kScrapers; ++i) {
    right.push_back(std::async(std::launch::async, [&] {
      int count = 0;
      for (int j = 0; j < kScrapesEach; ++j) {
        count += fetch(server, "GET /metrics").body == expected ? 1 : 0;
      }
      return count;
    }));
  }
  int all = 0;
  for (auto& each : right) all += each.get();
  return {kScrapers * kScrapesEach, all};
}

class FaultHttpCrowds : public testing::Test {
 protected:
  void SetUp() override { raise_descriptor_limit(); }
};

// C-27
TEST_F(FaultHttpCrowds, IdleAndSlowClients_LeaveEveryScrapeWhole) {
  const Snapshot shown = medium_snapshot();
  const auto server = start_with(shown);
  const Crowd crowd(server->port(), kIdle, kSlow);
  const auto [asked, right] = scrape_all(*server, render(shown));
  EXPECT_EQ(right, asked);
  EXPECT_EQ(fetch(*server, "GET /healthz").status, 200);
  EXPECT_GT(crowd.closed(), 0) << "more came than there is room for";
}

TEST_F(FaultHttpCrowds, SmallTable_LeavesEveryScrapeWhole) {
  const Snapshot shown = medium_snapshot();
  const auto server = start_with(shown, {.connections = 64});
  const Crowd crowd(server->port(), kIdle, kSlow);
  const auto [asked, right] = scrape_all(*server, render(shown));
  EXPECT_GE(right, 1);
  // With a table this small, the crowd that comes back may take the place of a scraper that has
  // connected and not yet asked; asking again is enough.
  EXPECT_EQ(fetch_until_answered(*server, "GET /metrics").body, render(shown));
  std::cout << right << " of " << asked << " scrapes were right at the first attempt\n";
}

}  // namespace
}  // namespace rankbus::test
