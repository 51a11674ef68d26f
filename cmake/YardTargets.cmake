# What every target is built with, and the two functions that make libraries and tests out of folders.

add_library(yard_options INTERFACE)
target_compile_features(yard_options INTERFACE cxx_std_20)
target_include_directories(yard_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_options(yard_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough)
if(YARD_WERROR)
  target_compile_options(yard_options INTERFACE -Werror)
endif()
# Kernels are written as plain loops: let the compiler use the widest vectors of the machine it builds on. Sums are reordered only where a
# loop says so (omp simd reduction), so that results do not depend on how a compiler feels about a loop.
option(YARD_NATIVE "Build for the processor of this machine (-march=native)" ON)
if(YARD_NATIVE)
  target_compile_options(yard_options INTERFACE -march=native)
endif()
target_compile_options(yard_options INTERFACE $<$<CONFIG:Release>:-O3> -fno-math-errno -fno-trapping-math)
if(YARD_SANITIZE)
  target_compile_options(yard_options INTERFACE -fsanitize=${YARD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(yard_options INTERFACE -fsanitize=${YARD_SANITIZE})
endif()
# With this sanitizer g++ warns of values in the standard library's own headers, on some processors; the release build keeps the warning.
# The checks left out find little that the address sanitizer does not, and make a third of the build's time.
if(YARD_SANITIZE MATCHES address)
  target_compile_options(yard_options INTERFACE -Wno-maybe-uninitialized -fno-sanitize=null,object-size,vptr)
endif()
target_link_libraries(yard_options INTERFACE OpenMP::OpenMP_CXX Threads::Threads)

configure_file(${PROJECT_SOURCE_DIR}/core/build_config.h.in ${PROJECT_BINARY_DIR}/core/build_config.h @ONLY)
configure_file(${PROJECT_SOURCE_DIR}/launch/build_info.h.in ${PROJECT_BINARY_DIR}/launch/build_info.h @ONLY)

# Half of a source's compile time is these headers. A source still includes what it uses: clang-tidy reads it without them.
set(yard_common_headers <fmt/format.h> <algorithm> <array> <cmath> <filesystem> <functional> <map> <memory> <optional> <span> <string> <vector>)

# yard_library(name libraries...): every .cc below the current folder.
function(yard_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC yard_options ${ARGN})
  target_precompile_headers(${name} PRIVATE ${yard_common_headers})
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
