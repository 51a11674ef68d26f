#include "core/ops/host/gemm.h"

#include <dnnl.hpp>

#include <algorithm>
#include <array>
#include <mutex>
#include <tuple>

#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kPackedRows = 128;  // the library chooses the layout of B for a product of this many rows; it serves every other number

using Types = dnnl::memory::data_type;

dnnl::memory::desc matrix(Index rows, Index cols, Types type, Index row_step, Index column_step) {
  return {dnnl::memory::dims{rows, cols}, type, dnnl::memory::dims{row_step, column_step}};
}

class Compiled final : public Bf16Product {
 public:
  Compiled(dnnl::engine engine, const dnnl::matmul::primitive_desc& description)
      : engine_(std::move(engine)), description_(description), product_(description) {}

  std::unique_ptr<Arguments> arguments(Stream& stream) const override { return std::make_unique<Given>(stream, engine_, description_); }

  void run(Arguments& arguments, const BFloat16* a, const void* b, void* c) const override {
    auto& given = static_cast<Given&>(arguments);
    given.a.set_data_handle(const_cast<BFloat16*>(a));
    given.b.set_data_handle(const_cast<void*>(b));
    given.c.set_data_handle(c);
    const auto status = dnnl_primitive_execute(product_.get(), given.stream.get(), static_cast<int>(given.list.size()), given.list.data());
    check(status == dnnl_success, "a product of bf16 matrices failed in oneDNN with status ", status);
  }

 private:
  struct Given final : Arguments {
    dnnl::stream stream;
    Buffer memory;
    dnnl::memory a, b, c, scratch;
    std::array<dnnl_exec_arg_t, 4> list;
    Given(Stream& on, const dnnl::engine& engine, const dnnl::matmul::primitive_desc& of)
        : stream(engine),
          memory(on.allocator(), of.scratchpad_desc().get_size()),
          a(of.src_desc(), engine, nullptr),
          b(of.weights_desc(), engine, nullptr),
          c(of.dst_desc(), engine, nullptr),
          scratch(of.scratchpad_desc(), engine, memory.data()),
          list{{{DNNL_ARG_SRC, a.get()}, {DNNL_ARG_WEIGHTS, b.get()}, {DNNL_ARG_DST, c.get()}, {DNNL_ARG_SCRATCHPAD, scratch.get()}}} {}
  };
  dnnl::engine engine_;
  dnnl::matmul::primitive_desc description_;
  dnnl::matmul product_;
};

}  // namespace

struct Bf16Products::Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::mutex mutex;
  std::map<std::pair<Index, Index>, dnnl::memory::desc> packed;
  std::map<std::tuple<Index, Index, Index, Index>, dnnl::reorder> layings;

  dnnl::memory::desc packed_form(Index k, Index n) {
    const std::lock_guard lock(mutex);
    auto& form = packed[{k, n}];
    if (form.is_zero()) {
      const OneThread one;  // the library fixes the threads of a primitive when it is made
      dnnl::primitive_attr attributes;
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      const dnnl::memory::desc any({k, n}, Types::bf16, dnnl::memory::format_tag::any);
      const dnnl::matmul::desc product(matrix(kPackedRows, k, Types::bf16, k, 1), any, matrix(kPackedRows, n, Types::bf16, n, 1));
      form = dnnl::matmul::primitive_desc(product, attributes, engine).weights_desc();
    }
    return form;
  }

  std::unique_ptr<Bf16Product> compile(const Bf16Shape& s) {
    const bool a_turned = s.a_is == Operand::transposed;
    const auto a = matrix(s.m, s.k, Types::bf16, a_turned ? 1 : s.k, a_turned ? s.m : 1);
    const bool b_turned = s.b_is == Operand::transposed;
    const auto b =
        s.b_is == Operand::packed ? packed_form(s.k, s.n) : matrix(s.k, s.n, Types::bf16, b_turned ? 1 : s.n, b_turned ? s.k : 1);
    const auto c = matrix(s.m, s.n, s.out == DType::f32 ? Types::f32 : Types::bf16, s.n, 1);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0F);
      attributes.set_post_ops(sum);
    }
    const OneThread one;
    return std::make_unique<Compiled>(engine, dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, engine));
  }
};

Bf16Products::Bf16Products() : library_(std::make_unique<Library>()) {}
Bf16Products::~Bf16Products() = default;

const Bf16Product& Bf16Products::of(const Bf16Shape& shape) {
  {
    const std::shared_lock lock(mutex_);
    const auto found = products_.find(shape);
    if (found != products_.end()) return *found->second;
  }
  auto made = library_->compile(shape);
  const std::unique_lock lock(mutex_);
  return *products_.try_emplace(shape, std::move(made)).first->second;
}

std::size_t Bf16Products::packed_bytes(Index k, Index n) { return (library_->packed_form(k, n).get_size() + 63) / 64 * 64; }

void Bf16Products::pack(Index k, Index n, const BFloat16* b, Index row_step, Index column_step, void* packed) {
  const auto from = matrix(k, n, Types::bf16, row_step, column_step);
  const auto to = library_->packed_form(k, n);
  dnnl::memory source(from, library_->engine, const_cast<BFloat16*>(b));
  dnnl::memory target(to, library_->engine, packed);
  dnnl::reorder laying;
  {
    const std::lock_guard lock(library_->mutex);
    auto& kept = library_->layings[{k, n, row_step, column_step}];
    if (!kept) {
      const OneThread one;
      kept = dnnl::reorder(dnnl::reorder::primitive_desc(library_->engine, from, library_->engine, to));
    }
    laying = kept;
  }
  dnnl::stream stream(library_->engine);
  laying.execute(stream, source, target);
}

void Bf16Runner::find(const Bf16Shape& shape) {
  const auto found = std::find_if(met_.begin(), met_.end(), [&](const Met& met) { return met.shape == shape; });
  last_ = static_cast<std::size_t>(found - met_.begin());
  if (found != met_.end()) return;
  const Bf16Product& product = products_->of(shape);
  met_.push_back({shape, &product, product.arguments(*stream_)});
}

void sgemm(Operand a_is, Operand b_is, Index m, Index n, Index k, float alpha, const float* a, Index lda, const float* b, Index ldb,
           float beta, float* c, Index ldc) {
  const auto status =
      dnnl_sgemm(a_is == Operand::plain ? 'N' : 'T', b_is == Operand::plain ? 'N' : 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  check(status == dnnl_success, "the product of ", m, " x ", k, " by ", k, " x ", n, " failed in oneDNN with status ", status);
}

bool multiplies_bf16() {
  const auto isa = static_cast<int>(dnnl::get_effective_cpu_isa());
  const auto bf16 = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
  return (isa & bf16) == bf16;
}

}  // namespace yard::ops::host
