// Slot format 2 is written by kernels and read by the host, so its functions must compile for both
// and mean the same. A kernel packs words, the host takes them apart, and the other way round.
//
// Exits 77, which ctest and scripts/check call a skip, where there is no device.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <rankbus/bus/slot.hpp>

namespace bus = rankbus::bus;
using bus::Word;

constexpr Word kCapacity = 64;
constexpr int kWords = 256;

// What word i of the test holds: records on both sides of a lap, and laps on both sides of their
// wrap.
__host__ __device__ Word record_of(int i) {
  return i % 2 == 0 ? static_cast<Word>(i) : kCapacity * 0xffff - 128 + static_cast<Word>(i);
}
__host__ __device__ Word payload_of(int i) {
  return (static_cast<Word>(i) * 0x9e3779b97f4a7c15ull) & bus::kTaggedPayloadMask;
}

__global__ void pack(Word* words) {
  const int i = static_cast<int>(threadIdx.x);
  // One aligned 8-byte store, in whatever order the threads run.
  words[i] = bus::pack_tagged(bus::tagged_lap(record_of(i), kCapacity), payload_of(i));
}

__global__ void check(const Word* words, int* wrong) {
  const int i = static_cast<int>(threadIdx.x);
  const Word lap = bus::tagged_lap(record_of(i), kCapacity);
  if (!bus::tagged_is_of_lap(words[i], lap) || bus::tagged_payload(words[i]) != payload_of(i)) {
    atomicAdd(wrong, 1);
  }
}

// The sequence-word protocol stays on the host, and must compile there under nvcc too.
int check_sequence_words() {
  const bus::ProcessMemory memory;
  Word slot[4] = {};
  Word published = 0;
  bus::begin_slot(memory, slot, 5);
  memory.store_field(slot + 1, 17);
  bus::finish_slot(memory, slot, 5, &published);
  Word copy[3] = {};
  const bus::SlotOutcome outcome = bus::read_slot(memory, slot, 5, kCapacity, copy, 3, false);
  return outcome == bus::SlotOutcome::whole && copy[0] == 17 && published == 6 ? 0 : 1;
}

int main() {
  if (check_sequence_words() != 0) {
    std::printf("slot_format: a record written on the host does not read back\n");
    return 1;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  Word* words = nullptr;
  int* wrong = nullptr;
  if (cudaMallocManaged(&words, kWords * sizeof(Word)) != cudaSuccess ||
      cudaMallocManaged(&wrong, sizeof(int)) != cudaSuccess) {
    std::printf("slot_format: no memory that both can see\n");
    return 1;
  }
  *wrong = 0;
  pack<<<1, kWords>>>(words);
  if (cudaDeviceSynchronize() != cudaSuccess) return 1;
  for (int i = 0; i < kWords; ++i) {
    const Word lap = bus::tagged_lap(record_of(i), kCapacity);
    if (!bus::tagged_is_of_lap(words[i], lap) || bus::tagged_payload(words[i]) != payload_of(i)) {
      ++*wrong;
    }
    words[i] = bus::pack_tagged(lap, payload_of(i));
  }
  check<<<1, kWords>>>(words, wrong);
  if (cudaDeviceSynchronize() != cudaSuccess) return 1;
  std::printf("slot_format: %d words, %d wrong\n", kWords, *wrong);
  const int result = *wrong == 0 ? 0 : 1;
  cudaFree(words);
  cudaFree(wrong);
  return result;
}
