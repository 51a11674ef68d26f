#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/checkpoint/folder.h"
#include "parallel/families/shared/name_table.h"
#include "parallel/sharded_adamw.h"

namespace yard {

/// Writes checkpoints that are Hugging Face directories, with the optimizer's state beside the model:
///   config.json, generation_config.json, the tokenizer's files
///   model-0000i-of-0000n.safetensors    values by the names of the model's family, and model.safetensors.index.json
///   optimizer-0000i-of-0000n.safetensors  moments and, in bf16, f32 masters, by our logical names (proto/checkpoint.proto)
///   state.json                          written last
/// Every rank writes what it owns, all at once, and each file has one writer: replicas share the tensors that they all hold. Protocol: all
/// ranks write into STEP.tmp and bring their files to the disk; when all have succeeded rank 0 writes state.json, renames the folder, and
/// then replaces `latest`; only then are older ones pruned.
class CheckpointWriter {
 public:
  struct Settings {
    std::string folder;                        // checkpoints/
    Index keep = 3;                            // of the newest ones
    Index keep_every = 0;                      // steps whose checkpoints are never pruned; 0 for none
    bool wide = false;                         // whether the model's files are f32 also when the run is in bf16
    bool background = false;                   // whether files are written by a thread, from copies, while training goes on
    Index largest_file = Index{4} << 30;       // bytes of a model or optimizer file; a single tensor may be more
    NameTable names;                           // of the model's tensors in its files; the optimizer's have our names
    std::map<std::string, std::string> texts;  // further files by name, such as config.json
  };
  explicit CheckpointWriter(Settings settings);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();

  /// Collective. Takes the run's state as it is now; `files` and `optimizer` of it are filled in. Waits for a checkpoint that is still
  /// being written. When a rank fails to write (a full disk), every rank throws AgreedError and what was there before stays.
  void save(Context&, Mesh&, ParameterStore&, const std::vector<State*>& states, ShardedAdamW&, CheckpointState);

  /// Whether this rank still has a checkpoint that is not committed.
  bool pending() const noexcept { return job_ != nullptr; }
  /// Whether this rank's files of it are written, or have failed: when that is so on all ranks, finish() does not wait.
  bool written() const noexcept;
  /// Collective: waits for the files and commits them. Throws AgreedError as `save` does. Nothing when none is pending.
  void finish(Context&, Mesh&);
  /// The folder that was committed last; empty before the first.
  const std::string& newest() const noexcept { return newest_; }

 private:
  struct Job;
  void commit(const std::vector<std::string>& reports);
  Settings settings_;
  std::unique_ptr<Job> job_;
  std::string newest_;
};

}  // namespace yard
