# shellcheck shell=bash
# What launch/quickstart and tests/run share: messages, packages, building, and an environment in which mpirun works. To be sourced from
# bash with `set -euo pipefail`; the caller's working directory becomes the root of the repository.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
shopt -s inherit_errexit
export LC_ALL=C
on_terminal=0
if [ -t 1 ]; then on_terminal=1; fi

say() { printf '%s\n' "$*"; }
stop() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
misuse() {
  printf '%s: %s; see %s --help\n' "${0##*/}" "$*" "$0" >&2
  exit 2
}

# duration SECONDS: in words that a person would use.
duration() {
  local seconds=$1
  if [ "$seconds" -lt 90 ]; then
    printf '%d s' "$seconds"
  else
    printf '%d min %02d s' $((seconds / 60)) $((seconds % 60))
  fi
}

# cores: processors that this process may use at once; a container's quota counts, which nproc does not know.
cores() {
  local count quota period
  count=$(nproc)
  quota=max
  if [ -r /sys/fs/cgroup/cpu.max ]; then
    read -r quota period </sys/fs/cgroup/cpu.max
  elif [ -r /sys/fs/cgroup/cpu/cpu.cfs_quota_us ]; then
    quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)
    period=$(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)
  fi
  if [ "$quota" != max ] && [ "$quota" -gt 0 ]; then
    quota=$(((quota + period - 1) / period))
    if [ "$quota" -lt "$count" ]; then count=$quota; fi
  fi
  printf '%d' "$count"
}

# build_jobs: compilers to run at once; each may need 1.5 GB.
build_jobs() {
  local count memory limit
  count=$(cores)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
  if [ -r /sys/fs/cgroup/memory.max ]; then
    limit=$(cat /sys/fs/cgroup/memory.max)
    if [ "$limit" != max ] && [ $((limit / 1048576)) -lt "$memory" ]; then memory=$((limit / 1048576)); fi
  fi
  limit=$((memory / 1500))
  if [ "$limit" -lt 1 ]; then limit=1; fi
  if [ "$limit" -lt "$count" ]; then count=$limit; fi
  printf '%d' "$count"
}

# ---------------------------------------------------------------------------------------------------------------------------- packages

# packages KIND...: the names behind `KIND:` in launch/packages.txt.
packages() {
  local kind
  for kind in "$@"; do sed -n "s/^$kind: *//p" launch/packages.txt; done | tr -s ' ' '\n'
}

# missing_packages NAME...: those of them that are not installed, one a line.
missing_packages() {
  local installed
  # shellcheck disable=SC2016  # the braces are dpkg-query's
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u) || true
  printf '%s\n' "$@" | sort -u | comm -23 - <(printf '%s\n' "$installed")
}

# may_be_root: whether as_root works here; asks for the password where there is a terminal to ask at.
may_be_root() {
  [ "$(id -u)" -eq 0 ] && return 0
  command -v sudo >/dev/null || return 1
  sudo -n true 2>/dev/null && return 0
  [ -t 0 ] && sudo -v
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_get ARGUMENTS...: as root, never asking, waiting for another apt that holds the lock.
apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
    -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@" </dev/null
}

# refresh_package_lists LOG: a foreign source that fails must not stop the rest, so that what counts is whether the packages can be had.
refresh_package_lists() {
  say "Fetching the lists of packages."
  apt_get update >>"$1" 2>&1 || true
}

# need_packages KIND...: installs what launch/packages.txt names and this machine lacks; says what and how long; nothing when all is there.
need_packages() {
  local missing log=build/packages.log start=$SECONDS
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "This is no Debian: the packages of launch/packages.txt are taken to be there."
    return
  fi
  # shellcheck disable=SC2046  # one word a package
  mapfile -t missing < <(missing_packages $(packages "$@"))
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  if ! may_be_root; then
    say "${#missing[@]} packages are missing, and installing them needs root. Let somebody with the right to do so type:" >&2
    say "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  mkdir -p build
  : >"$log"
  say "Installing ${#missing[@]} Debian packages, usually two to five minutes: ${missing[*]}"
  if ! apt_get install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    refresh_package_lists "$log"
    apt_get install --no-install-recommends "${missing[@]}" >>"$log" 2>&1 || {
      grep -E '^(E|Err|W):' "$log" | tail -n 5 >&2 || true
      stop "the packages could not be installed; $log says why"
    }
  fi
  say "Installed in $(duration $((SECONDS - start)))."
}

# ---------------------------------------------------------------------------------------------------------------------------- building

# follow LOG PID: shows ninja's newest count while PID runs: one line that keeps itself current, or a line a minute.
follow() {
  local count last='' tick=0
  while kill -0 "$2" 2>/dev/null; do
    count=$(grep -a -o '^\[[0-9]*/[0-9]*\]' "$1" 2>/dev/null | tail -n 1) || true
    if [ -n "$count" ] && [ "$count" != "$last" ]; then
      if [ "$on_terminal" -eq 1 ]; then
        printf '\r  %s ' "$count"
        last=$count
      elif [ $((tick % 60)) -eq 59 ]; then
        printf '  %s\n' "$count"
        last=$count
      fi
    fi
    sleep 1
    tick=$((tick + 1))
  done
  if [ "$on_terminal" -eq 1 ]; then printf '\r                    \r'; fi
}

# missing_objects PRESET TARGET...: how many files a first build still has to compile. (ninja -n stops at the check for new source files.)
missing_objects() {
  local count=0 object
  while read -r object; do
    if [ ! -e "build/$1/$object" ]; then count=$((count + 1)); fi
  done < <(ninja -C "build/$1" -t commands "${@:2}" 2>/dev/null | sed -n 's/.* -o \([^ ]*\.o\) .*/\1/p')
  printf '%d' "$count"
}

