// Faults that a GPU may answer with the right numbers today and wrong ones tomorrow: each is planted beside the same code done right, and
// the emulation shows it every time.

#include <cublas_v2.h>
#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "core/device/cuda.h"
#include "tests/cuda_emulation/options.h"
#include "tests/cuda_emulation/queues.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;
using namespace cuda;
using ::testing::Each;
using ::testing::Eq;

using Values = std::vector<double>;

constexpr const char* kOrders[] = {"forward", "reverse", "shuffled:1", "shuffled:2", "shuffled:3"};

/// Runs the rest of the scope in an order.
class InOrder {
 public:
  explicit InOrder(const std::string& order) { emulation::set_order(order); }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;
  ~InOrder() { emulation::options() = before_; }

 private:
  emulation::Options before_ = emulation::options();
};

Tensor on_gpu(const std::vector<float>& values) { return Tensor::of<float>(gpu(), {static_cast<Index>(values.size())}, values); }
Values back(const Tensor& tensor) { return to_f64(tensor.to(gpu(), Device{})); }

class PlantedFault : public ::testing::Test {
 protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }  // fork alone would lose the cores' threads
};
using PlantedFaultDeath = PlantedFault;

// ---------------------------------------------------------------------------------------------------------------- barriers and shuffles

constexpr int kThreads = 128;
struct Tile {
  float values[kThreads];
};

template <bool kBarrier>
__global__ void reverse_block(const float* in, float* out) {
  auto& tile = shared<Tile>();
  const int i = static_cast<int>(threadIdx.x);
  tile.values[i] = in[i];
  if constexpr (kBarrier) sync_block();
  out[i] = tile.values[kThreads - 1 - i];
}

TEST_F(PlantedFault, ADroppedBarrierBeforeReading) {
  std::vector<float> values(kThreads);
  std::iota(values.begin(), values.end(), 1.0F);
  const Values expected(values.rbegin(), values.rend());
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    const Tensor in = on_gpu(values);
    const Tensor out(gpu(), {kThreads});
    launch(reverse_block<true>, 1, kThreads, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_EQ(back(out), expected) << order;
    launch(reverse_block<false>, 1, kThreads, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_NE(back(out), expected) << order << ": nobody has seen that the barrier is missing";
  }
}

/// Each thread takes its neighbour's value, eight times over.
template <bool kBarrier>
__global__ void shift_block(const float* in, float* out) {
  auto& tile = shared<Tile>();
  const int i = static_cast<int>(threadIdx.x);
  tile.values[i] = in[i];
  sync_block();
  for (int round = 0; round < 8; ++round) {
    const float next = tile.values[(i + 1) % kThreads];
    if constexpr (kBarrier) sync_block();
    tile.values[i] = next;
    sync_block();
  }
  out[i] = tile.values[i];
}

TEST_F(PlantedFault, ADroppedBarrierBeforeWriting) {
  std::vector<float> values(kThreads);
  std::iota(values.begin(), values.end(), 1.0F);
  Values expected(values.begin(), values.end());
  std::rotate(expected.begin(), expected.begin() + 8, expected.end());
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    const Tensor in = on_gpu(values);
    const Tensor out(gpu(), {kThreads});
    launch(shift_block<true>, 1, kThreads, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_EQ(back(out), expected) << order;
    launch(shift_block<false>, 1, kThreads, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_NE(back(out), expected) << order << ": nobody has seen that the barrier is missing";
  }
}

template <bool kBarrier>
__global__ void reverse_warp(const float* in, float* out) {
  auto& tile = shared<Tile>();
  const int i = static_cast<int>(threadIdx.x);
  tile.values[i] = in[i];
  if constexpr (kBarrier) sync_warp();
  out[i] = tile.values[kWarp - 1 - i];
}

TEST_F(PlantedFault, ADroppedBarrierOfAWarp) {
  std::vector<float> values(kWarp);
  std::iota(values.begin(), values.end(), 1.0F);
  const Values expected(values.rbegin(), values.rend());
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    const Tensor in = on_gpu(values);
    const Tensor out(gpu(), {kWarp});
    launch(reverse_warp<true>, 1, kWarp, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_EQ(back(out), expected) << order;
    launch(reverse_warp<false>, 1, kWarp, gpu(), on_device<float>(in), on_device<float>(out));
    EXPECT_NE(back(out), expected) << order << ": nobody has seen that the barrier is missing";
  }
}

/// Half of the lanes add up theirs; which lanes meet is said rightly or not.
__global__ void sum_of_half(float* out, Lanes lanes) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= 16) return;
  float sum = 1;
  for (int bits = 8; bits > 0; bits /= 2) sum += shuffle_xor(sum, bits, lanes);
  out[i] = sum;
}

