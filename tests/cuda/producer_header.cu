// A worker's CUDA sources may include the producer too, beside their kernels. Compiling is the
// test.
#include <cuda_runtime.h>

#include <rankbus/producer.hpp>

__global__ void forward(float* values) {
  values[threadIdx.x] *= 2.0f;
}

void step(rankbus::Producer& producer, float* values, cudaStream_t stream) {
  rankbus::WorkerStep record;
  record.entered = producer.now();
  forward<<<1, 32, 0, stream>>>(values);
  record.launched = producer.now();
  producer.record(record);
}
