#include "core/device/buffer.h"

#include "core/device/cuda.h"

namespace yard {
namespace {

class PinnedBlocks final : public BlockSource {
 public:
  void* take(std::size_t bytes) override {
    void* block = nullptr;
    cuda::check_cuda(cudaMallocHost(&block, bytes), "locking ", bytes, " bytes of host memory");
    return block;
  }
  void give_back(void* block, std::size_t) noexcept override { (void)cudaFreeHost(block); }
};

}  // namespace

std::shared_ptr<Allocator> make_pinned_allocator(Cuda) { return make_caching_allocator(std::make_unique<PinnedBlocks>()); }

}  // namespace yard