TEST_F(PlantedFault, AShuffleWhoseLanesDoNotAllCome) {
  const Tensor out(gpu(), {16});
  launch(sum_of_half, 1, kWarp, gpu(), on_device<float>(out), 0xffffU);
  EXPECT_THAT(back(out), Each(Eq(16)));
  EXPECT_DEATH(
      {
        launch(sum_of_half, 1, kWarp, gpu(), on_device<float>(out), kAllLanes);
        gpu().synchronize();
      },
      "a kernel hangs.*waits for lanes 0xffffffff");
}

/// Threads may leave before the others meet, but not stand at a shuffle while the others are at the barrier.
__global__ void meet_unequally(float* out, bool shuffles) {
  if (threadIdx.x == 5) return;
  if (threadIdx.x == 40 && shuffles) (void)shuffle(1.0F, 0);
  sync_block();
  out[threadIdx.x] = 1;
}

TEST_F(PlantedFault, ABarrierThatSomeNeverReach) {
  const Tensor out = Tensor::zeros(gpu(), {64});
  launch(meet_unequally, 1, 64, gpu(), on_device<float>(out), false);
  const Values met = back(out);
  EXPECT_EQ(std::accumulate(met.begin(), met.end(), 0.0), 63);
  EXPECT_DEATH(
      {
        launch(meet_unequally, 1, 64, gpu(), on_device<float>(out), true);
        gpu().synchronize();
      },
      "a kernel hangs.*62 wait at the block's barrier and 1 have left");
}

// --------------------------------------------------------------------------------------------------------------------- streams and events

__global__ void set_all(float* out, float value, Index count) {
  if (item() < count) out[item()] = value;
}

TEST_F(PlantedFault, ADroppedEventBeforeReading) {
  for (const bool waits : {true, false}) {
    const InOrder in_order("forward");
    Stream other(gpu().device());
    const Tensor values = Tensor::zeros(gpu(), {100});
    gpu().synchronize();
    launch(set_all, 1, kThreads, gpu(), on_device<float>(values), 7.0F, Index{100});
    if (waits) other.wait(gpu().record());
    const Tensor copy = values.clone(other);
    const Values seen = to_f64(copy.to(other, Device{}));
    EXPECT_EQ(seen == Values(100, 7.0), waits) << "the other stream's copy runs at once unless an event keeps it";
    gpu().synchronize();
  }
}

TEST_F(PlantedFault, ADroppedEventBeforeOverwriting) {
  for (const bool waits : {true, false}) {
    const InOrder in_order("reverse");
    const Tensor values = Tensor::zeros(gpu(), {100});
    Stream other(gpu().device());
    gpu().synchronize();
    const Tensor copy = values.clone(gpu());
    if (waits) other.wait(gpu().record());
    launch(set_all, 1, kThreads, other, on_device<float>(values), 7.0F, Index{100});
    EXPECT_EQ(back(copy) == Values(100, 0.0), waits) << "the other stream overwrites at once unless an event keeps it";
    other.synchronize();
  }
}

TEST_F(PlantedFault, ADroppedEventShowsInShuffledOrdersToo) {
  int caught = 0;
  for (const char* order : {"shuffled:1", "shuffled:2", "shuffled:3", "shuffled:4", "shuffled:5", "shuffled:6"}) {
    const InOrder in_order(order);
    Stream other(gpu().device());
    const Tensor values = Tensor::zeros(gpu(), {100});
    gpu().synchronize();
    launch(set_all, 1, kThreads, gpu(), on_device<float>(values), 7.0F, Index{100});
    const Tensor copy = values.clone(other);
    caught += to_f64(copy.to(other, Device{})) == Values(100, 7.0) ? 0 : 1;
    gpu().synchronize();
  }
  EXPECT_GT(caught, 0);
}

TEST_F(PlantedFault, PageLockedMemoryReadTooEarly) {
  const Tensor values = on_gpu({1, 2, 3});
  const Tensor host = Tensor::on_host(gpu(), {3});
  gpu().copy(host.raw(), values.raw(), values.bytes());
  const Event copied = gpu().record();
  EXPECT_TRUE(std::isnan(host.values<float>()[0]));  // the fault: nobody has waited yet
  copied.wait();
  EXPECT_EQ(host.values<float>()[0], 1);
}

