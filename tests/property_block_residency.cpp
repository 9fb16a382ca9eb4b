// Goal:   the residency of KV blocks is what a plain list of all that happened says, whether one
//         object saw it or one of each rank, in whatever order ranks were read and batches cut; and
//         the truth lies within the stated error of an estimate. Memory does not grow with blocks.
// Method: seeded lives of blocks on several ranks, with lost evictions and equal stamps. The list
//         is evaluated here once more by the definitions; objects are split, interleaved, batched
//         and merged at random, with bounds small enough to be met all the time. New blocks without
//         end, of which every fourth eviction is lost; RANKBUS_TEST_SCALE=100 makes 10^8.
// Replay: RANKBUS_TEST_SEED=<printed> property_block_residency [--gtest_filter=...]
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <rankbus/aggregator/analysis/batched_block_residency.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::analysis::BatchedBlockResidency;
using rankbus::analysis::BlockResidency;
using rankbus::analysis::Estimate;
using rankbus::analysis::is_sampled;
using rankbus::analysis::Json;
using rankbus::analysis::ResidencyConfig;

enum class What : std::uint8_t { allocate, access, evict, lose };
struct Happening {
  What what;
  std::uint64_t stream;
  std::uint64_t block_id;
  std::int64_t stamp_ns;
};

