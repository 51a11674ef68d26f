# What every target is built with, and the two functions that make libraries and tests out of folders.
include(CheckCXXCompilerFlag)

add_library(yard_options INTERFACE)
target_compile_features(yard_options INTERFACE cxx_std_20)
target_include_directories(yard_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
# yard_cxx_options(option...): for the C++ compiler; nvcc has flags of its own.
function(yard_cxx_options)
  foreach(option ${ARGN})
    target_compile_options(yard_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${option}>)
  endforeach()
endfunction()
yard_cxx_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough)
# Vectors of 16 floats (core/ops/host/lanes.h) are split where the processor has no AVX-512. g++ then warns that their calling convention
# depends on -march; none crosses the boundary of a library.
yard_cxx_options(-Wno-psabi)
if(YARD_WERROR)
  yard_cxx_options(-Werror)
endif()
# Kernels are written as plain loops: let the compiler use the widest vectors of the machine it builds on. Sums are reordered only where a
# loop says so (omp simd reduction), so that results do not depend on how a compiler feels about a loop.
option(YARD_NATIVE "Build for the processor of this machine (-march=native)" ON)
if(YARD_NATIVE)
  yard_cxx_options(-march=native)
  # For Intel's processors g++ halves the vectors by itself, though the products beside our loops use whole ones: SwiGLU's backward pass
  # takes 1.4 times as long in halves.
  check_cxx_compiler_flag(-mprefer-vector-width=512 YARD_HAS_VECTOR_WIDTH)
  if(YARD_HAS_VECTOR_WIDTH)
    yard_cxx_options(-mprefer-vector-width=512)
  endif()
endif()
yard_cxx_options($<$<CONFIG:Release>:-O3> -fno-math-errno -fno-trapping-math)
if(YARD_SANITIZE)
  yard_cxx_options(-fsanitize=${YARD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(yard_options INTERFACE -fsanitize=${YARD_SANITIZE})
endif()
# g++ 12 gives these warnings for correct code in the standard library's own headers (GCC bug 105651), depending on the processor
# (-march=native), the sanitizer and even the length of the source's path.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  yard_cxx_options(-Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
  if(YARD_SANITIZE)
    yard_cxx_options(-Wno-maybe-uninitialized)
  endif()
endif()
# The checks left out find little that the address sanitizer does not, and make a third of the build's time.
if(YARD_SANITIZE MATCHES address)
  yard_cxx_options(-fno-sanitize=null,object-size,vptr)
endif()
# Device code calls constexpr functions of the host's headers, such as those of BFloat16 and Random. The assembler refuses kernels that keep
# registers in memory; its report of each kernel's registers is in the build's output.
target_compile_options(yard_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-lineinfo;-Xptxas=-v,--warn-on-spills;-Xcompiler=-Wall,-Wextra,-Wshadow>"
  "$<$<AND:$<BOOL:${YARD_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings;-Xptxas=--warning-as-error;-Xcompiler=-Werror>")
target_link_libraries(yard_options INTERFACE OpenMP::OpenMP_CXX Threads::Threads)

configure_file(${PROJECT_SOURCE_DIR}/core/build_config.h.in ${PROJECT_BINARY_DIR}/core/build_config.h @ONLY)
if(YARD_CUDA_CONSTANT)
  configure_file(${PROJECT_SOURCE_DIR}/core/device/cuda_language.h.in ${PROJECT_BINARY_DIR}/core/device/cuda_language.h @ONLY)
endif()
configure_file(${PROJECT_SOURCE_DIR}/launch/build_info.h.in ${PROJECT_BINARY_DIR}/launch/build_info.h @ONLY)

# Half of a source's compile time is these headers. A source still includes what it uses: clang-tidy reads it without them.
set(yard_common_headers <fmt/format.h> <algorithm> <array> <cmath> <filesystem> <functional> <map> <memory> <optional> <span> <string> <vector>)

# yard_library(name libraries...): every .cc below the current folder, and where CUDA is built every .cu.
function(yard_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  if(YARD_CUDA_CONSTANT)
    file(GLOB_RECURSE twins CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
    list(APPEND sources ${twins})
  endif()
  if(YARD_CUDA STREQUAL emulated)
    set_source_files_properties(${twins} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-Wno-unknown-pragmas" SKIP_PRECOMPILE_HEADERS ON)
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC yard_options ${ARGN})
  target_precompile_headers(${name} PRIVATE ${yard_common_headers})
endfunction()

# yard_table(target FOLDER folder SUFFIX suffix TYPE type HEADER header FUNCTION function): generates `std::vector<type> function()` from the
# names of a folder's .cc files. NAME.cc defines `type NAME<suffix>()`; the header declares the type and the function. A file is all that an
# entry needs: no list to edit, and no initialisers of static objects, which a linker drops from libraries.
function(yard_table target)
  cmake_parse_arguments(table "" "FOLDER;SUFFIX;TYPE;HEADER;FUNCTION" "" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${table_FOLDER}/*.cc)
  set(declarations "")
  set(entries "")
  foreach(source ${sources})
    cmake_path(GET source STEM name)
    string(APPEND declarations "${table_TYPE} ${name}${table_SUFFIX}();\n")
    string(APPEND entries "      ${name}${table_SUFFIX}(),\n")
  endforeach()
  set(output ${PROJECT_BINARY_DIR}/${table_FOLDER}/${table_FUNCTION}.cc)
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
"// Generated from the names of the files in @table_FOLDER@.
#include \"@table_HEADER@\"

namespace yard {

@declarations@
std::vector<@table_TYPE@> @table_FUNCTION@() {
  return {
@entries@  };
}

}  // namespace yard
")
  target_sources(${target} PRIVATE ${output})
endfunction()

# yard_protos(name files...): messages, generated so that "proto/config.proto" is included as "proto/config.pb.h" from anywhere.
# Not protobuf_generate: it writes to the build folder's top, where no include from the root finds it.
function(yard_protos name)
  foreach(file ${ARGN})
    file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR} ${file})
    string(REGEX REPLACE "\\.proto$" ".pb" stem ${PROJECT_BINARY_DIR}/${path})
    add_custom_command(OUTPUT ${stem}.cc ${stem}.h COMMAND protobuf::protoc --cpp_out=${PROJECT_BINARY_DIR} -I ${PROJECT_SOURCE_DIR} ${file}
                       DEPENDS ${file} COMMENT "Generating ${path}" VERBATIM)
    set_source_files_properties(${stem}.cc PROPERTIES COMPILE_OPTIONS -w)
    target_sources(${name} PRIVATE ${stem}.cc ${stem}.h)
  endforeach()
endfunction()