TEST_F(PlantedFaultDeath, ABufferForMpiThatACopyStillWrites) {
  const Tensor values = on_gpu({1, 2, 3});
  const Tensor host = Tensor::on_host(gpu(), {3});
  gpu().copy(host.raw(), values.raw(), values.bytes());
  EXPECT_DEATH(emulation::before_blocking_call("MPI_Allreduce", {host.raw()}), "MPI_Allreduce was given page-locked memory");
  EXPECT_DEATH(emulation::before_starting_call("MPI_Isend", {host.raw()}), "MPI_Isend was given page-locked memory");
  gpu().record().wait();
  emulation::before_blocking_call("MPI_Allreduce", {host.raw()});
  EXPECT_EQ(host.values<float>()[2], 3);
}

TEST_F(PlantedFault, QueuedWorkRunsBeforeACallThatBlocks) {
  const Tensor values = on_gpu({1, 2, 3});
  const Event done = gpu().record();
  const Event::State* state = done.state();
  emulation::before_blocking_call("MPI_Barrier", {});
  EXPECT_TRUE(state->done());
}

// ------------------------------------------------------------------------------------------------------------------------------- memory

/// Doubles `rows` rows of three.
__global__ void double_rows(const float* in, float* out, Index rows) {
  for (Index row = threadIdx.x; row < rows; row += blockDim.x) {
    for (Index c = 0; c < 3; ++c) out[row * 3 + c] = 2 * in[row * 3 + c];
  }
}

TEST_F(PlantedFaultDeath, ARowTooMany) {
  const Tensor in = Tensor::zeros(gpu(), {5, 3});
  const Tensor out(gpu(), {5, 3});
  const Tensor longer = Tensor::zeros(gpu(), {6, 3});
  launch(double_rows, 1, 32, gpu(), on_device<float>(in), on_device<float>(out), Index{5});
  EXPECT_THAT(back(out), Each(Eq(0)));
  EXPECT_DEATH(
      {
        launch(double_rows, 1, 32, gpu(), on_device<float>(in), on_device<float>(out), Index{6});
        gpu().synchronize();
      },
      "AddressSanitizer: use-after-poison.*\n.*READ");
  EXPECT_DEATH(
      {
        launch(double_rows, 1, 32, gpu(), on_device<float>(longer), on_device<float>(out), Index{6});
        gpu().synchronize();
      },
      "AddressSanitizer: use-after-poison.*\n.*WRITE");
}

__global__ void touch_tile(float* out, int last) {
  auto& tile = shared<Tile>();
  for (int i = static_cast<int>(threadIdx.x); i <= last; i += static_cast<int>(blockDim.x)) tile.values[i] = 1;
  sync_block();
  *out = tile.values[threadIdx.x];
}

TEST_F(PlantedFaultDeath, AnEntryTooManyOfSharedMemory) {
  const Tensor out(gpu(), {1});
  launch(touch_tile, 1, kThreads, gpu(), on_device<float>(out), kThreads - 1);
  EXPECT_EQ(back(out)[0], 1);
  EXPECT_DEATH(
      {
        launch(touch_tile, 1, kThreads, gpu(), on_device<float>(out), kThreads);
        gpu().synchronize();
      },
      "AddressSanitizer: use-after-poison");
}

TEST_F(PlantedFaultDeath, TheHostReadsTheDevicesMemory) {
  const Tensor values = on_gpu({1, 2, 3});
  gpu().synchronize();
  EXPECT_EQ(back(values), (Values{1, 2, 3}));  // done right: a copy in the order of the stream
  const auto* stolen = on_device<float>(values);
  EXPECT_DEATH(std::printf("%f", static_cast<double>(stolen[1])),
               "memory of the GPU was touched while nothing of it runs, 4 bytes into a block of 12 bytes");
  std::vector<float> host(3);
  EXPECT_DEATH(std::memcpy(host.data(), stolen, 12), "memory of the GPU was touched while nothing of it runs");
  EXPECT_DEATH(std::memcpy(on_device<float>(values), host.data(), 12), "memory of the GPU was touched while nothing of it runs");
}

TEST_F(PlantedFaultDeath, AKernelGetsMemoryOfTheHost) {
  std::vector<float> host(3);
  const Tensor tensor = Tensor::zeros(cpu(), {3});
  EXPECT_THROW((void)on_device<float>(tensor), Error);
  EXPECT_DEATH(launch(set_all, 1, 32, gpu(), host.data(), 1.0F, Index{3}), "a kernel was given an address of ordinary host memory");
}

