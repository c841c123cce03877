// recurrence.cu as a C++ program part: one function that runs the whole grid, block after block.
#include KERNEL_SOURCE

using Kernel = void (*)(const float *, const int *, const float *, const float *, int, int, float *);

static void run_grid(Kernel kernel, int threads, const float *gates, const int *lengths, const float *weight,
                     const float *bias, int stacks, int batch, int length, float *out) {
  exchanged.assign(threads, 0.0f);
  for (int y = 0; y < 2 * stacks; ++y) {
    for (int x = 0; x < batch; ++x) {
      block_barrier = std::make_unique<std::barrier<>>(threads);
      std::vector<std::thread> block;
      for (int t = 0; t < threads; ++t) {
        block.emplace_back([=] {
          threadIdx = {t, 0, 0};
          blockIdx = {x, y, 0};
          kernel(gates, lengths, weight, bias, batch, length, out);
        });
      }
      for (auto &thread : block) thread.join();
    }
  }
}

extern "C" void run_16(const float *gates, const int *lengths, const float *weight, const float *bias, int stacks,
                       int batch, int length, float *out) {
  run_grid(gru_fp32_16, 16 * 4, gates, lengths, weight, bias, stacks, batch, length, out);
}
extern "C" void run_128(const float *gates, const int *lengths, const float *weight, const float *bias, int stacks,
                        int batch, int length, float *out) {
  run_grid(gru_fp32_128, 128 * 2, gates, lengths, weight, bias, stacks, batch, length, out);
}
