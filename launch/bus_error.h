#pragma once

namespace yard {

/// From now on SIGBUS, which the kernel sends when a page of a mapped file cannot be read or written, ends the process with exit code 1 and
/// a sentence on stderr that names the file: it became shorter after it was opened, its disk failed, or its file system is full.
void report_bus_errors();

}  // namespace yard