TEST_F(PlantedFaultDeath, ABlockUsedAfterItsFree) {
  EXPECT_DEATH(
      {
        float* freed = nullptr;
        {
          const Tensor values(gpu(), {100});
          freed = on_device<float>(values);
        }
        launch(set_all, 1, kThreads, gpu(), freed, 1.0F, Index{100});
        gpu().synchronize();
      },
      "AddressSanitizer: use-after-poison");
  // Done right: the free waits for its turn behind the kernel.
  {
    const Tensor values(gpu(), {100});
    launch(set_all, 1, kThreads, gpu(), on_device<float>(values), 1.0F, Index{100});
  }
  gpu().synchronize();
}

TEST_F(PlantedFaultDeath, ABlockUsedByAnotherStreamAfterItsFree) {
  const InOrder in_order("forward");
  EXPECT_DEATH(
      {
        Stream other(gpu().device());
        float* freed = nullptr;
        {
          const Tensor values(gpu(), {100});
          freed = on_device<float>(values);
          other.wait(gpu().record());
          launch(set_all, 1, kThreads, other, freed, 1.0F, Index{100});
        }
        gpu().synchronize();  // frees what the other stream has not used yet
        other.synchronize();
      },
      "AddressSanitizer: use-after-poison");
}

TEST_F(PlantedFault, ValuesThatNobodyWroteAreNaN) {
  for (const double value : back(Tensor(gpu(), {1000}))) EXPECT_TRUE(std::isnan(value));
  for (const double value : back(Tensor(gpu(), {200000}))) ASSERT_TRUE(std::isnan(value));
  { const Tensor used = Tensor::zeros(gpu(), {200000}); }
  for (const double value : back(Tensor(gpu(), {200000}))) ASSERT_TRUE(std::isnan(value));
}

__device__ float deep(int depth, float value) {
  volatile float frame[64];
  frame[0] = value;
  return depth == 0 ? frame[0] : deep(depth - 1, frame[0] + 1) + frame[0];
}
__global__ void recurse(float* out, int depth) { *out = deep(depth, 0); }

TEST_F(PlantedFaultDeath, AThreadThatUsesTooMuchStack) {
  const Tensor out(gpu(), {1});
  launch(recurse, 1, 1, gpu(), on_device<float>(out), 3);
  gpu().synchronize();
  EXPECT_DEATH(
      {
        launch(recurse, 1, 1, gpu(), on_device<float>(out), 100000);
        gpu().synchronize();
      },
      "uses more stack than a fiber has|stack-overflow");
}

TEST_F(PlantedFault, AGridThatTheGpuDoesNotHave) {
  const Tensor out(gpu(), {1});
  EXPECT_THROW(launch(set_all, 1, 2048, gpu(), on_device<float>(out), 1.0F, Index{1}), Error);
  EXPECT_THROW(launch(set_all, dim3(1, 70000), 32, gpu(), on_device<float>(out), 1.0F, Index{1}), Error);
  EXPECT_THROW(gpu().copy(out.raw(), out.raw(), 8), Error);
}

// ------------------------------------------------------------------------------------------------------------------------------- cuBLAS

