// What recurrence.cu needs of CUDA, on a CPU: a block's threads are threads, its barriers are barriers.
#pragma once
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;
struct Index { int x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
inline thread_local Index threadIdx, blockIdx;
inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<float> exchanged;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline float __shfl_xor_sync(unsigned, float value, int distance) {
  exchanged[threadIdx.x] = value;
  __syncthreads();
  const float other = exchanged[threadIdx.x ^ distance];
  __syncthreads();
  return other;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }

struct __half { float value; };
inline float __half2float(__half x) { return x.value; }
inline __half __float2half(float x) { return {x}; }