// In the order of time; several may have one stamp.
std::vector<Happening> random_happenings(Dice& dice, std::uint64_t streams, std::uint64_t first,
                                         std::uint64_t most) {
  std::vector<Happening> happenings(dice.below(most + 1));
  const std::uint64_t blocks = 1 + dice.below(60);
  std::int64_t stamp = static_cast<std::int64_t>(dice.below(1'000'000'000'000));
  for (Happening& happening : happenings) {
    stamp += static_cast<std::int64_t>(dice.below(dice.one_in(50) ? 5'000'000'000 : 3'000'000));
    const std::uint64_t roll = dice.below(200);
    const What what = roll == 0    ? What::lose
                      : roll < 60  ? What::allocate
                      : roll < 130 ? What::access
                                   : What::evict;
    happening = {what, first + dice.below(streams), dice.below(blocks), stamp};
  }
  return happenings;
}

double wall_of(const Happening& happening) {
  return 1.7e9 + static_cast<double>(happening.stamp_ns) / 1e9;
}

void apply(const Happening& happening, BlockResidency& residency) {
  const auto& [what, stream, block_id, stamp_ns] = happening;
  switch (what) {
    case What::allocate:
      return residency.on_allocated(stream, block_id, stamp_ns);
    case What::access:
      return residency.on_accessed(stream, block_id, stamp_ns);
    case What::evict:
      return residency.on_evicted_untrusted(stream, block_id, {stamp_ns, wall_of(happening)},
                                            block_id % 2 == 0 ? "even" : "odd");
    case What::lose:
      return residency.forget(stream);
  }
}

ResidencyConfig random_config(Dice& dice) {
  ResidencyConfig config;
  const double rates[] = {1, 0.6, 0.25};
  config.sample_rate = rates[dice.below(3)];
  config.history_size = 1 + static_cast<std::uint32_t>(dice.below(80));
  config.trend_window = 2 + static_cast<std::uint32_t>(dice.below(20));
  config.enable_detailed = !dice.one_in(4);
  config.anomaly_threshold = 0.5;
  config.max_alerts = 4;
  config.alerts_per_interval = 2;
  return config;
}

BlockResidency residency_of(const ResidencyConfig& config,
                            const std::vector<Happening>& happenings = {}) {
  BlockResidency residency = BlockResidency::create(config).value();
  for (const Happening& happening : happenings) apply(happening, residency);
  return residency;
}

// All that can be seen but alerts, which stand as they were raised.
std::string seen_but_alerts(BlockResidency residency) {
  Json dict = residency.export_to_dict({});
  for (const char* key : {"alerts", "alerts_suppressed", "alerts_dropped"}) dict.erase(key);
  dict["summary"].erase("alert_count");
  for (const auto& eviction : residency.drain_events())
    dict["events"].push_back(eviction.as_dict());
  return dict.dump(1);
}

// One life, ended, by the definitions.
struct Ended {
  Happening eviction;
  std::int64_t birth_ns;
  std::vector<std::int64_t> accesses_ns;
};

std::vector<Ended> ended_lives(const std::vector<Happening>& happenings, double sample_rate) {
  std::map<std::pair<std::uint64_t, std::uint64_t>, Ended> live;
  std::vector<Ended> ended;
  for (const Happening& now : happenings) {
    const std::pair key(now.stream, now.block_id);
    if (now.what == What::lose) {
      std::erase_if(live, [&](const auto& one) { return one.first.first == now.stream; });
    } else if (now.what == What::allocate && is_sampled(now.block_id, sample_rate)) {
      live[key] = {now, now.stamp_ns, {}};
    } else if (now.what == What::access && live.contains(key)) {
      live[key].accesses_ns.push_back(now.stamp_ns);
    } else if (now.what == What::evict && live.contains(key)) {
      ended.push_back(live[key]);
      ended.back().eviction = now;
      live.erase(key);
    }
  }
  std::stable_sort(ended.begin(), ended.end(), [](const Ended& left, const Ended& right) {
    return std::pair(left.eviction.stamp_ns, left.eviction.stream) <
           std::pair(right.eviction.stamp_ns, right.eviction.stream);
  });
  return ended;
}

// S1-10, S1-11, S1-13, S1-17, S1-25
TEST(BlockResidency, History_IsWhatAListOfAllLivesSays) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(400); round > 0; --round) {
    const ResidencyConfig config = random_config(dice);
    const std::vector<Happening> happenings = random_happenings(dice, 3, 0, 900);
    BlockResidency residency = residency_of(config, happenings);
    std::vector<Ended> lives = ended_lives(happenings, config.sample_rate);
    ASSERT_EQ(residency.health().followed_evictions, lives.size());
    if (lives.size() > config.history_size) {
      lives.erase(lives.begin(), lives.end() - static_cast<std::ptrdiff_t>(config.history_size));
    }
    ASSERT_EQ(residency.history().size(), lives.size());
    double sum_s = 0;
    double reused = 0;
    for (std::size_t i = 0; i < lives.size(); ++i) {
      const auto& found = residency.history()[i];
      const Ended& life = lives[i];
      const std::int64_t end_ns = life.eviction.stamp_ns;
      const auto& accesses = life.accesses_ns;
      ASSERT_EQ(found.block_id, life.eviction.block_id);
      ASSERT_EQ(found.lifetime_ns, end_ns - life.birth_ns);
      ASSERT_EQ(found.access_count, accesses.size());
      if (config.enable_detailed) {
        ASSERT_EQ(found.idle_ns, end_ns - (accesses.empty() ? life.birth_ns : accesses.back()));
        std::vector<std::int64_t> gaps;
        for (std::size_t at = accesses.size() > 10 ? accesses.size() - 9 : 1; at < accesses.size();
             ++at) {
          gaps.push_back(accesses[at] - accesses[at - 1]);
        }
        ASSERT_EQ(found.reuse_gaps_ns, gaps);
      }
      sum_s += found.lifetime_s();
      reused += accesses.size() > 1 ? 1 : 0;
    }
    const auto summary = residency.summary();
    const double n = std::max<double>(1, static_cast<double>(lives.size()));
    ASSERT_NEAR(summary.avg_lifetime_seconds, sum_s / n, 1e-9 * (1 + sum_s));
    ASSERT_DOUBLE_EQ(summary.hit_rate_estimate, reused / n);
  }
}

TEST(BlockResidency, RanksMerged_AreWhatOneProcessSaw) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(400); round > 0; --round) {
    const ResidencyConfig config = random_config(dice);
    const std::uint64_t ranks = 1 + dice.below(6);
    const std::vector<Happening> happenings = random_happenings(dice, ranks, 0, 900);
    const BlockResidency one = residency_of(config, happenings);
    std::vector<BlockResidency> parts(ranks, residency_of(config));
    for (const Happening& happening : happenings) apply(happening, parts[happening.stream]);
    while (parts.size() > 1) {
      const std::size_t into = dice.below(parts.size());
      const std::size_t from = (into + 1 + dice.below(parts.size() - 1)) % parts.size();
      ASSERT_TRUE(parts[into].aggregate(parts[from]));
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(from));
    }
    ASSERT_EQ(seen_but_alerts(parts.front()), seen_but_alerts(one));
  }
}