cmake_options=()

# build PRESET TARGET...: configures build/PRESET, with ${cmake_options[@]}, and builds the targets there; says how long it will take.
build() {
  local preset=$1 log="build/$1.log" jobs steps start=$SECONDS pid
  shift
  mkdir -p build
  if command -v ccache >/dev/null && [ ! -e "build/$preset/CMakeCache.txt" ]; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR=$root CCACHE_SLOPPINESS=pch_defines,time_macros
  fi
  if ! cmake --preset "$preset" "${cmake_options[@]}" >"$log" 2>&1 </dev/null; then
    grep -A 4 'CMake Error' "$log" | head -n 12 >&2 || true
    stop "configuring build/$preset failed; $log says why (a build folder that was moved here must be deleted first)"
  fi
  jobs=$(build_jobs)
  steps=$(missing_objects "$preset" "$@")
  # A file takes one core about eight seconds: -O3 on templates and long vectors.
  if [ "$steps" -gt 0 ]; then
    say "Building $steps files in build/$preset, $jobs at once: about $(duration $((steps * 8 / jobs + 1))) on this machine."
  fi
  ninja -C "build/$preset" -j "$jobs" "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  follow "$log" "$pid"
  if ! wait "$pid"; then
    grep -a -m 1 -A 12 '^FAILED:' "$log" >&2 || tail -n 12 "$log" >&2
    stop "building failed; $log holds every message"
  fi
  if [ "$steps" -gt 0 ]; then say "Built in $(duration $((SECONDS - start)))."; fi
}

# ---------------------------------------------------------------------------------------------------------------------------- mpirun

# clean_mpi_environment: what an outer mpirun, Slurm job or a habit left behind would make an mpirun on this machine ask the wrong daemon,
# wait for a batch system, or take other parameters than the ones given here.
clean_mpi_environment() {
  local name
  while read -r name; do
    case $name in
      OMPI_* | PMIX_* | PMI_* | PMI2_* | ORTE_* | PRTE_* | OPAL_* | HYDRA_* | MPIEXEC_* | SLURM_* | SLURMD_* | SLURM | SRUN_* | PBS_* | LSB_* | OAR_*) unset "$name" ;;
    esac
  done < <(compgen -e)
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  # Open MPI keeps sockets below TMPDIR, and a socket's path may have 107 bytes.
  local temporary=${TMPDIR:-/tmp}
  if [ "${#temporary}" -gt 40 ]; then export TMPDIR=/tmp; fi
}

# reads_other_processes: whether process_vm_readv works here; containers may forbid it, and Open MPI then fails in the middle of a transfer.
reads_other_processes() {
  # shellcheck disable=SC2016  # perl's dollars
  perl -e '
    my %call = (x86_64 => 310, aarch64 => 270);
    my $number = $call{(split " ", `uname -m`)[0]} or exit 1;
    my ($there, $here) = ("x" x 8, "y" x 8);
    pipe my $in, my $out or exit 1;
    my $child = fork;
    defined $child or exit 1;
    if (!$child) { close $out; readline $in; exit 0 }
    my $read = syscall $number, $child, pack("QQ", unpack("Q", pack "p", $here), 8), 1, pack("QQ", unpack("Q", pack "p", $there), 8), 1, 0;
    close $out;
    waitpid $child, 0;
    exit($read == 8 && $here eq $there ? 0 : 1)' 2>/dev/null
}

# mpi RANKS COMMAND...: the command on that many ranks of this machine; the plain command for one.
# mpirun gives every rank a pseudo-terminal, so that the program must be told whether the screen is one. Shared memory only; binding is off because one or two ranks would get one core each, whatever their threads; more ranks than cores yield.
mpi() {
  local ranks=$1 mpirun shared options
  shift
  if [ "$ranks" -eq 1 ]; then
    "$@" </dev/null
    return
  fi
  mpirun=$(command -v mpirun.openmpi || command -v mpirun) || stop "mpirun is missing: install Open MPI (openmpi-bin)"
  options=(-q -np "$ranks" --oversubscribe --bind-to none -x "SWITCHYARD_TERMINAL=$on_terminal" --mca pml ob1 --mca btl "self,vader")
  if ! reads_other_processes; then options+=(--mca btl_vader_single_copy_mechanism none); fi
  if [ "$ranks" -gt "$(cores)" ]; then options+=(--mca mpi_yield_when_idle 1); fi
  # Each rank maps a segment of 4 MiB and more for long messages; a container's /dev/shm of 64 MiB may be nearly full.
  shared=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1) || shared=0
  if [ "${shared:-0}" -lt $((ranks * 16384)) ]; then options+=(--mca btl_vader_backing_directory "${TMPDIR:-/tmp}"); fi
  "$mpirun" "${options[@]}" "$@" </dev/null
}

# ---------------------------------------------------------------------------------------------------------------------------- small files

# fresh STAMP KEY: whether the step behind STAMP was done with the same inputs; KEY is what it depends on.
fresh() { [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# checksum FILE...: one word that changes with their contents.
checksum() { sha256sum "$@" | awk '{print $1}' | sha256sum | awk '{print $1}'; }

# json_number FILE KEY: the number that a flat JSON object has there; stops when there is none.
json_number() {
  local value
  value=$(sed -n "s/.*\"$2\" *: *\\(-\\{0,1\\}[0-9][-+0-9.eE]*\\).*/\\1/p" "$1" | tail -n 1)
  if [ -z "$value" ]; then stop "$1 holds no number named $2"; fi
  printf '%s' "$value"
}
