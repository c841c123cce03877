// The loop over time of the bidirectional GRU, one block per sample, stack and direction; same arguments and layout as
// gru_one_row in triton_recurrence.py. Compiled by nvcc (cuda_recurrence.py).
//
// LANES neighbouring threads share one hidden unit: its three rows of recurrent weights stay in their registers, a
// LANES-th of the columns each. A step reads the state from shared memory, sums over the lanes by shuffles, and writes
// the unit's new state to the other of two buffers: one barrier per step.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

static __device__ __forceinline__ float to_float(float value) { return value; }
static __device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
static __device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
static __device__ __forceinline__ void store(float *target, float value) { *target = value; }
static __device__ __forceinline__ void store(__half *target, float value) { *target = __float2half(value); }
static __device__ __forceinline__ void store(__nv_bfloat16 *target, float value) { *target = __float2bfloat16(value); }

// 1 / (1 + e^-x); e^-x beyond the range of float gives 0.
static __device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

template <int LANES> static __device__ __forceinline__ float sum_over_lanes(float value) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

template <typename T, int H, int LANES>
static __device__ __forceinline__ void recur(const T *__restrict__ gates,    // [S, B, L, 2, 3H]
                                             const int *__restrict__ lengths, // [B]
                                             const T *__restrict__ weight,    // [S, 2, 3H, H]
                                             const T *__restrict__ bias,      // [S, 2, 3H]
                                             int batch, int length,
                                             T *__restrict__ out) { // [S, B, L, 2H]
  constexpr int QUADS = H / (4 * LANES); // groups of four columns per lane
  __shared__ __align__(16) float state[2][H];

  const int sample = blockIdx.x, way = blockIdx.y, stack = way / 2, direction = way % 2; // way: 2 * stack + direction
  const int unit = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int own = max(0, min(lengths[sample], length));

  // Lane l holds columns 4 * (l + i * LANES) + 0..3: lanes read neighbouring quads of the state.
  float w[3][QUADS][4];
  float b[3];
#pragma unroll
  for (int gate = 0; gate < 3; ++gate) {
    const T *row = weight + ((size_t)way * 3 * H + gate * H + unit) * H;
    b[gate] = to_float(bias[way * 3 * H + gate * H + unit]);
#pragma unroll
    for (int i = 0; i < QUADS; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        w[gate][i][j] = to_float(row[4 * (lane + i * LANES) + j]);
      }
    }
  }

  const size_t first_row = ((size_t)stack * batch + sample) * length;
  const ptrdiff_t forward = direction == 0 ? 1 : -1;
  const T *gate = gates + ((first_row + (direction == 0 || own == 0 ? 0 : own - 1)) * 2 + direction) * 3 * H + unit;
  T *target = out + (first_row + (direction == 0 || own == 0 ? 0 : own - 1)) * 2 * H + direction * H + unit;
  float x[3] = {0.0f, 0.0f, 0.0f};
  if (own > 0) {
#pragma unroll
    for (int g = 0; g < 3; ++g) x[g] = to_float(gate[g * H]);
  }
  if (lane == 0) state[0][unit] = 0.0f;
  __syncthreads();

  float h = 0.0f; // the unit's state, the same in all its lanes
  for (int step = 0; step < own; ++step) {
    gate += forward * 6 * H;
    float next[3] = {0.0f, 0.0f, 0.0f};
    if (step + 1 < own) {
#pragma unroll
      for (int g = 0; g < 3; ++g) next[g] = to_float(gate[g * H]);
    }
    const float4 *before = reinterpret_cast<const float4 *>(state[step & 1]);
    float sum[3][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}, {0.0f, 0.0f}}; // two chains each
#pragma unroll
    for (int i = 0; i < QUADS; ++i) {
      const float4 quad = before[lane + i * LANES];
#pragma unroll
      for (int g = 0; g < 3; ++g) {
        sum[g][0] = fmaf(w[g][i][0], quad.x, sum[g][0]);
        sum[g][1] = fmaf(w[g][i][1], quad.y, sum[g][1]);
        sum[g][0] = fmaf(w[g][i][2], quad.z, sum[g][0]);
        sum[g][1] = fmaf(w[g][i][3], quad.w, sum[g][1]);
      }
    }
    float product[3];
#pragma unroll
    for (int g = 0; g < 3; ++g) product[g] = sum_over_lanes<LANES>(sum[g][0] + sum[g][1]) + b[g];
    const float reset = sigmoid(x[0] + product[0]), update = sigmoid(x[1] + product[1]);
    const float candidate = 2.0f * sigmoid(2.0f * (x[2] + reset * product[2])) - 1.0f; // tanh
    h = candidate + update * (h - candidate);
    if (lane == 0) {
      state[(step + 1) & 1][unit] = h;
      store(target, h);
    }
    target += forward * 2 * H;
#pragma unroll
    for (int g = 0; g < 3; ++g) x[g] = next[g];
    __syncthreads();
  }
  if (lane == 0) {
    for (int step = own; step < length; ++step) store(out + (first_row + step) * 2 * H + direction * H + unit, 0.0f);
  }
}

#define RECURRENCE(NAME, TYPE, H, LANES)                                                                               \
  extern "C" __global__ void __launch_bounds__(H *LANES, 1)                                                            \
      NAME(const TYPE *gates, const int *lengths, const TYPE *weight, const TYPE *bias, int batch, int length,         \
           TYPE *out) {                                                                                                \
    recur<TYPE, H, LANES>(gates, lengths, weight, bias, batch, length, out);                                           \
  }

#define RECURRENCES(H, LANES)                                                                                          \
  RECURRENCE(gru_fp32_##H, float, H, LANES)                                                                            \
  RECURRENCE(gru_fp16_##H, __half, H, LANES)                                                                           \
  RECURRENCE(gru_bf16_##H, __nv_bfloat16, H, LANES)

RECURRENCES(16, 4)
RECURRENCES(32, 4)
RECURRENCES(64, 4)
RECURRENCES(128, 2)