TEST(BlockResidency, RanksReadOneAfterAnother_AreWhatTheOrderOfTimeGives) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(300); round > 0; --round) {
    const ResidencyConfig config = random_config(dice);
    std::vector<Happening> happenings = random_happenings(dice, 4, 0, 600);
    const BlockResidency in_time = residency_of(config, happenings);
    // A reader takes what it finds of one rank, then of the next.
    const std::size_t pass = 1 + dice.below(200);
    for (std::size_t from = 0; from < happenings.size(); from += pass) {
      const std::size_t to = std::min(happenings.size(), from + pass);
      std::stable_sort(
          happenings.begin() + static_cast<std::ptrdiff_t>(from),
          happenings.begin() + static_cast<std::ptrdiff_t>(to),
          [](const Happening& left, const Happening& right) { return left.stream > right.stream; });
    }
    ASSERT_EQ(seen_but_alerts(residency_of(config, happenings)), seen_but_alerts(in_time));
  }
}

TEST(BlockResidency, Merge_IsAssociativeAndCommutativeAtEveryBound) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(400); round > 0; --round) {
    ResidencyConfig config = random_config(dice);
    config.max_followed = 8;
    const auto one_of_rank = [&](std::uint64_t rank) {
      BlockResidency residency =
          residency_of(config, random_happenings(dice, 1, rank, dice.one_in(5) ? 0 : 500));
      if (dice.one_in(3)) residency.drain_events();
      if (dice.one_in(3)) residency.drain_alerts();
      return residency;
    };
    const BlockResidency a = one_of_rank(0);
    const BlockResidency b = one_of_rank(1);
    const BlockResidency c = one_of_rank(2);
    const auto sum = [](BlockResidency left, const BlockResidency& right) {
      EXPECT_TRUE(left.aggregate(right));
      return left;
    };
    ASSERT_EQ(sum(a, b), sum(b, a));
    ASSERT_EQ(sum(sum(a, b), c), sum(a, sum(b, c)));
    ASSERT_EQ(sum(a, residency_of(config)), a);
    ASSERT_EQ(sum(residency_of(config), a), a);
  }
}

// S1-43, S1-46
TEST(BatchedBlockResidency, AnyCutIntoBatches_GivesWhatSingleCallsGive) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(300); round > 0; --round) {
    const ResidencyConfig config = random_config(dice);
    std::vector<Happening> happenings = random_happenings(dice, 2, 0, 900);
    BatchedBlockResidency batched = BatchedBlockResidency::create(config).value();
    BlockResidency single = residency_of(config);
    for (Happening& happening : happenings) {
      // A batch: one kind of call, one stream, one stamp, many blocks.
      std::vector<std::uint64_t> ids;
      for (std::uint64_t i = dice.below(dice.one_in(9) ? 230 : 12); i > 0; --i) {
        ids.push_back(dice.below(90));
      }
      for (const std::uint64_t id : ids) {
        happening.block_id = id;
        if (happening.what == What::evict) {
          single.on_evicted_untrusted(happening.stream, id,
                                      {happening.stamp_ns, wall_of(happening)}, "full");
        } else if (happening.what != What::lose) {
          apply(happening, single);
        }
      }
      if (happening.what == What::allocate) {
        batched.batch_allocate(happening.stream, ids, happening.stamp_ns);
      } else if (happening.what == What::access) {
        batched.batch_access(happening.stream, ids, happening.stamp_ns);
      } else if (happening.what == What::evict) {
        batched.batch_evict_untrusted(happening.stream, ids,
                                      {happening.stamp_ns, wall_of(happening)}, "full");
      } else {
        apply(happening, single);
        batched.forget(happening.stream);
      }
      if (dice.one_in(40)) batched.flush_all();
    }
    ASSERT_EQ(batched.flushed(), single);
  }
}

