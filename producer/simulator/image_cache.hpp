// The multimodal cache of one front end: the images that it saw last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <rankbus/producer/simulator/random.hpp>
#include <utility>

namespace rankbus::simulator {

class ImageCache {
 public:
  explicit ImageCache(std::uint64_t seed) : seed_(seed) {}

  // How many of a request's images the cache holds. It holds all of them afterwards.
  std::uint32_t look_up(std::uint32_t request, std::uint32_t images) {
    Random random(seed_, hash_pair(kSeedStream, request));
    std::uint32_t hits = 0;
    for (std::uint32_t i = 0; i < images; ++i) {
      // Low numbers are the popular ones.
      hits += hold(std::min(random.below(kImages), random.below(kImages))) ? 1 : 0;
    }
    return hits;
  }
  // Images that had to go since the call before.
  std::uint32_t take_evicted() { return std::exchange(evicted_, 0); }

  static constexpr std::size_t kRoom = 12;  // images

 private:
  static constexpr std::uint64_t kSeedStream = 109;
  static constexpr std::uint64_t kImages = 32;

  // False when the image had to be taken in.
  bool hold(std::uint64_t image) {
    const auto found = std::find(held_.begin(), held_.end(), image);
    const bool hit = found != held_.end();
    if (hit) held_.erase(found);
    held_.push_back(image);
    if (held_.size() > kRoom) {
      held_.pop_front();
      ++evicted_;
    }
    return hit;
  }

  std::uint64_t seed_;
  std::deque<std::uint64_t> held_;  // the one used last at the end
  std::uint32_t evicted_ = 0;
};

}  // namespace rankbus::simulator