struct Library {
  Library() {
    EXPECT_EQ(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasSetStream(handle, native(gpu())), CUBLAS_STATUS_SUCCESS);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() { cublasDestroy(handle); }

  /// C (m x n) = A (m x k) B (k x n), column-major, with these leading dimensions.
  cublasStatus_t multiply(int m, int n, int k, const Tensor& a, int lda, const Tensor& b, int ldb, const Tensor& c, int ldc) const {
    const float one = 1;
    const float zero = 0;
    return cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, a.raw(), CUDA_R_32F, lda, b.raw(), CUDA_R_32F, ldb, &zero, c.raw(),
                        CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  }
  cublasHandle_t handle = nullptr;
};

TEST_F(PlantedFaultDeath, SwappedLeadingDimensions) {
  const Library library;
  const Tensor a = on_gpu({1, 2, 3, 4, 5, 6, 7, 8});  // 4 x 2
  const Tensor b = on_gpu({1, 0, 0, 1, 1, 1});        // 2 x 3
  const Tensor c(gpu(), {12});                        // 4 x 3
  EXPECT_EQ(library.multiply(4, 3, 2, a, 4, b, 2, c, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(back(c), (Values{1, 2, 3, 4, 5, 6, 7, 8, 6, 8, 10, 12}));
  EXPECT_EQ(library.multiply(4, 3, 2, a, 2, b, 4, c, 4), CUBLAS_STATUS_INVALID_VALUE) << "too small for A";
  EXPECT_EQ(library.multiply(4, 3, 2, a, 4, b, 2, c, 3), CUBLAS_STATUS_INVALID_VALUE) << "too small for C";
  // Swapped where both are allowed, so that no check of arguments sees it: B's columns would lie further apart than they do.
  EXPECT_DEATH(
      {
        (void)library.multiply(2, 3, 2, a, 2, b, 4, c, 2);
        gpu().synchronize();
      },
      "AddressSanitizer: use-after-poison");
}

TEST_F(PlantedFault, CublasRefusesWhatItHasNoKernelFor) {
  const Library library;
  const Tensor x(gpu(), {16}, DType::bf16);
  const Tensor y(gpu(), {16});
  const float one = 1;
  const auto type = [&](const Tensor& a, const Tensor& c, cublasOperation_t op) {
    const auto of = [](const Tensor& t) { return t.dtype() == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; };
    return cublasGemmEx(library.handle, op, CUBLAS_OP_N, 2, 2, 2, &one, a.raw(), of(a), 2, a.raw(), of(a), 2, &one, c.raw(), of(c), 2,
                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(type(x, y, CUBLAS_OP_T), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(type(y, x, CUBLAS_OP_T), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(type(x, y, static_cast<cublasOperation_t>(7)), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasSetStream(nullptr, nullptr), CUBLAS_STATUS_NOT_INITIALIZED);
}

// ------------------------------------------------------------------------------------------------------------------- what is no fault

/// Every way that threads of a block meet, on many blocks.
__global__ void all_meetings(const float* in, double* sums, Lanes* votes) {
  const Index at = item();
  const double sum = block_reduce(static_cast<double>(in[at]));
  const float most = block_reduce(in[at], Max{});
  const Lanes odd = ballot(threadIdx.x % 2 == 1);
  const int before = shuffle_up(static_cast<int>(threadIdx.x), 1);
  if (threadIdx.x == 0) {
    sums[2 * blockIdx.x] = sum;
    sums[2 * blockIdx.x + 1] = static_cast<double>(most);
    votes[blockIdx.x] = odd;
  }
  if (threadIdx.x == 33 && (before != 32 || !any(true, 2U) || !all(true, 2U) || any(false, 2U))) votes[blockIdx.x] = 0;
}

TEST(Emulation, BlocksAddUpInEveryOrder) {
  constexpr Index kBlocks = 60;
  const Tensor in = random_tensor({kBlocks * kThreads}, 1);
  std::vector<Values> results;
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    const Tensor there = in.to(gpu(), gpu().device());
    const Tensor sums(gpu(), {2 * kBlocks}, DType::f64);
    const Tensor votes(gpu(), {kBlocks}, DType::i32);
    launch(all_meetings, kBlocks, kThreads, gpu(), on_device<float>(there), on_device<double>(sums),
           reinterpret_cast<Lanes*>(on_device<std::int32_t>(votes)));
    results.push_back(back(sums));
    for (const double vote : back(votes)) EXPECT_EQ(vote, static_cast<std::int32_t>(0xaaaaaaaaU)) << order;
  }
  for (const Values& result : results) EXPECT_EQ(result, results[0]) << "sums depend on the order in which threads run";
  for (std::size_t block = 0; block < kBlocks; ++block) {
    const auto* first = in.data<float>() + block * kThreads;
    double sum = 0;
    for (int i = 0; i < kThreads; ++i) sum += static_cast<double>(first[i]);
    EXPECT_NEAR(results[0][2 * block], sum, 1e-9);
    EXPECT_EQ(results[0][2 * block + 1], static_cast<double>(*std::max_element(first, first + kThreads)));
  }
}

__global__ void note_order(std::int32_t* order, std::int32_t* next) { order[(*next)++] = static_cast<std::int32_t>(threadIdx.x); }

TEST(Emulation, SeedsDrawDifferentOrders) {
  std::vector<Values> seen;
  for (const char* order : {"forward", "reverse", "shuffled:1", "shuffled:2"}) {
    const InOrder in_order(order);
    const Tensor next = Tensor::zeros(gpu(), {1}, DType::i32);
    const Tensor into(gpu(), {64}, DType::i32);
    launch(note_order, 1, 64, gpu(), on_device<std::int32_t>(into), on_device<std::int32_t>(next));
    seen.push_back(back(into));
    for (std::size_t other = 0; other + 1 < seen.size(); ++other) EXPECT_NE(seen[other], seen.back());
    Values sorted = seen.back();
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, seen[0]) << "every thread runs once";
  }
}

}  // namespace
}  // namespace yard