// S1-29
TEST(BlockResidency, Truth_IsWithinTheStatedErrorNearlyAlways) {
  Dice dice(test_seed());
  constexpr std::uint64_t kTrials = 400;
  std::uint64_t live_within = 0;
  std::uint64_t evictions_within = 0;
  for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
    ResidencyConfig config;
    config.sample_rate = 0.02 + 0.01 * static_cast<double>(dice.below(20));
    config.history_size = 10;
    BlockResidency residency = residency_of(config);
    const std::uint64_t first = dice.next() >> 1;
    // Some blocks come back much more often than others, and ranks share ids.
    for (std::uint64_t id = first; id < first + 2000; ++id) {
      const std::uint64_t lives = id % 10 == 0 ? 20 : 1;
      for (std::uint64_t stream = 0; stream < 2; ++stream) {
        for (std::uint64_t life = 0; life < lives; ++life) {
          residency.on_allocated(stream, id, 1);
          residency.on_evicted_untrusted(stream, id, {2, 0});
        }
        residency.on_allocated(stream, id, 3);
      }
    }
    const auto is_within = [](const Estimate& estimate, double truth) {
      return estimate.low <= truth && truth <= estimate.high;
    };
    const auto evictions = static_cast<double>(residency.total_evictions());
    live_within += is_within(residency.estimated_live_blocks(), 4000) ? 1 : 0;
    evictions_within += is_within(residency.estimated_evictions(), evictions) ? 1 : 0;
  }
  // About 95 of 100 are stated, and 88 are more than five standard deviations of 400 trials away.
  EXPECT_GE(live_within, kTrials * 88 / 100);
  EXPECT_GE(evictions_within, kTrials * 88 / 100);
}

std::size_t allocated_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// S1-17, S1-29
TEST(BlockResidency, BlocksWithoutEnd_TakeNoMoreMemoryThanStated) {
  for (const double rate : {0.01, 1.0}) {
    const std::size_t before_bytes = allocated_bytes();
    ResidencyConfig config;
    config.sample_rate = rate;
    BlockResidency residency = residency_of(config);
    const std::uint64_t blocks = scaled(1'000'000);
    std::uint64_t live = 0;
    for (std::uint64_t id = 0; id < blocks; ++id) {
      const auto now_ns = static_cast<std::int64_t>(id) * 10'000;
      residency.on_allocated(0, id, now_ns);
      for (std::uint64_t i = id % 3; i > 0; --i) residency.on_accessed(0, id, now_ns + 100);
      if (id % 4 == 0) {
        ++live;
      } else {
        residency.on_evicted_untrusted(0, id, {now_ns + 2'000'000, 0});
      }
    }
    const std::size_t bytes = allocated_bytes() - before_bytes;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LE(bytes, 14'000'000u) << "as block_residency.hpp says";
#endif
    EXPECT_LE(residency.followed_blocks(), config.max_followed);
    // What was sampled but is not followed any more was evicted; the newest of those are kept.
    EXPECT_LE(residency.history().size(), config.history_size);
    if (rate * static_cast<double>(blocks - live) >
        2.0 * static_cast<double>(config.history_size)) {
      EXPECT_EQ(residency.history().size(), config.history_size);
    }
    EXPECT_EQ(residency.total_allocations(), blocks);
    EXPECT_EQ(residency.total_evictions(), blocks - live);
    const Estimate evictions = residency.estimated_evictions();
    const auto truth = static_cast<double>(blocks - live);
    // Twice the stated error is four standard errors. Beyond max_followed an eviction is unmatched.
    EXPECT_LE(std::abs(evictions.value - truth), 2 * evictions.error + 1e-6 * truth);
    std::printf(
        "  rate %.2f: %zu bytes, %llu blocks, %zu followed, %.0f +- %.0f of %.0f evictions\n", rate,
        bytes, static_cast<unsigned long long>(blocks), residency.followed_blocks(),
        evictions.value, evictions.error, truth);
  }
}

}  // namespace
}  // namespace bus_test
