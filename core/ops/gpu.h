#pragma once

#include "core/device/cuda.h"

namespace yard::ops::kernels {

// The words of core/device/cuda.h that the CUDA kernels of this folder are written in.

using cuda::Add;
using cuda::all;
using cuda::any;
using cuda::ballot;
using cuda::block_reduce;
using cuda::blocks_for;
using cuda::item;
using cuda::kBlockThreads;
using cuda::kWarp;
using cuda::Lanes;
using cuda::launch;
using cuda::load_pack;
using cuda::Max;
using cuda::native;
using cuda::on_device;
using cuda::Pack;
using cuda::require;
using cuda::row_threads;
using cuda::shared;
using cuda::shuffle;
using cuda::shuffle_up;
using cuda::shuffle_xor;
using cuda::store_pack;
using cuda::sync_block;
using cuda::sync_warp;
using cuda::warp_reduce;
using cuda::with_packs;

}  // namespace yard::ops::kernels
