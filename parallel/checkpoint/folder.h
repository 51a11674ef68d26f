#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "proto/checkpoint.pb.h"

namespace yard {

/// The folders of a run's checkpoints:
///   step-00000100/      a complete one: it has state.json
///   step-00000100.tmp/  one that is being written, or was when the job died
///   latest              a text file with the name of the newest complete one
///   step-00000100.left/ one after which the run went back to an earlier one, kept but not taken again
/// A complete folder appears by a rename, and `latest` follows by another.

std::string checkpoint_name(std::int64_t step);

/// state.json as text: protobuf's JSON with its numbers as numbers.
std::string to_json(CheckpointState state);
/// Reads FOLDER/state.json; throws InputError that names what is wrong. The files it names are not looked at.
CheckpointState read_state(const std::string& folder);
/// What is wrong with a checkpoint's files, in one sentence, or nothing. Their contents are read when `checksums` is set.
std::string damage_of(const std::string& folder, const CheckpointState&, bool checksums);

/// The newest complete checkpoint below a folder, as `latest` names it; empty when there is none. Where `latest` names none, it is the
/// newest one whose files have their sizes, and `note` gets a sentence that says so.
std::string latest_checkpoint(const std::string& folder, std::string* note = nullptr);
/// A folder with a model from what a person names: a checkpoint, a Hugging Face directory, or a run directory, whose latest checkpoint it
/// then is. Throws InputError when there is none.
std::string find_checkpoint(const std::string& path, std::string* note = nullptr);

/// The newest checkpoint below a folder whose files have their sizes and checksums; empty when there is none. `skipped` gets a sentence for
/// each that was passed over. Collective: ranks share the reading.
std::string newest_intact_checkpoint(Communicator& control, const std::string& folder, std::vector<std::string>& skipped);

/// Removes what earlier jobs left unfinished and makes an empty STEP.tmp.
void begin_checkpoint(const std::string& folder, std::int64_t step);
/// Makes a written STEP.tmp the newest checkpoint, whatever has its name already. Throws Error.
void commit_checkpoint(const std::string& folder, std::int64_t step);
/// Removes all but the newest `keep` and those whose step is a multiple of keep_every.
void prune_checkpoints(const std::string& folder, std::int64_t keep, std::int64_t keep_every);
/// When a run goes back to a step, renames the checkpoints of later steps to STEP.left; returns a sentence for each.
std::vector<std::string> leave_later_checkpoints(const std::string& folder, std::int64_t step);

}  // namespace yard
