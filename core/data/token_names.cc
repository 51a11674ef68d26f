#include "core/data/token_names.h"

#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace yard {

namespace {

using FileId = std::pair<dev_t, ino_t>;

bool is_file(const std::string& path) {
  struct stat found {};
  return ::stat(path.c_str(), &found) == 0 && !S_ISDIR(found.st_mode);
}

/// Whether a name is that of a file, or of a Megatron prefix.
bool exists(const std::string& name) { return is_file(name) || is_file(name + ".bin") || is_file(name + ".idx"); }

/// The name of the file with the tokens that a name stands for.
std::string tokens_of(const std::string& name) {
  if (name.ends_with(".idx")) return name.substr(0, name.size() - 4) + ".bin";
  return !is_file(name) && is_file(name + ".bin") ? name + ".bin" : name;
}

/// What a path leads to, whichever of its names it has; {0, 0} for one that does not exist.
FileId file_id(const std::string& name) {
  struct stat found {};
  if (::stat(tokens_of(name).c_str(), &found) != 0) return {};
  return {found.st_dev, found.st_ino};
}

/// Parts of a list between commas without a backslash before them. Backslashes stay.
std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      parts.back() += text[i++];
      parts.back() += text[i];
    } else if (text[i] == ',') {
      parts.emplace_back();
    } else {
      parts.back() += text[i];
    }
  }
  std::erase(parts, std::string());
  return parts;
}

/// A name without the backslashes, and whether it is a pattern: one of its special characters has none before it.
std::pair<std::string, bool> unescaped(const std::string& name) {
  std::string plain;
  bool pattern = false;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '\\' && i + 1 < name.size()) {
      plain += name[++i];
    } else {
      pattern = pattern || std::string_view("*?[").find(name[i]) != std::string_view::npos;
      plain += name[i];
    }
  }
  return {plain, pattern};
}

/// The files that a pattern matches, each once, in sorted order.
std::vector<std::string> matches(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  check_input(!paths.empty(), "no token file matches ", pattern);
  std::vector<std::string> names;
  std::set<FileId> seen;
  for (const std::string& path : paths) {
    check_input(!path.ends_with(".tmp"), "the pattern ", pattern, " matches ", path,
                ", which is not complete: wait for the program that writes it, remove the file, or give a pattern such as *.bin");
    check_input(!path.ends_with(".idx") || is_file(tokens_of(path)), "the pattern ", pattern, " matches ", path, ", but ", tokens_of(path),
                " does not exist: an index has no tokens without it");
    if (seen.insert(file_id(path)).second) names.push_back(path);
  }
  return names;
}

}  // namespace

std::vector<std::string> token_file_names(const std::string& names) {
  if (exists(names)) return {names};
  std::vector<std::string> files;
  std::map<FileId, std::string> seen;
  for (const std::string& part : split_list(names)) {
    const auto [plain, pattern] = unescaped(part);
    const bool literal = !pattern || exists(part) || exists(plain);
    for (const std::string& name : literal ? std::vector<std::string>{exists(part) ? part : plain} : matches(part)) {
      if (const FileId id = file_id(name); id != FileId()) {
        const auto [earlier, first] = seen.emplace(id, name);
        check_input(first, "the token file ", name, " is named twice in '", names, "'",
                    earlier->second == name ? "" : ", first as " + earlier->second, ": name each file once");
      }
      files.push_back(name);
    }
  }
  check_input(!files.empty(), "no token file is named");
  return files;
}

}  // namespace yard
